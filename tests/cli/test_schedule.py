"""`schedule list/next/simulate`, as a person and as a script see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.server import ServerProcess, clean_environ, run_cli

NIGHTLY = """\
name: nightly
triggers:
  night: {cron: "30 2 * * *", timezone: Europe/Berlin}
  tick: {cron: "@every 6h", catch_up: none}
steps: [{id: one, transform: 1}]
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return clean_environ(tmp_path / "home")


def test_next_times_of_an_expression_need_no_server(environ: dict[str, str]) -> None:
    arguments = [
        "schedule",
        "next",
        "--cron",
        "30 2 * * *",
        "--timezone",
        "Europe/Berlin",
        "--from",
        "2026-03-28T12:00",
    ]
    done = run_cli(*arguments, "--count", "2", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1:] == [
        "2026-03-29T03:00:00+02:00  2026-03-29T01:00:00Z  the clock skips its time; this is the first minute after",
        "2026-03-30T02:30:00+02:00  2026-03-30T00:30:00Z",
    ]
    found = json.loads(run_cli(*arguments, "--count", "1", "-o", "json", environ=environ).stdout)
    assert found["items"][0]["at"] == "2026-03-29T01:00:00.000Z" and found["remarks"] == []
    assert run_cli(*arguments, "--count", "1", "-q", environ=environ).stdout == "2026-03-29T01:00:00.000Z\n"
    late = run_cli(*arguments, "--count", "1", "--jitter", "10m", environ=environ)
    assert "2026-03-29T01:10:00Z" in late.stdout


def test_a_remark_goes_to_standard_error(environ: dict[str, str]) -> None:
    done = run_cli("schedule", "next", "--cron", "*/90 * * * *", "--count", "1", environ=environ)
    assert done.returncode == 0 and "@every 90m" in done.stderr and "@every" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cron", "0 25 * * *"], ["hour 25 is out of range", "column 3"]),
        (["--cron", "0 0 9 * * *"], ["6 fields", "column 11", "0 9 * * *"]),
        (["--cron", "0 9 * * *", "--timezone", "Berlin"], ["timezone", "Europe/Berlin"]),
        (["--cron", "0 9 * * *", "--from", "noon"], ["--from", "noon"]),
        (["--cron", "0 9 * * *", "--jitter", "9d"], ["jitter"]),
        (["--cron", "0 9 * * *", "nightly"], ["--cron"]),
        (["nightly", "--timezone", "UTC"], ["--timezone"]),
        ([], ["--cron"]),
        (["--cron", "0 9 * * *", "--count", "0"], ["--count"]),
    ],
)
def test_wrong_usage_is_exit_code_2_with_the_reason(
    arguments: list[str], words: list[str], environ: dict[str, str]
) -> None:
    done = run_cli("schedule", "next", *arguments, environ=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(word in done.stderr for word in words), done.stderr


def test_a_simulation_shows_firings_changes_and_downtime(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text(NIGHTLY)
    arguments = ["schedule", "simulate", str(tmp_path), "--from", "2026-03-28T20:00Z", "--to", "2026-03-30T04:00Z"]
    done = run_cli(*arguments, "--downtime", "2026-03-29T00:00Z/2026-03-29T23:00Z", environ=environ)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [(line[0], line[1], line[2]) for line in lines] == [
        ("2026-03-29T00:00:00+00:00", "SERVER_DOWN", "the"),
        ("2026-03-29T03:00:00+02:00", "CLOCK_CHANGE", "Europe/Berlin:"),
        ("2026-03-29T23:00:00+00:00", "SERVER_UP", "the"),
        ("2026-03-30T01:00:00+02:00", "SLOT_LATE", "nightly/night"),
        ("2026-03-29T23:00:00+00:00", "SLOT_MISSED", "nightly/tick"),
        ("2026-03-30T02:30:00+02:00", "SLOT_FIRED", "nightly/night"),
        ("2026-03-30T02:00:00+00:00", "SLOT_FIRED", "nightly/tick"),
    ]
    found = json.loads(run_cli(*arguments, "-o", "json", environ=environ).stdout)
    assert found["more"] is False
    assert {item["code"] for item in found["items"]} == {"SLOT_FIRED", "CLOCK_CHANGE"}


def test_a_long_simulation_stops_at_its_limit_and_says_so(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text(NIGHTLY)
    done = run_cli("schedule", "simulate", str(tmp_path), "--to", "3650d", "--limit", "3", "-q", environ=environ)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3
    shown = run_cli("schedule", "simulate", str(tmp_path), "--to", "3650d", "--limit", "3", environ=environ)
    assert "--limit" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "2020-01-01"], "before --from"),
        (["--to", "9990-01-01"], "100 years"),
        (["--to", "soon"], "--to"),
        (["--downtime", "2026-01-01"], "FROM/TO"),
        (["--downtime", "2026-01-02/2026-01-01"], "ends before"),
    ],
)
def test_a_simulation_refuses_ranges_that_are_none(
    arguments: list[str], words: str, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "nightly.yaml").write_text(NIGHTLY)
    done = run_cli("schedule", "simulate", str(tmp_path), *arguments, environ=environ)
    assert done.returncode == 2 and words in done.stderr


def test_a_simulation_refuses_a_wrong_file_with_its_place(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "nightly.yaml").write_text(NIGHTLY.replace("30 2 * * *", "30 25 * * *"))
    done = run_cli("schedule", "simulate", str(tmp_path), environ=environ)
    assert done.returncode == 2 and "nightly.yaml:3:" in done.stderr and "hour 25" in done.stderr


def test_the_servers_schedules_are_listed_and_looked_ahead(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "nightly.yaml"
    file.write_text(NIGHTLY)
    assert server.run_cli("apply", str(file)).returncode == 0
    try:
        listed = server.run_cli("schedule", "--workflow", "nightly")
        assert listed.returncode == 0, listed.stderr
        assert "nightly/night" in listed.stdout and "30 2 * * *" in listed.stdout and "Europe/Berlin" in listed.stdout
        page = json.loads(server.run_cli("schedule", "list", "--workflow", "nightly", "-o", "json").stdout)
        assert sorted(item["trigger"] for item in page["items"]) == ["night", "tick"]
        assert server.run_cli("schedule", "-q", "--workflow", "nightly").stdout.split() == [
            f"nightly/{item['trigger']}" for item in page["items"]
        ]
        decided = server.run_cli("schedule", "list", "--workflow", "nightly", "--decisions")
        assert decided.returncode == 0 and "nothing was decided yet" in decided.stdout
        ahead = json.loads(server.run_cli("schedule", "next", "nightly", "--count", "8", "-o", "json").stdout)["items"]
        assert len(ahead) == 8 and {item["trigger"] for item in ahead} == {"night", "tick"}
        by_server = {item["trigger"]: item["next_slot"] for item in page["items"]}
        for name, slot in by_server.items():
            assert next(item["at"] for item in ahead if item["trigger"] == name) == slot
        past = server.run_cli("schedule", "next", "nightly", "--count", "1", "--from", "2026-03-28T12:00")
        assert past.returncode == 0 and len(past.stdout.splitlines()) == 2
    finally:
        assert server.run_cli("workflow", "delete", "nightly").returncode == 0
    assert server.run_cli("schedule", "next", "nowhere").returncode == 4
