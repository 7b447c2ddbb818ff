"""`runs show`: a run's steps as a tree, with states, durations, attempts and errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from taskforge.cli.render import Cell, Paint, Screen, state, width
from taskforge.cli.shown import encode
from taskforge.cli.timeline import failure, span
from taskforge.core.clock import from_rfc3339
from taskforge.core.durations import format_duration

_BLOCKS = ("switch", "parallel", "foreach", "repeat", "wait")
_HANDLERS = ("catch", "finally", "undo", "probe")
_RUN_HANDLERS = ("steps", "on_failure", "finally")
_LOOP = re.compile(r"(.*)\[(\d+)\]\.[^.]*")
_NAME_COLUMNS = 36
_STROKES = " │├└─"
_ITEMS = 10
"""Most items of a loop that are drawn; of more, those that did not go well."""


_OF_EVERY_KIND = frozenset(
    {"id", "if", "needs", "retry", "timeout", "continue_on_error", "description", "effect", "rate_limit", *_HANDLERS}
)


class Place(NamedTuple):
    """Where a step stands in its document; `role` is the handler or branch that it belongs to, if any."""

    order: int
    parent: str | None
    role: str = ""
    kind: str = ""


def draw_run(
    screen: Screen,
    run: dict[str, Any],
    document: Any,
    now: int,
    names: Mapping[str, str] | None = None,
    *,
    fold: bool = True,
) -> None:
    """Print a run. `document` is the workflow's document as data, or None when it is not at hand; `names` are what
    other runs are called, by id; `fold` counts the items of long loops instead of drawing each."""
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
    drawing = _Drawing(screen, outline(document), now, names or {}, fold)
    for label, told in _origins(run, drawing.names):
        screen.line(Paint(f"  {label:<8}", "dim"), told)
    if run.get("input") not in (None, {}):
        screen.line(Paint("  input   ", "dim"), _compact(run["input"]))
    drawing.draw(run.get("steps") or [])
    if run.get("steps_cursor"):
        more = (run.get("steps_total") or 0) - len(run["steps"])
        screen.line(Paint(f"  … {more} more steps: taskforge runs show {reference(run)} --all", "dim"))
    if run.get("error"):
        where = run["error"].get("step")
        told = failure(run["error"]) + (f" (step {where})" if where else "")
        screen.paragraph(Paint("  error   ", "dim"), Paint(told, "red"), hang=10)
    if run.get("output") is not None:
        screen.line(Paint("  output  ", "dim"), _compact(run["output"]))


def _origins(run: dict[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    parent = run.get("parent")
    if parent:
        yield "parent", f"{names.get(parent['run'], parent['run'])}, step {parent['step']}"
    if run.get("replay_of"):
        yield "replays", names.get(run["replay_of"], run["replay_of"])


def reference(run: dict[str, Any]) -> str:
    """`uptime#42`, the name that every command takes."""
    return f"{run['workflow']}#{run['number']}" if run.get("workflow") and run.get("number") else str(run.get("id"))


def outline(document: Any) -> dict[str, Place]:
    """Every step id of a document, with its order and the step around it."""
    found: dict[str, Place] = {}

    def walk(value: Any, parent: str | None, role: str = "") -> None:
        if isinstance(value, list):
            for entry in value:
                walk(entry, parent, role)
        elif isinstance(value, dict) and isinstance(value.get("id"), str):
            found.setdefault(value["id"], Place(len(found), parent, role, kind_of(value)))
            for block in _BLOCKS:
                walk(value.get(block), value["id"])
            for handler in _HANDLERS:
                walk(value.get(handler), value["id"], handler)
        elif isinstance(value, dict):
            for key in ("steps", "else", "when"):
                walk(value.get(key), parent)
            walk(value.get("on_timeout"), parent, "on_timeout")

    if isinstance(document, dict):
        for handler in _RUN_HANDLERS:
            walk(document.get(handler), None, "" if handler == "steps" else handler)
    return found


def find_step(document: Any, id: str) -> dict[str, Any] | None:
    """The step of a document with this id, however deep it stands."""
    if isinstance(document, dict):
        if document.get("id") == id and kind_of(document):
            return document
        document = list(document.values())
    if isinstance(document, list):
        return next((found for entry in document if (found := find_step(entry, id)) is not None), None)
    return None


def kind_of(step: dict[str, Any]) -> str:
    """What kind of step a step of a document is: the key that is its kind's name."""
    return next((str(key) for key in step if key not in _OF_EVERY_KIND), "")


