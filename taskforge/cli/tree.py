"""`runs show`: a run's steps as a tree, with states, durations, attempts and errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from taskforge.cli.render import Cell, Paint, Screen, state, width
from taskforge.cli.shown import encode
from taskforge.cli.timeline import failure, span
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import format_duration

_BLOCKS = ("switch", "parallel", "foreach", "repeat", "catch", "undo", "finally", "probe")
_HANDLERS = ("steps", "on_failure", "finally")
_LOOP = re.compile(r"(.*)\[(\d+)\]\.[^.]*")
_NAME_COLUMNS = 36
_STROKES = " │├└─"


class Place(NamedTuple):
    """Where a step stands in its document."""

    order: int
    parent: str | None


def draw_run(screen: Screen, run: dict[str, Any], document: Any, now: int) -> None:
    """Print a run. `document` is the workflow's document as data, or None when it is not at hand."""
    took = span(run, now)
    head: list[Cell] = [Paint(reference(run), "bold"), "  ", screen.mark(run["state"]), " ", state(run["state"])]
    if took is not None:
        head.append(f"  {'after' if run.get('finished_at') else 'for'} {format_duration(took)}")
    screen.line(*head)
    trigger = run.get("trigger")
    kind = trigger.get("type") if isinstance(trigger, dict) else trigger
    facts = [f"version {run.get('version')}", f"by {kind}", f"at {run.get('created_at')}"]
    if (run.get("generation") or 1) > 1:
        facts.append(f"generation {run['generation']}")
    screen.line(Paint(f"  {run['id']}  " + "  ".join(facts), "dim"))
    if run.get("input") not in (None, {}):
        screen.line(Paint("  input   ", "dim"), _compact(run["input"]))
    _draw_steps(screen, run.get("steps") or [], outline(document), now)
    if run.get("steps_cursor"):
        more = (run.get("steps_total") or 0) - len(run["steps"])
        screen.line(Paint(f"  … {more} more steps: taskforge runs show {reference(run)} --steps all", "dim"))
    if run.get("error"):
        where = run["error"].get("step")
        told = failure(run["error"]) + (f" (step {where})" if where else "")
        screen.paragraph(Paint("  error   ", "dim"), Paint(told, "red"), hang=10)
    if run.get("output") is not None:
        screen.line(Paint("  output  ", "dim"), _compact(run["output"]))


def reference(run: dict[str, Any]) -> str:
    """`uptime#42`, the name that every command takes."""
    return f"{run['workflow']}#{run['number']}" if run.get("workflow") and run.get("number") else str(run.get("id"))


def outline(document: Any) -> dict[str, Place]:
    """Every step id of a document, with its order and the step around it."""
    found: dict[str, Place] = {}

    def walk(value: Any, parent: str | None) -> None:
        if isinstance(value, list):
            for entry in value:
                walk(entry, parent)
        elif isinstance(value, dict) and isinstance(value.get("id"), str):
            found.setdefault(value["id"], Place(len(found), parent))
            for block in _BLOCKS:
                walk(value.get(block), value["id"])
        elif isinstance(value, dict):
            for key in ("steps", "else", "when"):
                walk(value.get(key), parent)

    if isinstance(document, dict):
        for handler in _HANDLERS:
            walk(document.get(handler), None)
    return found


def _draw_steps(screen: Screen, steps: list[dict[str, Any]], places: dict[str, Place], now: int) -> None:
    shown = {step["path"] for step in steps}
    children: dict[str, list[dict[str, Any]]] = {}
    for step in sorted(steps, key=lambda step: _order(step, places)):
        parent = _parent(step["path"], places)
        children.setdefault(parent if parent in shown else "", []).append(step)
    lines = list(_branches(screen, children, "", "  ", now))
    wide = min(max((width(line.name) for line in lines if line.step), default=0), _NAME_COLUMNS)
    for line in lines:
        bare = line.name.lstrip(_STROKES)
        gap = " " * max(wide - width(line.name), 0) + "  " if line.step else ""
        margin = Paint(line.name[: len(line.name) - len(bare)], "dim")
        screen.paragraph(margin, bare, gap, *line.cells, hang=width(line.name) + 3)


class _Line(NamedTuple):
    """A step with its facts, or a note below one."""

    name: str
    cells: list[Cell]
    step: bool


def _branches(
    screen: Screen, children: dict[str, list[dict[str, Any]]], parent: str, margin: str, now: int
) -> Iterator[_Line]:
    siblings = children.get(parent, [])
    for at, step in enumerate(siblings):
        last = at == len(siblings) - 1
        path = step["path"]
        label = path[len(parent) :] if parent and path.startswith(f"{parent}[") else path.rpartition(".")[2]
        deeper = margin + ("   " if last else "│  ")
        yield _Line(f"{margin}{'└─ ' if last else '├─ '}{screen.mark(step['state'])} {label}", _facts(step, now), True)
        inner = "│ " if children.get(path) else "  "
        for note in _notes(step):
            yield _Line(f"{deeper}{inner}", note, False)
        yield from _branches(screen, children, path, deeper, now)


def _facts(step: dict[str, Any], now: int) -> list[Cell]:
    cells: list[Cell] = [Paint(f"{step.get('kind') or '':<10}", "dim"), state(step["state"])]
    took = span(step, now if step["state"] in ("RUNNING", "WAITING") else None)
    if took is not None:
        cells.append(f"  {format_duration(took)}")
    attempts = step.get("attempts") or []
    if len(attempts) > 1:
        cells.append(Paint(f"  {len(attempts)} attempts", "yellow"))
    due = step.get("available_at")
    if due and step["state"] in ("QUEUED", "WAITING") and from_rfc3339(due) > now:
        cells.append(Paint(f"  due in {format_duration(from_rfc3339(due) - now)}", "dim"))
    return cells


def _notes(step: dict[str, Any]) -> Iterator[list[Cell]]:
    """Lines under a step: its attempts where there is something to tell, else its error."""
    attempts = step.get("attempts") or []
    if len(attempts) > 1 or any(attempt.get("error") for attempt in attempts):
        for attempt in attempts:
            took = span(attempt)
            cells: list[Cell] = [Paint(f"{attempt['number']:>2} ", "dim"), state(attempt["state"])]
            if took is not None:
                cells.append(f"  {format_duration(took)}")
            if attempt.get("error"):
                cells.append(f"  {failure(attempt['error'])}")
            yield cells
    error = step.get("error")
    if error and not any(failure(attempt.get("error")) == failure(error) for attempt in attempts):
        yield [Paint(failure(error), "red")]


def _parent(path: str, places: dict[str, Place]) -> str:
    prefix, _, name = path.rpartition(".")
    name = name or path
    place = places.get(name)
    loop = _LOOP.fullmatch(path)
    if place is None or place.parent is None:
        return loop[1] if loop else ""
    if loop and (loop[1].rpartition(".")[2]) == place.parent:
        return loop[1]
    return f"{prefix}.{place.parent}" if prefix else place.parent


def _order(step: dict[str, Any], places: dict[str, Place]) -> tuple[Any, ...]:
    path = step["path"]
    place = places.get(path.rpartition(".")[2])
    indexes = tuple(int(number) for number in re.findall(r"\[(\d+)\]", path))
    return (indexes, place.order if place else 1_000_000, step.get("started_at") or "~", path)


def _compact(value: Any) -> str:
    return encode(value, indent=None)
