"""Files: written whole, held by one process, read with a word about what is broken, named below a folder."""

from __future__ import annotations

from thoraxlib.utils.files.addresses import address
from thoraxlib.utils.files.environment import is_environment_error
from thoraxlib.utils.files.json_files import parse_json, read_json, write_json
from thoraxlib.utils.files.names import below, printable
from thoraxlib.utils.files.opening import open_regular, read_regular
from thoraxlib.utils.files.runs import alone, goes_on
from thoraxlib.utils.files.whole import discard_scratch, replacing
from thoraxlib.utils.files.zips import check_stored, unzipping

__all__ = [
    "address",
    "alone",
    "below",
    "check_stored",
    "discard_scratch",
    "goes_on",
    "is_environment_error",
    "open_regular",
    "parse_json",
    "printable",
    "read_json",
    "read_regular",
    "replacing",
    "unzipping",
    "write_json",
]
