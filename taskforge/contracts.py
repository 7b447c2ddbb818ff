"""Writes or checks `contracts/`: what others may rely on, each file made from the code that keeps the promise.

`python -m taskforge.contracts` writes the files, `--check` says which of them are out of date and exits 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import orjson


def _openapi() -> bytes:
    from taskforge.api.openapi import openapi_bytes
    from taskforge.api.routes import ROUTES

    return openapi_bytes(ROUTES)


def _workflow_schema() -> bytes:
    from taskforge.core.workflow_schema import workflow_schema
    from taskforge.steps.registry import load_kinds

    return _json(workflow_schema(load_kinds()))


def _config_schema() -> bytes:
    from taskforge.config.schema import config_schema

    return _json(config_schema())


def _states() -> bytes:
    from taskforge.core.states import table

    return _json(table())


def _errors() -> bytes:
    # Refusals are found by walking the tree of classes: the modules that add to it have to be there.
    for module in ("taskforge.config.home", "taskforge.config.lock", "taskforge.config.reading"):
        import_module(module)
    from taskforge.core.errors import FAILURE_CODES, refusal_codes
    from taskforge.core.reasons import DECISION_CODES

    failures, decisions = dict(sorted(FAILURE_CODES.items())), dict(sorted(DECISION_CODES.items()))
    return _json({"refusals": refusal_codes(), "failures": failures, "decisions": decisions})


def _cli() -> bytes:
    from taskforge.cli.reference import cli_reference

    return cli_reference().encode()


Maker = Callable[[], bytes]

CONTRACTS: Final[tuple[tuple[str, Maker], ...]] = (
    ("openapi.json", _openapi),
    ("workflow.schema.json", _workflow_schema),
    ("config.schema.json", _config_schema),
    ("states.json", _states),
    ("errors.json", _errors),
    ("cli.txt", _cli),
)
"""Every contract: its file and what makes it."""


def write(folder: Path) -> list[str]:
    """Write all contracts; returns the names of those that changed."""
    folder.mkdir(exist_ok=True)
    changed = check(folder)
    for name, make in CONTRACTS:
        if name in changed:
            (folder / name).write_bytes(make())
    return changed


def check(folder: Path) -> list[str]:
    """The names of contracts that are missing or differ from what the code says."""
    return [name for name, make in CONTRACTS if _read(folder / name) != make()]


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code 0, or 1 when `--check` found drift."""
    parser = argparse.ArgumentParser(prog="python -m taskforge.contracts", description="Write or check contracts/.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file is out of date")
    parser.add_argument("--dir", type=Path, default=Path("contracts"), help="the folder (default: contracts)")
    chosen = parser.parse_args(arguments)
    names = check(chosen.dir) if chosen.check else write(chosen.dir)
    for name in names:
        sys.stdout.write(f"{chosen.dir / name}: {'out of date' if chosen.check else 'written'}\n")
    if chosen.check and names:
        sys.stderr.write("run python -m taskforge.contracts and commit what changes\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
