"""The command ``thoraxlib``, also ``python -m thoraxlib``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 if some images failed, or 2 after an error that ended the call."""
    parser = argparse.ArgumentParser(prog="thoraxlib")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_prepare(commands.add_parser("prepare", help="convert and resize an archive", description=_PREPARE))
    _add_weights(commands.add_parser("weights", help="published weights: list, show, fetch"))
    options = vars(parser.parse_args(argv))
    run = options.pop("run")
    try:
        status: int = run(**options)
    except (OSError, MemoryError, ValueError, ImportError, LookupError, RuntimeError) as error:
        print("error:", "; ".join((str(error), *getattr(error, "__notes__", ()))), file=sys.stderr)
        return 2
    return status


_PREPARE = (
    "Convert and resize folders, zip archives or buckets of DICOM, PNG and JPEG images to a training copy. The same "
    "call resumes after an interruption."
)


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="+", help="folders or zip archives, local or gs://, s3://")
    parser.add_argument("output", help="a local folder")
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="side, or height and width (256)")
    parser.add_argument("--resize", default="pad", help="pad (keeps the aspect ratio, default), pad_end, crop, stretch")
    parser.add_argument("--bits", type=int, help="bits in use in deep PNG files (16)")
    parser.add_argument(
        "--window", type=window_of, help="bits, percentiles, minmax, CENTRE,WIDTH, or a number for DICOM"
    )
    parser.add_argument("--pattern", help="of file names; by default *.png, *.jpg, *.jpeg, *.dcm, *.dicom")
    parser.add_argument("--num-workers", type=int, help="processes; by default one for each CPU")
    parser.set_defaults(run=_prepare)


def _prepare(*, size: Sequence[int], resize: str, **options: object) -> int:
    from thoraxlib.archives import prepare
    from thoraxlib.input_spec import InputSpec

    if len(size) > 2:
        raise ValueError(f"--size takes a side, or height and width, got {len(size)} numbers")
    copy = prepare(**options, spec=InputSpec(size=(size[0], size[-1]), resize=resize))  # type: ignore[arg-type]
    print(copy)
    return 1 if copy.failures else 0


def _add_weights(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="names and summaries")
    listing.add_argument("pattern", nargs="?", default="*", help="of names, such as 'chexnet*' (all)")
    for action, does in (("show", "print the card"), ("fetch", "download and verify the file, and print its path")):
        actions.add_parser(action, help=does).add_argument("name")
    parser.set_defaults(run=_weights)


def _weights(*, action: str, pattern: str = "*", name: str = "") -> int:
    from thoraxlib import weights

    if action == "list":
        for each in weights.names(pattern):
            card = weights.describe(each)
            print(f"{each:32}{card.kind:11}{card.summary}")
    else:
        print(weights.describe(name) if action == "show" else weights.fetch(name))
    return 0


def window_of(text: str) -> object:
    """Parse a grey window; see :func:`thoraxlib.images.read`."""
    if "," in text:
        centre, width = text.split(",")
        return float(centre), float(width)
    return int(text) if text.isdecimal() else text
