"""`python -m taskforge`, and the console script."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line with this process's arguments; returns the exit code."""
    from taskforge.cli.main import run_command_line

    return run_command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
