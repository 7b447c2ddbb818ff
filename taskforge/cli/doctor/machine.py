"""The program and the machine: library, disk, clock, time zones."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from taskforge.cli.doctor.finding import Finding, failure, note, ok, some, warning

_MIB: Final = 1024 * 1024
_LOW_BYTES: Final = 1024 * _MIB
_EARLIEST: Final = 1_704_067_200_000  # 2024-01-01: nothing of this program is older
_LATEST: Final = 4_102_444_800_000  # 2100-01-01
_AHEAD_MS: Final = 60_000
_PACKAGE: Final = "pip install --upgrade tzdata"
_ZONE_DATA: Final = f"{_PACKAGE}   (or update the system's tzdata package)"
_DAYS_OF_ZONES: Final = 550


def check_program() -> Finding:
    """The library's own version, as the server demands it."""
    import platform

    import apsw

    from taskforge import __version__
    from taskforge.core.errors import StartupError
    from taskforge.store.sqlite.connection import require_library

    try:
        require_library()
    except StartupError as error:
        return failure("SQLITE_OLD", error.message, "pip install --upgrade apsw")
    python = platform.python_version()
    return ok("PROGRAM_OK", f"TaskForge {__version__}, Python {python}, SQLite {apsw.sqlite_lib_version()}")


def check_disk(home: Path, needed: int) -> Finding:
    """`needed`: bytes below which the server refuses work, as far as they are no more than 2 % of the disk."""
    try:
        disk = shutil.disk_usage(home)
        inodes = os.statvfs(home)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        return failure("DISK_FULL", f"the disk of {home} cannot be asked: {words}", "check the disk")
    return judge_disk(home, disk.free, disk.total, needed, inodes.f_favail if inodes.f_files else None)


def judge_disk(home: Path, free: int, total: int, needed: int, inodes: int | None) -> Finding:
    """`inodes`: how many more files can be made; None where the file system does not count them."""
    room = f"{free // _MIB} MiB of {total // _MIB} MiB are free on the disk of {home}"
    make_room = f"make room: remove what you do not need near {home}, or move the home to a larger disk"
    if free < max(min(needed, total // 50), _MIB):
        return failure("DISK_FULL", f"{room}; deliveries are refused", make_room)
    if inodes is not None and inodes < 16:
        return failure("DISK_INODES", f"the disk of {home} has room for {inodes} more files only", "remove small files")
    if free < min(_LOW_BYTES, total // 20):
        return warning("DISK_LOW", room, make_room)
    return ok("DISK_OK", room)


def check_clock(now: int, newest: int | None) -> Finding:
    """`newest`: the latest time that stands in the database."""
    from taskforge.core.clock import to_rfc3339
    from taskforge.core.durations import format_duration

    fix = "set the clock: timedatectl set-ntp true   (before a server runs: schedules go by it)"
    if not _EARLIEST <= now <= _LATEST:
        return failure("CLOCK_WRONG", f"the machine's clock says {to_rfc3339(now)}", fix)
    if newest is not None and newest - now > _AHEAD_MS:
        ahead = format_duration(newest - now)
        words = f"something was stored at {to_rfc3339(newest)}, {ahead} after what the machine's clock says now"
        return warning(
            "CLOCK_BEHIND", words, f"{fix}; if the clock is right now, it was wrong then, and time will heal it"
        )
    return ok("CLOCK_OK", to_rfc3339(now))


def check_zones(zones: Sequence[tuple[str, str]], now: int, data: tuple[str, str] | None = None) -> Iterator[Finding]:
    """`zones`: schedules and the names of their zones. `data`: as `zone_data` gives it."""
    from taskforge.triggers.cron_fields import CronError
    from taskforge.triggers.zones import get_zone

    def knows(name: str) -> bool:
        try:
            get_zone(name)
        except CronError:
            return False
        return True

    if not knows("Europe/Berlin"):
        yield failure("ZONES_MISSING", "there is no time zone data on this machine", _ZONE_DATA)
        return
    unknown: dict[str, list[str]] = {}
    for schedule, name in zones:
        if not knows(name):
            unknown.setdefault(name, []).append(schedule)
    for name, schedules in unknown.items():
        words = f"the time zone {name!r} of {some(schedules)} is not known here, so it does not fire"
        yield failure("ZONE_UNKNOWN", words, f"{_ZONE_DATA}; or apply the workflow with a zone that is known")
    version, place = zone_data() if data is None else data
    age = _age_in_days(version, now)
    if age is not None and age > _DAYS_OF_ZONES:
        fix = (
            f"update the system's time zone data ({place}); its package is mostly called tzdata" if place else _PACKAGE
        )
        yield note("ZONES_OLD", f"the time zone data is of {version}", fix)
    elif not unknown:
        names = {name for _, name in zones}
        yield ok("ZONES_OK", f"data {version or 'of unknown age'}; {len(names)} zones in {len(zones)} schedules")


def zone_data() -> tuple[str, str]:
    """The version of the zone data, `2026a` or so, empty if unknown, and where it is: the machine's goes before the
    package's, which has no place."""
    import zoneinfo

    for place in zoneinfo.TZPATH:
        try:
            with open(Path(place) / "tzdata.zi", encoding="ascii") as file:
                head = file.readline(200).split()
        except (OSError, ValueError):
            continue
        if len(head) == 3 and head[1] == "version":
            return head[2], place
    try:
        import tzdata
    except ImportError:
        return "", ""
    return str(tzdata.IANA_VERSION), ""


def _age_in_days(version: str, now: int) -> int | None:
    if not version[:4].isdigit():
        return None
    letter = version[4:5]
    # Some ten releases a year at most: the letter says roughly when in the year it was.
    days = (int(version[:4]) - 1970) * 365.2425 + (ord(letter) - ord("a")) * 36 if letter.isalpha() else 0.0
    return int(now / 86_400_000 - days) if days else None
