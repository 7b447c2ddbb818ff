"""`python -m tests.bench.size`: what an installation takes on the disk, less an empty virtual environment.

Makes two virtual environments in a temporary directory and installs this checkout into one of them; needs the package
index. Prints MiB of files, of disk blocks, and the largest packages.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
_SHOWN = 10


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        empty, full = Path(name, "empty"), Path(name, "full")
        for place in (empty, full):
            venv.create(place, with_pip=True)
        python = full / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        constraints = ROOT / "packaging" / "constraints.txt"
        install = [str(python), "-m", "pip", "install", "-q", "-c", str(constraints), str(ROOT)]
        subprocess.run(install, check=True, stderr=subprocess.DEVNULL)
        before, after = _sizes(empty), _sizes(full)
        print(f"files {_mib(after[0] - before[0])} MiB, disk blocks {_mib(after[1] - before[1])} MiB")
        packages = next(full.glob("[Ll]ib/**/site-packages"))
        found = {part.name: _sizes(part)[1] for part in packages.iterdir() if part.name not in ("pip", "setuptools")}
        for part in sorted(found, key=found.__getitem__, reverse=True)[:_SHOWN]:
            print(f"{_mib(found[part]):>8}  {part}")


def _sizes(place: Path) -> tuple[int, int]:
    """Bytes of the files, and of the blocks that they take."""
    status = [path.lstat() for path in (place, *place.rglob("*"))]
    return sum(one.st_size for one in status), sum(getattr(one, "st_blocks", 0) * 512 for one in status)


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"


if __name__ == "__main__":
    main()
