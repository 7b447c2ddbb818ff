"""`schedule list/next/simulate`: when cron triggers fire, have fired, and would fire."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from taskforge.cli.command import Example, Group, Session, pass_session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.moments import brief, is_narrow
from taskforge.cli.paging import Paging, fetch_page, paged, tell_more
from taskforge.cli.render import Cell, Paint

if TYPE_CHECKING:
    from taskforge.triggers.forecast import Planned
    from taskforge.triggers.schedule import Schedule

_LATE = {"SLOT_LATE": "yellow", "SLOT_HELD": "yellow", "SLOT_FAILED": "bad", "SLOT_MISSED": "red",
         "SLOT_SUPERSEDED": "red", "SLOT_TOO_OLD": "red", "SLOT_FIRED": "green"}  # fmt: skip


_HEADS = ("SCHEDULE", "TIMES", "ZONE", "STATE", "NEXT", "LAST", "MISSED")
_NARROW_HEADS = ("SCHEDULE", "TIMES", "STATE", "NEXT", "MISSED")


@click.group("schedule", cls=Group, default="list")
def schedule() -> None:
    """Cron triggers: when they fire, and why they did not.

    What was decided about past slots, and what a range of time would bring.
    """


@schedule.command(
    "list",
    examples=[
        Example("taskforge schedule"),
        Example("taskforge schedule list --decisions", "with what was decided about the last slots"),
    ],
)
@click.option("--workflow", metavar="NAME", help="Only this workflow's.")
@click.option("--decisions", is_flag=True, help="Show the last decisions of each.")
@paged
@pass_session
def list_schedules(session: Session, workflow: str | None, decisions: bool, paging: Paging) -> None:
    """List schedules with their next and last slots, and how many were missed."""
    screen = session.screen
    page = fetch_page(session, "schedules", workflow=workflow, paging=paging)
    items = page["items"]
    if session.machine:
        screen.document(page)
        return
    if screen.quiet:
        for item in items:
            screen.line(f"{item['workflow']}/{item['trigger']}")
    elif not items:
        screen.note("no schedules; a cron trigger in a workflow makes one")
    elif decisions:
        for item in items:
            _tell_decisions(session, item)
    else:
        narrow = is_narrow(screen.columns)
        heads = _NARROW_HEADS if narrow else _HEADS
        screen.table(heads, [_narrow_row(item) if narrow else _row(item) for item in items], keep=(0, 3))
    tell_more(session, page)


@schedule.command(
    "next",
    examples=[
        Example("taskforge schedule next --cron '0 9 * * MON-FRI' --timezone Europe/Berlin", "needs no server"),
        Example("taskforge schedule next nightly-report --count 3 --from 2026-03-28"),
    ],
)
@click.argument("workflow", metavar="[WORKFLOW]", required=False)
@click.option("--cron", metavar="EXPR", help="A cron expression, @hourly … @yearly, or '@every 90s'.")
@click.option("--timezone", metavar="ZONE", help="With --cron: its time zone, an IANA name; default UTC.")
@click.option("--jitter", metavar="TIME", help="With --cron: its jitter, as 5m.")
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many times.")
@click.option("--from", "start", metavar="TIME", help="Times after this one; default now.")
@pass_session
def list_next(
    session: Session,
    workflow: str | None,
    cron: str | None,
    timezone: str | None,
    jitter: str | None,
    count: int,
    start: str | None,
) -> None:
    """Show the next times of a workflow's schedules, or of a cron expression.

    A TIME without an offset is on the time zone's clocks. Where these are set, a note says what it does to the slot.
    """
    if (workflow is None) == (cron is None):
        raise CommandError("name a workflow, or give a --cron expression", code=Exit.USAGE)
    if workflow is not None and (timezone or jitter):
        raise CommandError("--timezone and --jitter go with --cron; a workflow has its own", code=Exit.USAGE)
    answer = _next_of_cron(cron, timezone, jitter, count, start) if cron is not None else None
    if answer is None:
        assert workflow is not None
        answer = _next_of_workflow(session, workflow, count, start)
    screen = session.screen
    if session.machine:
        screen.document(answer)
        return
    for remark in answer.get("remarks", ()):
        screen.note(Paint(f"warning: {remark}", "yellow"))
    if screen.quiet:
        for item in answer["items"]:
            screen.line(item["at"])
    elif answer["items"]:
        _show_next(session, answer["items"])
    else:
        screen.note("no time follows")


@schedule.command(
    "simulate",
    examples=[
        Example("taskforge schedule simulate workflows/ --from 2026-03-28 --to 2026-03-30"),
        Example("taskforge schedule simulate nightly.yaml --to 30d --downtime 2026-12-01T00:00Z/2026-12-03T12:00Z"),
    ],
)
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True)
@click.option("--from", "start", metavar="TIME", help="Where the range begins; default now.")
@click.option(
    "--to", "end", metavar="TIME", default="7d", show_default=True, help="Where it ends: a time, or how long."
)
@click.option("--downtime", "downtimes", metavar="FROM/TO", multiple=True, help="The server is down; may be repeated.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="How many lines.")
@pass_session
def simulate(
    session: Session, paths: tuple[str, ...], start: str | None, end: str, downtimes: tuple[str, ...], limit: int
) -> None:
    """Show every firing and decision that workflow files would bring in a range of time; needs no server.

    The decisions are the server's own: each slot fires on time or late, or is missed, as `catch_up` says. Times without
    an offset are UTC. Jitter is what the server would give.
    """
    from itertools import islice

    from taskforge.triggers import forecast
    from taskforge.triggers.zones import get_zone

    utc = get_zone("UTC")
    begin = _moment(start, "--from", utc)
    until = _end(end, begin)
    gaps = [_downtime(text) for text in downtimes]
    planned = _planned(session, paths)
    found = list(islice(forecast.simulate(planned, begin, until, gaps), limit + 1))
    shown = [happening.to_json() for happening in found[:limit]]
    screen = session.screen
    if session.machine:
        screen.document({"items": shown, "more": len(found) > limit})
        return
    if screen.quiet:
        for item in shown:
            screen.line(item["at"])
    else:
        _show_simulation(session, shown)
    if len(found) > limit:
        screen.note(Paint(f"there is more after {shown[-1]['at']}: raise --limit, or shorten the range", "yellow"))
    elif not shown:
        screen.note("nothing happens in this range" if planned else "no cron trigger in these files")


# ---- where times come from


def _next_of_cron(cron: str, timezone: str | None, jitter: str | None, count: int, start: str | None) -> dict[str, Any]:
    from taskforge.triggers import forecast

    settings = {"cron": cron, "timezone": timezone, "jitter": jitter}
    found = _parse(settings, cron)
    begin = _moment(start, "--from", found.zone)
    items = forecast.list_next(found.anchored(begin), begin, count)
    return {"items": items, "remarks": list(found.remarks)}


def _next_of_workflow(session: Session, workflow: str, count: int, start: str | None) -> dict[str, Any]:
    from taskforge.core.document import parse_document
    from taskforge.triggers import forecast

    row = session.client.get("workflows", workflow)
    triggers = parse_document(row["source"].encode(), row["media"]).value.get("triggers") or {}
    timed = {name: value for name, value in triggers.items() if isinstance(value, dict) and {"cron", "at"} & set(value)}
    if not row["enabled"]:
        session.screen.note(Paint(f"{workflow} is disabled: none of these fires", "yellow"))
    items: list[dict[str, Any]] = []
    for name, value in timed.items():
        found = _parse(value, str(value.get("cron") or value.get("at")))
        begin = _moment(start, "--from", found.zone)
        found = _anchor(session, workflow, name, found, begin)
        items += [{"trigger": name, **item} for item in forecast.list_next(found, begin, count)]
    items.sort(key=lambda item: item["at"])
    return {"items": items[:count]}


def _anchor(session: Session, workflow: str, trigger: str, found: Schedule, begin: int) -> Schedule:
    """A period counts from where the server's schedule began; one of its slots says as much."""
    from dataclasses import replace

    from taskforge.core.clock import from_rfc3339

    if found.every_ms is None or found.start_ms is not None:
        return found
    for item in session.client.pages("schedules", workflow=workflow):
        if item["workflow"] == workflow and item["trigger"] == trigger and item.get("next_slot"):
            slot = from_rfc3339(item["next_slot"])
            return replace(found, anchor_ms=slot - max(slot - begin, 0) // found.every_ms * found.every_ms)
    return found.anchored(begin)


def _planned(session: Session, paths: tuple[str, ...]) -> list[Planned]:
    from taskforge.cli.checking import check_files
    from taskforge.cli.sources import find_files, read_sources
    from taskforge.core.model import TimeTrigger
    from taskforge.triggers.forecast import Planned
    from taskforge.triggers.schedule import seed_of

    checked = check_files(read_sources(find_files(paths)), session.screen.environ)
    lines = [line for one in checked for line in one.error_lines()]
    if lines:
        raise CommandError(f"{len(lines)} errors; nothing was simulated", code=Exit.USAGE, lines=lines)
    return [
        Planned(one.name, trigger.name, trigger.schedule, seed_of(one.name, trigger.name))
        for one in checked
        if one.definition is not None
        for trigger in one.definition.plan.triggers.values()
        if isinstance(trigger, TimeTrigger)
    ]


def _parse(settings: dict[str, Any], text: str) -> Schedule:
    from taskforge.triggers.cron_fields import CronError
    from taskforge.triggers.schedule import KEYS, parse_schedule

    given = {key: value for key, value in settings.items() if key in KEYS and value is not None}
    try:
        return parse_schedule(given)
    except CronError as error:
        place = f" (column {error.column} of {text!r})" if error.key == "cron" and error.column else ""
        raise CommandError(f"{error.key}: {error.message}{place}", hint=error.hint, code=Exit.USAGE) from None


def _moment(text: str | None, option: str, zone: Any) -> int:
    from taskforge.core.clock import SystemClock
    from taskforge.triggers.schedule import parse_time

    if text is None or text == "now":
        return SystemClock().wall()
    try:
        return parse_time(text, zone)
    except ValueError as error:
        raise CommandError(f"{option}: {error}", code=Exit.USAGE) from None


def _end(text: str, begin: int) -> int:
    from taskforge.core.durations import parse_duration
    from taskforge.triggers.zones import get_zone

    if re.fullmatch(r"[0-9.]+[a-z][0-9a-z.]*", text):
        try:
            return begin + parse_duration(text)
        except ValueError as error:
            raise CommandError(f"--to: {error}", code=Exit.USAGE) from None
    end = _moment(text, "--to", get_zone("UTC"))
    if end < begin:
        raise CommandError("--to is before --from", code=Exit.USAGE)
    if end - begin > 100 * 366 * 86_400_000:
        raise CommandError("the range is longer than 100 years", code=Exit.USAGE)
    return end


def _downtime(text: str) -> tuple[int, int]:
    from taskforge.triggers.zones import get_zone

    first, slash, last = text.partition("/")
    if not slash:
        raise CommandError(f"--downtime {text!r} is no FROM/TO", code=Exit.USAGE)
    down, up = (_moment(part, "--downtime", get_zone("UTC")) for part in (first, last))
    if up <= down:
        raise CommandError("--downtime ends before it begins", code=Exit.USAGE)
    return down, up


# ---- how they look


def _row(item: dict[str, Any]) -> list[Cell]:
    return [
        f"{item['workflow']}/{item['trigger']}",
        item.get("cron") or item.get("at") or "",
        item["timezone"],
        _state(item),
        _brief(item.get("next_at") or item.get("next_slot")),
        _brief(item.get("last_slot")),
        Paint(str(item["missed"]), "red") if item["missed"] else "0",
    ]


def _narrow_row(item: dict[str, Any]) -> list[Cell]:
    """What matters most: the next time before the last one, which `--decisions` tells, and the zone."""
    name, times, _, shown, _, _, missed = _row(item)
    return [name, times, shown, brief(item.get("next_at") or item.get("next_slot"), 0), missed]


def _state(item: dict[str, Any]) -> Cell:
    for key, words, style in (("held", "held", "yellow"), ("overdue", "overdue", "bad")):
        if item.get(key):
            return Paint(words, style)
    if item.get("enabled") is False:
        return Paint("disabled", "dim")
    return Paint("waiting", "green") if item.get("next_slot") else Paint("finished", "dim")


def _tell_decisions(session: Session, item: dict[str, Any]) -> None:
    screen = session.screen
    head = f"{item['workflow']}/{item['trigger']}"
    screen.line(Paint(head, "bold"), f"  {item.get('cron') or item.get('at')}  {item['timezone']}  ", _state(item))
    for decision in item.get("decisions", ()):
        run = f"  {decision['run']}" if decision.get("run") else ""
        error = f"  {decision['error']['code']}" if decision.get("error") else ""
        screen.line(
            Paint(f"  {_brief(decision['at']):<20}  ", "dim"),
            _code(decision["code"]),
            f"  {_slots(decision)}{run}{error}",
        )
    if not item.get("decisions"):
        screen.line(Paint("  nothing was decided yet", "dim"))


def _show_next(session: Session, items: list[dict[str, Any]]) -> None:
    several = len({item.get("trigger") for item in items}) > 1
    heads = ["LOCAL", "UTC"] + (["TRIGGER"] if several else [])
    heads += ["FIRES BEFORE"] if any("latest" in item for item in items) else []
    heads += ["NOTE"] if any("note" in item for item in items) else []
    rows: list[list[Cell]] = []
    for item in items:
        row: list[Cell] = [item["local"], _brief(item["at"])]
        row += [item["trigger"]] if several else []
        row += [_brief(item.get("latest"))] if "FIRES BEFORE" in heads else []
        row += [Paint(item.get("note", ""), "yellow")] if "NOTE" in heads else []
        rows.append(row)
    session.screen.table(heads, rows, keep=(0, 1))


def _show_simulation(session: Session, items: list[dict[str, Any]]) -> None:
    for item in items:
        head: list[Cell] = [Paint(f"{item['local']:<31}", "dim"), _code(item["code"])]
        if "trigger" not in item:
            where = f"{item['timezone']}: " if item["code"] == "CLOCK_CHANGE" else ""
            session.screen.line(*head, "  ", Paint(where + item["note"], "cyan"))
            continue
        slot = "" if item["code"] == "SLOT_FIRED" and item["slot"] == item["at"] else f"  {_slots(item)}"
        note = Paint(f"  ({item['note']})", "yellow") if "note" in item else ""
        session.screen.line(*head, f"  {item['workflow']}/{item['trigger']}{slot}", note)


def _slots(item: dict[str, Any]) -> str:
    if item.get("slots", 1) == 1:
        return f"slot {_brief(item['slot'])}"
    more = " or more" if item.get("at_least") else ""
    return f"{item['slots']}{more} slots {_brief(item['slot'])} to {_brief(item['until'])}"


def _code(code: str) -> Cell:
    return Paint(f"{code:<15}", _LATE.get(code, "cyan"))


def _brief(text: str | None) -> str:
    """A time without milliseconds that say nothing."""
    return "" if text is None else re.sub(r"\.000Z$", "Z", text)
