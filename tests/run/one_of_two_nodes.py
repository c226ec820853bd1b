"""Run by `test_two_processes.py`: the command line on a file system that shows a file at once or never."""

from __future__ import annotations

import sys

from foundation.cli import main
from foundation.run import environment

if __name__ == "__main__":
    environment.SHARED_SECONDS = 2.0
    sys.exit(main(sys.argv[1:]))