class Nested(NamedTuple):
    """A step of a run and how deep it stands; or, without a step, how many items of a loop are not listed."""

    depth: int
    label: str
    step: dict[str, Any] | None
    has_inner: bool = False


def nested(steps: list[dict[str, Any]], places: dict[str, Place], *, fold: bool) -> Iterator[Nested]:
    """Every step below the one around it, in the order of the document; `fold`: of long loops only what tells."""
    shown = {step["path"] for step in steps}
    children: dict[str, list[dict[str, Any]]] = {}
    for step in sorted(steps, key=lambda step: _order(step, places)):
        parent = _parent(step["path"], places)
        children.setdefault(parent if parent in shown else "", []).append(step)

    def walk(parent: str, depth: int) -> Iterator[Nested]:
        siblings, folded = children.get(parent, []), ""
        if fold and parent:
            siblings, folded = _folded(siblings, children, parent)
        for step in siblings:
            path = step["path"]
            label = path[len(parent) :] if parent and path.startswith(f"{parent}[") else path.rpartition(".")[2]
            yield Nested(depth, label, step, bool(children.get(path)))
            yield from walk(path, depth + 1)
        if folded:
            yield Nested(depth, folded, None)

    return walk("", 0)


class _Line(NamedTuple):
    """A step with its facts, or a note below one."""

    name: str
    cells: list[Cell]
    step: bool


class _Drawing:
    """One tree of steps on its way to the screen."""

    def __init__(
        self, screen: Screen, places: dict[str, Place], now: int, names: Mapping[str, str], fold: bool
    ) -> None:
        self.screen = screen
        self.places = places
        self.now = now
        self.names = names
        self.fold = fold

    def draw(self, steps: list[dict[str, Any]]) -> None:
        shown = {step["path"] for step in steps}
        children: dict[str, list[dict[str, Any]]] = {}
        for step in sorted(steps, key=lambda step: _order(step, self.places)):
            parent = _parent(step["path"], self.places)
            children.setdefault(parent if parent in shown else "", []).append(step)
        lines = list(self._branches(children, "", "  "))
        wide = min(max((width(line.name) for line in lines if line.step), default=0), _NAME_COLUMNS)
        for line in lines:
            bare = line.name.lstrip(_STROKES)
            gap = " " * max(wide - width(line.name), 0) + "  " if line.step else ""
            margin = Paint(line.name[: len(line.name) - len(bare)], "dim")
            self.screen.paragraph(margin, bare, gap, *line.cells, hang=width(line.name) + 3)

    def _branches(self, children: dict[str, list[dict[str, Any]]], parent: str, margin: str) -> Iterator[_Line]:
        siblings = children.get(parent, [])
        folded = ""
        if self.fold and parent:
            siblings, folded = _folded(siblings, children, parent)
        for at, step in enumerate(siblings):
            last = at == len(siblings) - 1 and not folded
            path = step["path"]
            label = path[len(parent) :] if parent and path.startswith(f"{parent}[") else path.rpartition(".")[2]
            deeper = margin + ("   " if last else "│  ")
            mark = self.screen.mark(step["state"])
            yield _Line(f"{margin}{'└─ ' if last else '├─ '}{mark} {label}", self._facts(step), True)
            inner = "│ " if children.get(path) else "  "
            for note in self._notes(step):
                yield _Line(f"{deeper}{inner}", note, False)
            yield from self._branches(children, path, deeper)
        if folded:
            yield _Line(f"{margin}└─ ", [Paint(folded, "dim")], False)

    def _facts(self, step: dict[str, Any]) -> list[Cell]:
        cells: list[Cell] = [Paint(f"{step.get('kind') or '':<10}", "dim"), state(step["state"])]
        took = span(step, self.now if step["state"] in ("RUNNING", "WAITING") else None)
        if took is not None:
            cells.append(f"  {format_duration(took)}")
        made = step.get("attempts") or []
        attempts = [attempt for attempt in made if _generation(attempt) == _generation(step)]
        if len(attempts) > 1:
            cells.append(Paint(f"  {len(attempts)} attempts", "yellow"))
        role = self.places.get(step["path"].rpartition(".")[2], Place(0, None)).role
        if role:
            cells.append(Paint(f"  {role}", "dim"))
        cells += self._awaited(step)
        return cells

    def _awaited(self, step: dict[str, Any]) -> list[Cell]:
        """What a step waits for, and until when."""
        cells: list[Cell] = []
        if step.get("child"):
            cells.append(Paint(f"  child {self.names.get(step['child'], step['child'])}", "blue"))
        elif step.get("signal"):
            cells.append(Paint(f"  for signal {step['signal']}", "blue"))
        due = None if step.get("child") else step.get("available_at")
        if due and step["state"] in ("QUEUED", "WAITING") and from_rfc3339(due) > self.now:
            words = "until" if step["state"] == "WAITING" else "due in"
            left = format_duration(from_rfc3339(due) - self.now)
            cells.append(Paint(f"  {words} {due}, in {left}" if words == "until" else f"  {words} {left}", "dim"))
        return cells

    def _notes(self, step: dict[str, Any]) -> Iterator[list[Cell]]:
        """Lines under a step: its attempts where there is something to tell, by generation, else its error."""
        attempts = step.get("attempts") or []
        many = len({_generation(attempt) for attempt in attempts}) > 1
        if len(attempts) > 1 or any(attempt.get("error") for attempt in attempts):
            for attempt in attempts:
                took = span(attempt)
                number = f"{_generation(attempt)}.{attempt['number']}" if many else f"{attempt['number']:>2}"
                cells: list[Cell] = [Paint(f"{number} ", "dim"), state(attempt["state"])]
                if took is not None:
                    cells.append(f"  {format_duration(took)}")
                if attempt.get("error"):
                    cells.append(f"  {failure(attempt['error'])}")
                yield cells
        error = step.get("error")
        if error and not any(failure(attempt.get("error")) == failure(error) for attempt in attempts):
            yield [Paint(failure(error), "red")]


