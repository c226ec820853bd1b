"""`python -m foundation` is the command line."""

from __future__ import annotations

import sys

from foundation.cli import main

if __name__ == "__main__":
    sys.exit(main())
