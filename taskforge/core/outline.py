"""A document as a list of steps with their places: what comparing documents and looking ahead have in common.

Documents are valid ones, as they were given or stored. In the config of a kind that comes from another package, every
list of mappings with ids counts as inner steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from taskforge.core.definition_read import HANDLERS
from taskforge.core.definition_steps import STEP_KEYS
from taskforge.core.model import JSON
from taskforge.core.problem import Pointer
from taskforge.core.record import dataclass

LISTS = ("steps", "on_failure", "finally")
"""The keys of a document that hold steps."""

_INNER = {"foreach": "steps", "repeat": "steps", "parallel": "steps", "wait": "on_timeout"}
_OWN = {*_INNER, "switch", "http", "transform", "workflow", "set_state", "fail", "succeed"}
"""The kinds that come with TaskForge."""

_OPENING = "${{"
_URL = re.compile(r"\s*https?://([^/?#]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class StepAt:
    """A step and where it stands. `block` is `steps`, `on_failure`, `route.switch[0]`, `each.foreach`, `fetch.catch`;
    `after` the step before it there. `fields` are its own: lists of inner steps are empty in it. `pointer` leads to it
    in the document."""

    id: str
    kind: str
    block: str
    after: str | None
    fields: dict[str, JSON]
    pointer: Pointer


@dataclass(frozen=True, slots=True)
class Outline:
    """`steps` by id, in the order of the document; `fields` are those of the document; its
    lists of steps are empty in it."""

    steps: dict[str, StepAt]
    fields: dict[str, JSON]


class Child(NamedTuple):
    """A workflow that a document names by a literal, and where: a `workflow` step, or an `on_run` trigger."""

    workflow: str
    pointer: Pointer


class Calls(NamedTuple):
    """What requests a document makes: literal hosts (with a port where one is written), and the steps whose host is
    known only when they run."""

    hosts: frozenset[str]
    computed: tuple[str, ...]


def outline(document: JSON) -> Outline:
    """Take a document apart. What is no step where one belongs is passed over."""
    steps: dict[str, StepAt] = {}
    for key in LISTS:
        _add_list(steps, document.get(key), key, (key,))
    return Outline(steps, {key: [] if key in LISTS else value for key, value in document.items()})


def _add_list(steps: dict[str, StepAt], value: JSON, block: str, pointer: Pointer) -> None:
    after: str | None = None
    for index, step in enumerate(value if isinstance(value, list) else ()):
        id = step.get("id") if isinstance(step, dict) else None
        if not isinstance(id, str):
            continue
        inner = list(_inner_lists(step))
        fields = {key: value for key, value in step.items() if key != "id"}
        for at, _, _ in inner:
            fields = _emptied(fields, at)
        kind = next((key for key in step if key not in STEP_KEYS), "")
        steps[id] = StepAt(id, kind, block, after, fields, (*pointer, index))
        for at, name, listed in inner:
            _add_list(steps, listed, f"{id}.{name}", (*pointer, index, *at))
        after = id


def _inner_lists(step: dict[str, Any]) -> Iterator[tuple[Pointer, str, JSON]]:
    """The lists of steps inside a step: where, their name, and the list."""
    for handler in HANDLERS:
        if isinstance(step.get(handler), list):
            yield (handler,), handler, step[handler]
    kind = next((key for key in step if key not in STEP_KEYS), "")
    config = step.get(kind)
    if kind == "switch":
        for index, branch in enumerate(config if isinstance(config, list) else ()):
            for key, name in (("steps", f"switch[{index}]"), ("else", "switch.else")):
                if isinstance(branch, dict) and isinstance(branch.get(key), list):
                    yield (kind, index, key), name, branch[key]
    elif kind == "parallel" and isinstance(config, list):
        yield (kind,), kind, config
    elif isinstance(config, dict):
        for key, value in config.items():
            if isinstance(value, list) and (key == _INNER.get(kind) or (kind not in _OWN and _looks_like_steps(value))):
                yield (kind, key), kind if key == "steps" else key, value


def _looks_like_steps(value: list[JSON]) -> bool:
    return bool(value) and all(isinstance(item, dict) and isinstance(item.get("id"), str) for item in value)


def _emptied(value: JSON, pointer: Pointer) -> JSON:
    """A copy with an empty list at the pointer; what is not on the way is shared."""
    if not pointer:
        return []
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[pointer[0]] = _emptied(value[pointer[0]], pointer[1:])
    return copy


def children_of(document: JSON) -> list[Child]:
    """The workflows that a document starts, or whose ends start it, where their names are literals."""
    found = []
    for step in outline(document).steps.values():
        config = step.fields.get("workflow") if step.kind == "workflow" else None
        name = config.get("name") if isinstance(config, dict) else None
        if isinstance(name, str) and _OPENING not in name:
            found.append(Child(name, (*step.pointer, "workflow", "name")))
    triggers = document.get("triggers")
    for trigger, settings in (triggers if isinstance(triggers, dict) else {}).items():
        source = settings.get("on_run") if isinstance(settings, dict) else None
        name = source.get("workflow") if isinstance(source, dict) else None
        if isinstance(name, str):
            found.append(Child(name, ("triggers", trigger, "on_run", "workflow")))
    return found


def calls_of(document: JSON) -> Calls:
    """The hosts that a document's `http` steps and `notify` call."""
    hosts, computed = set(), []
    for label, url in _urls(document):
        host = host_of(url)
        if host is None:
            computed.append(label)
        else:
            hosts.add(host)
    return Calls(frozenset(hosts), tuple(computed))


def _urls(document: JSON) -> Iterator[tuple[str, JSON]]:
    for step in outline(document).steps.values():
        config = step.fields.get("http") if step.kind == "http" else None
        if isinstance(config, dict):
            yield step.id, config.get("url")
    messages = document.get("notify")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        for receiver, settings in message.items() if isinstance(message, dict) else ():
            if receiver != "on" and isinstance(settings, dict):
                yield f"notify[{index}]", settings.get("url")


def host_of(url: JSON) -> str | None:
    """The host of a URL as it is written, in lower case; None where an expression decides on it."""
    found = _URL.match(url) if isinstance(url, str) else None
    if found is None or _OPENING in found[1]:
        return None
    return found[1].rpartition("@")[2].strip().lower() or None
