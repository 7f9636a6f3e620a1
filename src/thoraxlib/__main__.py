"""Run the command: ``python -m thoraxlib``."""

import sys

from thoraxlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
