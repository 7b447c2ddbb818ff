"""`python -m tests.bench.normal_server serve …`: a server that does not sync each commit (synchronous=NORMAL).

Only to see what FULL costs; nobody should run it.
"""

from __future__ import annotations

import sys

from taskforge.cli.main import run_command_line
from taskforge.store.sqlite import connection

if __name__ == "__main__":
    connection._WRITER["synchronous"] = 1
    sys.exit(run_command_line(sys.argv[1:]))
