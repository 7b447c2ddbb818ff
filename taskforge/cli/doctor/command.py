"""`doctor`: every check, in one list."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from taskforge.cli.command import Example, Session, command, pass_session
from taskforge.cli.doctor.finding import Finding, Level
from taskforge.cli.failure import Exit
from taskforge.cli.render import Paint

if TYPE_CHECKING:
    from taskforge.config.settings import Settings
    from taskforge.store.sqlite.inspecting import Rows

_MARKS: Final = {
    Level.OK: ("✔", "+", "green"),
    Level.NOTE: ("·", "-", "dim"),
    Level.WARNING: ("!", "!", "yellow"),
    Level.FAILURE: ("✘", "x", "bad"),
}


@command(
    "doctor",
    examples=[
        Example("taskforge doctor"),
        Example("taskforge doctor --quick", "without reading a large database as a whole"),
        Example("taskforge doctor -o json | jq '.findings[] | select(.level == \"failure\")'"),
    ],
)
@click.option("--quick", is_flag=True, help="Leave out what reads the whole database.")
@pass_session
def doctor(session: Session, quick: bool) -> int:
    """Make every check that a support engineer would make.

    Home, configuration, key, database, disk, clock, time zones, server, token, port and work; each finding says what
    to do. Changes nothing, with a server or without. Exit code 0 unless a check fails (1); warnings and notes are no
    failures. -q prints the codes of failures and warnings only.
    """
    from taskforge.config.reading import resolve_home

    screen = session.screen
    home = resolve_home(screen.environ)
    findings = examine(home, screen.environ, quick=quick, server=session.server, profile=session.profile)
    failed = any(finding.level is Level.FAILURE for finding in findings)
    if session.machine:
        from taskforge import __version__

        facts = {"home": str(home), "version": __version__, "sound": not failed}
        screen.document({**facts, "findings": [finding.to_json() for finding in findings]})
    elif screen.quiet:
        for code in dict.fromkeys(f.code for f in findings if f.level in (Level.FAILURE, Level.WARNING)):
            screen.line(code)
    else:
        for finding in findings:
            _show(session, finding)
        screen.note(_summary(findings))
    return Exit.FAILED if failed else Exit.DONE


def examine(
    home: Path,
    environ: Mapping[str, str],
    *,
    quick: bool = False,
    server: str | None = None,
    profile: str | None = None,
) -> list[Finding]:
    """Every finding, in the order in which a person would look. Changes nothing."""
    from taskforge.cli.doctor.configuration import check_settings, read_settings
    from taskforge.cli.doctor.home import check_backups, check_home, check_modes
    from taskforge.cli.doctor.key import check_key
    from taskforge.cli.doctor.machine import check_clock, check_disk, check_program, check_zones
    from taskforge.cli.doctor.serving import check_elsewhere
    from taskforge.cli.doctor.work import check_work
    from taskforge.config.settings import Settings
    from taskforge.core.clock import SystemClock

    now = SystemClock().wall()
    found = [check_program(), *check_home(home)]
    if not os.access(home, os.R_OK | os.X_OK) or not home.is_dir():
        return [*found, check_clock(now, None), *check_elsewhere(server, profile, environ)]
    found += check_modes(home)
    settings, faults = read_settings(home, environ)
    found += faults if settings is None else check_settings(settings, now)
    served, database, rows = _database(home, quick=quick)
    found += check_key(home, None if rows is None else rows.sealed)
    found += database
    found.append(check_disk(home, (settings or Settings(home)).limits.free_disk_mib * 1024 * 1024))
    now = SystemClock().wall()
    found.append(check_clock(now, None if rows is None else rows.newest))
    found += check_zones([] if rows is None else rows.zones, now)
    found += _server(home, settings, served, environ)
    found += check_elsewhere(server, profile, environ)
    if rows is not None:
        found += check_work(rows, now, served=served)
    found.append(check_backups(home, now))
    return found


def _database(home: Path, *, quick: bool) -> tuple[bool, list[Finding], Rows | None]:
    """What the database says, and whether a server had it meanwhile. One that comes or goes just now is no damage."""
    from taskforge.cli.doctor.database import check_database
    from taskforge.config.home import DATABASE_FILE
    from taskforge.config.lock import is_held
    from taskforge.core.clock import SystemClock

    clock = SystemClock()
    for _ in range(3):
        served = is_held(home)
        findings, rows = check_database(home / DATABASE_FILE, clock.now(), served=served, quick=quick)
        if is_held(home) == served:
            break
    return served, findings, rows


def _server(home: Path, settings: Settings | None, served: bool, environ: Mapping[str, str]) -> list[Finding]:
    from taskforge.cli.doctor.serving import check_running, check_stopped
    from taskforge.config.lock import read_holder

    holder = read_holder(home)
    if not served:
        return [*check_stopped(home, holder, settings)]
    elsewhere = environ.get("TASKFORGE_SERVER")
    return [*check_running(holder, settings, None if elsewhere else environ.get("TASKFORGE_TOKEN"))]


def _show(session: Session, finding: Finding) -> None:
    screen = session.screen
    mark, plain, style = _MARKS[finding.level]
    shown = mark if screen.unicode else plain
    subject = Paint(f"{finding.subject:<14}", "dim" if finding.level in (Level.OK, Level.NOTE) else style)
    code = "" if finding.level is Level.OK else f"  [{finding.code}]"
    screen.paragraph(Paint(f"{shown} ", style), subject, f"{finding.message}{code}", hang=16)
    if finding.fix and finding.level is not Level.OK:
        screen.paragraph(" " * 16, Paint("→ ", "cyan"), Paint(finding.fix, "cyan"), hang=18)


def _summary(findings: list[Finding]) -> str:
    counts = {level: sum(1 for finding in findings if finding.level is level) for level in Level}
    told = [f"{counts[level]} {level.value}{'s' if counts[level] != 1 else ''}"
            for level in (Level.FAILURE, Level.WARNING, Level.NOTE) if counts[level]]  # fmt: skip
    sound = "" if counts[Level.FAILURE] else "sound"
    return ": ".join(filter(None, [sound, ", ".join(told)]))
