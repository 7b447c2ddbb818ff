"""The schema and the statements: states are those of the one table, and no verb reads a whole table."""

from __future__ import annotations

import re
from pathlib import Path

import apsw
import pytest

import taskforge.store.sqlite
from taskforge.core.states import AttemptState, DeadLetterState, RunState, StepState
from taskforge.store.migrate import load_migrations
from taskforge.store.sql import load_queries
from taskforge.store.sqlite.opening import prepare

QUERIES = load_queries("sqlite")

SMALL = {"counts", "tokens", "nodes", "holds", "run_ends", "secrets", "vars"}
"""Tables that hold few rows whatever happens, and may be read whole."""

PARTIAL = {"attempts_leased"}
"""Partial indexes that hold only what is in flight, and may be read whole."""

WHOLE = {"list_rates", "forget_rates", "list_sources", "prune_deliveries_oldest", "prune_deliveries_bodies"}
"""Statements that read a table whole, at the start and at each sweep of the retention, or a few rows from its end."""


@pytest.fixture
def conn(path: Path) -> apsw.Connection:
    return prepare(path, path.parent / "backups", 1).conn


@pytest.mark.parametrize(
    ("table", "states"),
    [("runs", RunState), ("step_runs", StepState), ("attempts", AttemptState), ("dead_letters", DeadLetterState)],
)
def test_a_tables_states_are_those_of_the_one_table(
    conn: apsw.Connection, table: str, states: type[RunState | StepState | AttemptState | DeadLetterState]
) -> None:
    ((sql,),) = conn.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    (listed,) = re.findall(r"state\s+TEXT NOT NULL\s+CHECK \(([^)]*)\)", str(sql))
    assert re.sub(r"\s+", " ", listed) == " OR ".join(f"state = '{state}'" for state in states)


def test_every_table_is_strict(conn: apsw.Connection) -> None:
    rows = conn.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    assert {name for name, strict in rows.fetchall() if not strict} == {"sqlite_schema", "sqlite_sequence"}


@pytest.mark.parametrize("name", [name for name in QUERIES if not name.startswith("check_") and name not in WHOLE])
def test_no_statement_of_a_verb_reads_a_whole_table(conn: apsw.Connection, name: str) -> None:
    sql = QUERIES[name]
    count = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=sql.count("?"))
    plan = [str(row[3]) for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * count).fetchall()]
    for line in plan:
        scan = re.fullmatch(r"SCAN (\S+)(?: USING (?:COVERING )?INDEX (\S+))?", line)
        if scan is not None:
            assert scan[1] in SMALL or scan[2] in PARTIAL, plan


def test_the_statements_of_the_hot_path_sort_nothing(conn: apsw.Connection) -> None:
    for name in (
        "lease_steps_due", "next_due", "run_by_id", "list_runs_newest", "list_runs_in_state", "list_journal",
        "place_first_queued", "find_oldest_placed", "list_untold_children", "list_orphans",
    ):  # fmt: skip
        sql = QUERIES[name]
        count = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=sql.count("?"))
        plan = [str(row[3]) for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * count).fetchall()]
        assert not any("TEMP B-TREE" in line for line in plan), plan


@pytest.mark.parametrize(
    "name",
    [
        "start_run_take_numbers", "start_run_step", "apply_step", "apply_run_revision", "apply_lease", "finish_attempt",
        "apply_journal", "apply_counts",
    ],
)  # fmt: skip
def test_a_write_of_the_hot_path_builds_no_table_of_its_own(conn: apsw.Connection, name: str) -> None:
    """`IN` with three values in a CHECK, or RETURNING, would."""
    sql = QUERIES[name]
    count = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=sql.count("?"))
    opcodes = [row[1] for row in conn.execute(f"EXPLAIN {sql}", (None,) * count).fetchall()]
    assert "Insert" in opcodes or "IdxInsert" in opcodes
    assert not {"OpenEphemeral", "OpenAutoindex", "SorterOpen"} & set(opcodes)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("place_first_queued", "runs_queued"),
        ("place_holders", "COVERING INDEX runs_placed"),
        ("find_oldest_placed", "COVERING INDEX runs_placed"),
        ("find_replaced", "INDEX runs_placed (place=?)"),
        ("parent_ended", "INDEX runs_children (parent_key=? AND told=?)"),
        ("step_ended", "INDEX runs_children (parent_key=? AND told=?)"),
        ("list_children", "INDEX runs_children (parent_key=?"),
        ("list_untold_children", "INDEX runs_untold"),
        ("list_orphans", "INDEX runs_orphans"),
        ("lease_steps_due", "COVERING INDEX runs_due"),
        ("lease_steps_next_priority", "COVERING INDEX runs_due"),
        ("next_due", "COVERING INDEX runs_due"),
    ],
)
def test_a_statement_about_many_runs_reads_its_index_alone(conn: apsw.Connection, name: str, index: str) -> None:
    sql = QUERIES[name]
    count = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=sql.count("?"))
    plan = [str(row[3]) for row in conn.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * count).fetchall()]
    assert any(index in line and line.startswith("SEARCH runs") for line in plan), plan


def test_every_statement_is_used() -> None:
    folder = Path(taskforge.store.sqlite.__file__).parent
    source = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    assert [name for name in QUERIES if f'"{name}"' not in source] == []


def test_a_migration_that_was_released_never_changes() -> None:
    """Add the checksum of a new migration here when it is released; never change one."""
    released: dict[int, str] = {}
    assert {at.number: at.checksum for at in load_migrations("sqlite") if at.number in released} == released