def _folded(
    siblings: list[dict[str, Any]], children: dict[str, list[dict[str, Any]]], parent: str
) -> tuple[list[dict[str, Any]], str]:
    """Of a loop with many items: the steps of those to draw, and how many others there are in which state."""
    items: dict[str, list[dict[str, Any]]] = {}
    for step in siblings:
        loop = _LOOP.fullmatch(step["path"])
        if loop is not None and loop[1] == parent:
            items.setdefault(loop[2], []).append(step)
    if len(items) <= _ITEMS:
        return siblings, ""
    states = {index: _state_of(item, children) for index, item in items.items()}
    telling = [index for index, found in states.items() if found not in _QUIET][:_ITEMS]
    counts: dict[str, int] = {}
    for index, found in states.items():
        if index not in telling:
            counts[found] = counts.get(found, 0) + 1
    told = ", ".join(f"{count} {found}" for found, count in sorted(counts.items()))
    drawn = [step for index in telling for step in items[index]]
    return drawn, f"… {told} (--all shows them)" if counts else ""


_QUIET = ("SUCCEEDED", "SKIPPED", "PENDING")
_LOUDEST = ("FAILED", "RUNNING", "WAITING", "QUEUED", "CANCELLED", "SUCCEEDED", "SKIPPED", "PENDING")


def _state_of(item: list[dict[str, Any]], children: dict[str, list[dict[str, Any]]]) -> str:
    """The state that tells most among the steps of one item."""
    found = {step["state"] for step in item}
    for step in item:
        inner = children.get(step["path"])
        if inner:
            found.add(_state_of(inner, children))
    return next((name for name in _LOUDEST if name in found), "PENDING")


def _generation(item: dict[str, Any]) -> int:
    return int(item.get("generation") or 1)


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
