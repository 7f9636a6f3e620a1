"""``python -m thoraxlib.prepare SOURCE ... DESTINATION``: films of any kind to a training copy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from thoraxlib.images.preparation import prepare
from thoraxlib.input_spec import InputSpec

__all__ = ["main", "window_of"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run :func:`thoraxlib.images.prepare`; 1 where films failed, 2 after an error that ended the call, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m thoraxlib.prepare",
        description="Convert and resize folders, zip archives or buckets of DICOM, PNG and JPEG films to a training "
        "copy. The same call goes on after an interruption.",
    )
    parser.add_argument("source", nargs="+", help="folders or zip archives, local or gs://, s3://")
    parser.add_argument("destination", help="a local folder")
    parser.add_argument("--size", type=int, nargs="+", default=[256], help="side, or height and width (256)")
    parser.add_argument("--resize", default="pad", help="pad (keeps the aspect ratio, default), pad_end, crop, stretch")
    parser.add_argument("--bits", type=int, help="bits in use in deep PNG files (16)")
    parser.add_argument(
        "--window", type=window_of, help="bits, percentiles, minmax, CENTRE,WIDTH, or a number for DICOM"
    )
    parser.add_argument("--pattern", help="of file names; by default *.png, *.jpg, *.jpeg, *.dcm, *.dicom")
    parser.add_argument("--workers", type=int, help="processes; by default one for each CPU")
    options = vars(parser.parse_args(argv))
    size = options.pop("size")
    if len(size) > 2:
        parser.error(f"--size takes a side, or height and width, got {len(size)} numbers")
    try:
        spec = InputSpec(size=(size[0], size[-1]), resize=options.pop("resize"))
        copy = prepare(**options, spec=spec)
    except (OSError, MemoryError, ValueError, ImportError, RuntimeError) as error:
        print("error:", "; ".join((str(error), *getattr(error, "__notes__", ()))), file=sys.stderr)
        return 2
    print(copy)
    return 1 if copy.failures else 0


def window_of(text: str) -> object:
    """What a flag says of a window; see :func:`thoraxlib.images.read`."""
    if "," in text:
        centre, width = text.split(",")
        return float(centre), float(width)
    return int(text) if text.isdecimal() else text


if __name__ == "__main__":
    sys.exit(main())
