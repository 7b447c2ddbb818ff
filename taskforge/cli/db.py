"""`db backup/restore/check/migrate/vacuum/prune`: the database of a home, with or without a running server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.home_database import home_of, is_elsewhere, locked_home, refuse_elsewhere, with_upkeep
from taskforge.cli.render import Paint

if TYPE_CHECKING:
    from taskforge.store.sqlite.restore import Restored, Wish


@click.group("db", cls=Group)
def db() -> None:
    """Back up, restore, check and tidy the database."""


@db.command(
    "backup",
    examples=[
        Example("taskforge db backup", "into backups/ of the home"),
        Example("taskforge db backup before-upgrade.db"),
        Example("taskforge db backup -q", "prints the path"),
    ],
)
@click.argument("file", required=False)
@click.option("--force", is_flag=True, help="Replace FILE when it is there.")
@pass_session
def backup(session: Session, file: str | None, force: bool) -> None:
    """Copy the database, beside a running server or without one.

    The copy is one file, whole or not there, that only its owner can read. It has everything that was accepted before
    it was begun, secrets sealed. secret.key is not in it: keep a copy of that apart. With --server the other server
    makes it, into its own backups/.
    """
    if is_elsewhere(session):
        if file is not None:
            raise CommandError(
                "another server writes its backup on its own machine; it cannot write one here",
                hint="leave FILE out: the backup goes to backups/ of the server's home",
                code=Exit.USAGE,
            )
        _say_backup(session, session.client.post("db:backup"))
        return
    from taskforge.config.home import DATABASE_FILE
    from taskforge.config.home_files import BACKUPS, backup_path
    from taskforge.core.clock import SystemClock, to_rfc3339
    from taskforge.core.errors import StartupError
    from taskforge.security.fingerprint import key_fingerprints
    from taskforge.store.sqlite.backup import Stamp, remove_unfinished
    from taskforge.store.sqlite.opening import back_up

    home, now = home_of(session), SystemClock().wall()
    target = backup_path(home, to_rfc3339(now)) if file is None else _target(file, force, home)
    key_id = None
    try:
        key_id = key_fingerprints(home)[0]
    except StartupError as error:
        if (home / DATABASE_FILE).exists():
            session.screen.note(Paint("warning:", "yellow"), f" {error.message}; the backup cannot name its key")
    remove_unfinished(home / BACKUPS)
    size = back_up(home / DATABASE_FILE, target, Stamp(now, key_id))
    _say_backup(session, {"file": str(target), "bytes": size, "taken_at": to_rfc3339(now)})


def _target(file: str, force: bool, home: Path) -> Path:
    if file == "-":
        raise CommandError("a backup cannot go to standard output: it is one whole file, or none", code=Exit.USAGE)
    target = Path(file).absolute()
    if target.is_dir():
        raise CommandError(f"{file} is a directory; name a file in it", code=Exit.USAGE)
    if target.exists():
        if not force or not target.is_file() or target.parent.samefile(home):
            hint = "choose another name" + ("" if force else ", or say --force to replace it")
            raise CommandError(f"{file} is there already", hint=hint, code=Exit.CONFLICT)
    elif not target.parent.is_dir():
        raise CommandError(f"there is no directory {target.parent}", code=Exit.NOT_FOUND)
    return target


def _say_backup(session: Session, made: dict[str, Any]) -> None:
    screen = session.screen
    if session.machine:
        screen.document(made)
    elif screen.quiet:
        screen.line(made["file"])
    else:
        screen.line(Paint("✔", "green"), f" {made['file']}  ({mebibytes(made['bytes'])})")
        screen.note(Paint("keep secret.key of the home apart from it: without that key its secrets are lost", "dim"))


@db.command(
    "restore",
    examples=[
        Example("taskforge db restore before-upgrade.db"),
        Example("taskforge db restore copy.db -o json"),
    ],
)
@click.argument("file")
@click.option("--force", is_flag=True, help="Restore it although the check finds faults in it.")
@click.option("--without-secrets", is_flag=True, help="Leave out secrets that this home's key cannot open.")
@pass_session
def restore(session: Session, file: str, force: bool, without_secrets: bool) -> None:
    """Put a backup in the place of the database; then everything is held until you release it.

    The server must be stopped. The backup is checked first: its key, its schema, its integrity, the invariants of runs.
    The database that was there is kept beside the new one. Schedules do not make up for what they missed before the
    restore, and nothing is sent and nothing fires until: taskforge workflow release --all
    """
    refuse_elsewhere(session, "db restore")
    from taskforge.config.home import DATABASE_FILE, KEY_FILE, create_home
    from taskforge.config.home_files import file_stamp
    from taskforge.core.clock import SystemClock, to_rfc3339
    from taskforge.security.fingerprint import key_fingerprints, secret_opener
    from taskforge.store.sqlite.restore import Unsound, Wish, restore_database

    home, source = home_of(session), Path(file).absolute()
    if not source.is_file():
        raise CommandError(f"there is no file {file}", code=Exit.NOT_FOUND)
    if not (home / KEY_FILE).exists():
        if not without_secrets:
            raise CommandError(
                f"{home / KEY_FILE} is missing, and the backup's secrets need the key that was in use with it",
                hint=f"put that secret.key into {home} (directory 0700, file 0600); if it is lost: --without-secrets",
            )
        create_home(home)
    now = SystemClock().wall()
    wish = Wish(source, home / DATABASE_FILE, now, file_stamp(to_rfc3339(now)), key_fingerprints(home), force,
                without_secrets, secret_opener(home))  # fmt: skip
    with locked_home(home, "db restore"):
        try:
            done = restore_database(wish)
        except Unsound as error:
            raise CommandError(error.message, lines=error.findings[:20]) from None
    _tell_restored(session, wish, done)


def _tell_restored(session: Session, wish: Wish, done: Restored) -> None:
    from taskforge.core.clock import to_rfc3339

    taken = None if done.taken is None else to_rfc3339(done.taken.taken_at)
    found = done.contents
    if session.machine:
        session.screen.document(
            {
                "database": str(wish.database), "from": str(wish.source), "taken_at": taken, "bytes": done.size,
                "replaced": None if done.replaced is None else str(done.replaced), "schema": done.schema,
                "migrates": done.migrates, "held": True, "runs": found.runs, "unfinished": found.live,
                "in_flight": found.in_flight, "schedules": found.schedules, "secrets_left_out": done.secrets_left_out,
                "findings": done.findings, "warnings": done.warnings,
            }
        )  # fmt: skip
        return
    screen = session.screen
    for warning in (*done.warnings, *done.findings):
        screen.note(Paint("warning:", "yellow"), " ", warning)
    if screen.quiet:
        screen.line(str(wish.database))
        return
    screen.line(Paint("✔", "green"), f" {wish.database} is restored", f" as of {taken}" if taken else "")
    plural = "" if found.schedules == 1 else "s"
    screen.line(f"  {found.runs} runs, {found.live} of them not ended; {found.schedules} schedule{plural}")
    if done.replaced is not None:
        screen.line(f"  the database that was there is kept: {done.replaced}")
    if done.migrates:
        screen.line("  its schema is older; the next start brings it up to date")
    if done.secrets_left_out:
        screen.line(f"  {done.secrets_left_out} secrets are left out; store them anew: taskforge secret set")
    screen.line(Paint("  everything is held", "yellow"), ": nothing is sent and no schedule fires until you release it")
    if found.in_flight:
        screen.line(
            f"  {found.in_flight} attempts were under way and are sent again then, with the same Idempotency-Key"
        )
    screen.line("  next: ", Paint("taskforge up", "bold"), ", look at ", Paint("taskforge runs", "bold"), ", then ",
                Paint("taskforge workflow release --all", "bold"))  # fmt: skip


@db.command("check", examples=[Example("taskforge db check"), Example("taskforge db check -o json")])
@click.argument("file", required=False)
@pass_session
def check(session: Session, file: str | None) -> None:
    """Look for damage in the database, or in a backup FILE: integrity, migrations, statistics, invariants of runs.

    Changes nothing. SQLite keeps no checksums: a flipped bit within a value, where the structure stays whole, is not
    found by this.
    """
    from taskforge.config.home import DATABASE_FILE
    from taskforge.core.errors import StartupError
    from taskforge.store.sqlite.health import check_file

    if file is None:
        refuse_elsewhere(session, "db check")
    elif not Path(file).is_file():
        raise CommandError(f"there is no file {file}", code=Exit.NOT_FOUND)
    path = home_of(session) / DATABASE_FILE if file is None else Path(file).absolute()
    try:
        findings = check_file(path)
    except StartupError as error:
        raise CommandError(error.message, code=Exit.FAILED) from None
    screen = session.screen
    if session.machine:
        screen.document({"path": str(path), "sound": not findings, "findings": findings})
    elif findings:
        for finding in findings:
            screen.line(finding)
    else:
        screen.note(Paint("✔", "green"), f" {path} is sound")
    if findings:
        hint = "stop the server, keep a copy of the file, and restore a backup: taskforge db restore FILE"
        words = f"{len(findings)} finding" + ("s" if len(findings) > 1 else "")
        raise CommandError(f"{path} has {words}", hint=hint, code=Exit.FAILED)


@db.command("migrate", examples=[Example("taskforge db migrate")])
@pass_session
def migrate(session: Session) -> None:
    """Bring the database to the schema of this program, with a backup before; a start does the same by itself."""
    refuse_elsewhere(session, "db migrate")
    from taskforge.config.home import DATABASE_FILE
    from taskforge.config.home_files import BACKUPS
    from taskforge.core.clock import SystemClock
    from taskforge.store.sqlite.opening import migrate_file, missing_migrations

    home = home_of(session)
    path = home / DATABASE_FILE
    known, missing = missing_migrations(path)
    if missing:
        with locked_home(home, "db migrate"):
            migrate_file(path, home / BACKUPS, SystemClock().wall())
    screen = session.screen
    if session.machine:
        screen.document({"path": str(path), "schema": known, "applied": [step.number for step in missing]})
    elif not screen.quiet:
        words = f"is brought to schema {known}" if missing else f"is up to date (schema {known})"
        screen.line(Paint("✔", "green"), f" {path} {words}")


@db.command("vacuum", examples=[Example("taskforge db vacuum"), Example("taskforge db vacuum -o json")])
@pass_session
def vacuum(session: Session) -> None:
    """Give free space of the database back to the disk, in small steps beside a running server."""
    from taskforge.config.lock import is_held

    home = home_of(session)
    total: dict[str, Any] = {}
    while not total or total["free_bytes"] > 0:
        if is_elsewhere(session) or is_held(home):
            done = session.client.post("db:vacuum")
        else:
            done = with_upkeep(session, home, lambda upkeep: upkeep.vacuum())._asdict()
        if total and done["free_bytes"] >= total["free_bytes"]:
            break  # what runs frees as much as is given back
        total = done | {"before_bytes": total.get("before_bytes", done["before_bytes"])}
    screen = session.screen
    if session.machine:
        screen.document(total)
    elif not screen.quiet:
        before, after = mebibytes(total["before_bytes"]), mebibytes(total["after_bytes"])
        screen.line(Paint("✔", "green"), f" the database has {after}; it had {before}")


@db.command(
    "prune",
    examples=[
        Example("taskforge db prune --older-than 30d --dry-run"),
        Example("taskforge db prune --older-than 30d"),
    ],
)
@click.option("--older-than", required=True, metavar="TIME", help="Runs that ended longer ago than this: 30d, 12h.")
@click.option("--dry-run", is_flag=True, help="Only count them.")
@pass_session
def prune(session: Session, older_than: str, dry_run: bool) -> None:
    """Delete runs that ended long ago, with their steps and logs; [retention] does it by itself.

    Kept are runs that have not ended, those with an open dead letter, and for 7 days those with an Idempotency-Key.
    """
    from taskforge.config.lock import is_held
    from taskforge.core.durations import parse_duration

    try:
        age = parse_duration(older_than)
    except ValueError as error:
        raise CommandError(f"--older-than: {error}", code=Exit.USAGE) from None
    home, runs, freed, more = home_of(session), 0, 0, True
    while more:
        if is_elsewhere(session) or is_held(home):
            done = session.client.post("db:prune", body={"older_than": older_than, "dry_run": dry_run})
        else:
            done = with_upkeep(session, home, lambda upkeep: upkeep.prune(age, dry_run=dry_run))._asdict()
        runs, freed, more = runs + done["runs"], freed + done["freed_bytes"], done["more"]
    screen = session.screen
    if session.machine:
        screen.document({"runs": runs, "freed_bytes": freed, "dry_run": dry_run})
    elif screen.quiet:
        screen.line(str(runs))
    elif dry_run:
        screen.line(f"{runs} runs would be deleted")
    else:
        screen.line(Paint("✔", "green"), f" {runs} runs are deleted; {mebibytes(freed)} given back to the disk")


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1024 / 1024:.1f} MiB"
