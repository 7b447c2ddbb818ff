"""Reads the steps of a workflow document into `model.Step`s."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from taskforge.core.definition_config import ReadConfig, read_config
from taskforge.core.definition_needs import check_needs, read_needs
from taskforge.core.definition_policies import read_rate_limit, read_retry
from taskforge.core.definition_read import (
    HANDLERS,
    RESERVED_IDS,
    STEP_ID,
    Node,
    Reading,
    Use,
    Zone,
    check_mapping,
    read_condition,
    read_duration,
    read_flag,
    read_text,
    read_word,
)
from taskforge.core.findings import with_suggestion
from taskforge.core.kind import Kind
from taskforge.core.model import JSON, Block, Evaluation, RateLimit, Retry, Step, Template
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.templated import describe

STEP_KEYS = (
    "id",
    "description",
    "if",
    "needs",
    "retry",
    "timeout",
    "continue_on_error",
    "rate_limit",
    "effect",
    *HANDLERS,
)
EFFECTS = ("idempotent", "once")
_ID_FORM = "use lower-case letters, digits and _, beginning with a letter, at most 63"


class StepReader:
    """Reads lists of steps; ids are unique in the whole document."""

    def __init__(self, reading: Reading, retry: dict[str, Any]) -> None:
        self._reading = reading
        self._retry = retry
        self._ids: dict[str, Pointer] = {}
        self._count = 0

    @property
    def ids(self) -> set[str]:
        """All ids that have been read."""
        return set(self._ids)

    @property
    def next_order(self) -> int:
        """The place in the document of the next step."""
        return self._count + 1

    def read_list(
        self,
        pointer: Pointer,
        value: JSON,
        depth: int = 0,
        loops: tuple[str, ...] = (),
        zone: Zone = "main",
        *,
        together: bool = False,
    ) -> list[Node]:
        """Read a list of steps that stands inside `depth` blocks."""
        findings, limits = self._reading.findings, self._reading.limits
        if not isinstance(value, list):
            findings.error(pointer, f"must be a list of steps, not {describe(value)}")
            return []
        if depth > limits.nesting:
            findings.error(pointer, f"blocks stand more than {limits.nesting} deep inside one another")
            return []
        nodes: list[Node] = []
        for position, item in enumerate(value):
            self._count += 1
            if self._count == limits.steps + 1:
                findings.error((*pointer, position), f"the workflow has more than {limits.steps} steps")
            if self._count <= limits.steps:
                nodes.append(self._read_step((*pointer, position), item, depth, loops, zone, together))
        if together:
            check_needs(self._reading, nodes)
        else:
            self._check_reached(nodes)
        return nodes

    def _check_reached(self, nodes: list[Node]) -> None:
        for node, after in pairwise(nodes):
            if node.ends_list and self._reading.strict:
                message = f"step {quoted(node.id or '')} always ends this list; nothing from here on runs"
                self._reading.findings.warn(after.pointer, message, hint="give it an `if`, or remove these steps")
                return

    def _read_step(
        self, pointer: Pointer, value: JSON, depth: int, loops: tuple[str, ...], zone: Zone, together: bool
    ) -> Node:
        node, order = Node(pointer), self._count
        if not check_mapping(self._reading, pointer, value):
            return node
        node.id = self._read_id(pointer, value)
        node.kind = self._read_kind_name(node, value)
        settings = self._read_settings(node, value, together)
        kind = None if node.kind is None else self._reading.kinds[node.kind]
        read: ReadConfig | None = None
        blocks: tuple[Block, ...] = ()
        limit: RateLimit | None = None
        if kind is not None:
            limit = self._read_for_attempts(node, kind, value, settings)
            config = {} if value[kind.name] is None and kind.optional else value[kind.name]
            blocks = self._read_blocks(node, kind, config, depth, loops, zone)
            key = value["rate_limit"].get("key") if limit is not None else None
            read = read_config(self._reading, node, kind, (*pointer, kind.name), config, limit is not None, key)
            self._check_end(node, kind, value, zone)
        handlers = self._read_handlers(node, kind, value, depth, loops, zone)
        if kind is None or read is None or node.id is None:
            return node
        node.step = self._make_step(node, kind, read, settings, loops, blocks, handlers, limit, order)
        return node

    def _make_step(
        self,
        node: Node,
        kind: Kind,
        read: ReadConfig,
        settings: dict[str, Any],
        loops: tuple[str, ...],
        blocks: tuple[Block, ...],
        handlers: dict[str, tuple[Step, ...]],
        limit: RateLimit | None,
        order: int,
    ) -> Step:
        guard, retry_when = settings.pop("guard"), settings.pop("retry_when")
        evaluations = dict(read.evaluations)
        if retry_when is not None and kind.role == "action":
            evaluations["retry"] = self._reading.condition(retry_when.template)
        return Step(
            id=node.id or "",
            kind=kind,
            config=read.config,
            evaluation=Evaluation(guard, read.template, kind.evaluation_mode(read.config)),
            loops=loops,
            blocks=blocks,
            needs=tuple(dict.fromkeys(id for id, _ in node.needs)),
            later=read.later,
            evaluations=evaluations,
            handlers=handlers,
            rate_limit=limit,
            order=order,
            position=self._reading.findings.place(node.pointer),
            **settings,
        )

    # ---- what a step is called and does

    def _read_id(self, pointer: Pointer, value: dict[str, JSON]) -> str | None:
        findings = self._reading.findings
        if "id" not in value:
            findings.error(pointer, '"id" is missing', hint="every step has an id, by which others name its output")
            return None
        place = (*pointer, "id")
        id = read_word(self._reading, place, value["id"], STEP_ID, _ID_FORM, "step id")
        if id is None:
            return None
        if id in RESERVED_IDS:
            findings.error(place, f"the id {quoted(id)} is reserved; ${id} has a meaning of its own")
            return None
        if id in self._ids:
            first = findings.line((*self._ids[id], "id"))
            where = f"; first on line {first}" if first else ""
            findings.error(place, f"the id {quoted(id)} stands twice{where}", hint="ids are unique in a workflow")
            if first and self._reading.strict:
                line = findings.line(place)
                findings.error((*self._ids[id], "id"), f"the id {quoted(id)} stands twice; again on line {line}")
            return None
        self._ids[id] = pointer
        return id

    def _read_kind_name(self, node: Node, value: dict[str, JSON]) -> str | None:
        """Find the one key that says what the step does; note every key that has no place in a step."""
        findings, kinds, pointer = self._reading.findings, self._reading.kinds, node.pointer
        found = [key for key in value if key in kinds]
        unknown = [key for key in value if key not in STEP_KEYS and key not in kinds]
        unknown.sort(key=lambda key: findings.place((*pointer, key)))
        listed = ", ".join(kinds)
        if len(found) > 1:
            both = " and ".join(found)
            findings.error((*pointer, found[1]), f"step has {both}; it needs exactly one of {listed}", key=True)
            node.hidden_ids |= _ids_in([value[key] for key in found])
        elif not found:
            near = {key: said for key in unknown if (said := suggest(key, kinds))}
            wrong = next(iter(near), unknown[0] if unknown else None)
            needs = f"step needs exactly one of {listed}"
            if wrong is None:
                findings.error(pointer, needs)
            else:
                message = f"{needs}; found {quoted(wrong)}"
                said = near.get(wrong)
                findings.error((*pointer, wrong), f"{message}: {said}" if said else message, key=True)
                node.hidden_ids |= _ids_in(value[wrong])
                unknown.remove(wrong)
        for key in unknown:
            findings.unknown_key((*pointer, key), (*STEP_KEYS, *kinds))
            node.hidden_ids |= _ids_in(value[key])
        return found[0] if len(found) == 1 else None

    # ---- what steps of every kind may have

    def _read_settings(self, node: Node, value: dict[str, JSON], together: bool) -> dict[str, Any]:
        reading, pointer = self._reading, node.pointer
        guard: Template | None = None
        if "if" in value:
            use = read_condition(reading, (*pointer, "if"), value["if"], "if")
            if use is not None:
                node.uses.append(use)
                guard = use.template
        retry = dict(self._retry)
        if "retry" in value:
            retry = read_retry(reading, (*pointer, "retry"), value["retry"], retry)
            if isinstance(value["retry"], dict) and "when" in value["retry"]:
                node.retry_use = retry.get("when")
        retry_when: Use | None = retry.pop("when", None)
        if "needs" in value:
            node.needs = read_needs(reading, (*pointer, "needs"), value["needs"], together=together)
        timeout = value.get("timeout")
        flag = value.get("continue_on_error", False)
        effect = value.get("effect", "idempotent")
        if effect not in EFFECTS:
            near = suggest(effect, EFFECTS) if isinstance(effect, str) else None
            reading.findings.error((*pointer, "effect"), with_suggestion("must be idempotent or once", near))
            effect = "idempotent"
        return {
            "guard": guard,
            "retry": Retry(**retry),
            "retry_when": retry_when,
            "timeout_ms": None if timeout is None else read_duration(reading, (*pointer, "timeout"), timeout),
            "continue_on_error": read_flag(reading, (*pointer, "continue_on_error"), flag),
            "description": read_text(reading, (*pointer, "description"), value.get("description")),
            "effect": effect,
        }

    def _read_for_attempts(
        self, node: Node, kind: Kind, value: dict[str, JSON], settings: dict[str, Any]
    ) -> RateLimit | None:
        """What only steps with attempts may have. Returns the rate limit."""
        findings, pointer = self._reading.findings, node.pointer
        if kind.role != "action":
            if "retry" in value:
                message = f"retry has no effect on a {kind.name} step: it makes no attempts"
                findings.warn((*pointer, "retry"), message, key=True)
            for key in ("rate_limit", "effect", "probe"):
                if key in value:
                    message = f"`{key}` is for steps that make attempts; a {kind.name} step makes none"
                    hint = "put it on the steps inside" if kind.role == "control" else None
                    findings.error((*pointer, key), message, hint=hint, key=True)
            return None
        if "probe" in value and settings["effect"] != "once":
            message = "`probe` is for steps with `effect: once`: others are simply tried again"
            findings.error((*pointer, "probe"), message, key=True)
        if value.get("rate_limit") is None:
            return None
        return read_rate_limit(self._reading, (*pointer, "rate_limit"), value["rate_limit"])

    # ---- steps inside and around a step

    def _read_blocks(
        self, node: Node, kind: Kind, config: JSON, depth: int, loops: tuple[str, ...], zone: Zone
    ) -> tuple[Block, ...]:
        blocks: list[Block] = []
        for source in kind.blocks(config):
            place, value = (*node.pointer, kind.name, *source.pointer), _value_at(config, source.pointer)
            if value == [] and (source.loop or source.together):
                self._reading.findings.error(place, "must have at least one step")
            inner = self.read_list(
                place,
                value,
                depth + 1,
                (*loops, node.id or "") if source.loop else loops,
                zone,
                together=source.together,
            )
            node.blocks.append((source, inner))
            blocks.append(Block(source.name, _steps_of(inner)))
        return tuple(blocks)

    def _read_handlers(
        self,
        node: Node,
        kind: Kind | None,
        value: dict[str, JSON],
        depth: int,
        loops: tuple[str, ...],
        zone: Zone,
    ) -> dict[str, tuple[Step, ...]]:
        findings = self._reading.findings
        handlers: dict[str, tuple[Step, ...]] = {}
        for handler in HANDLERS:
            if handler not in value:
                continue
            place = (*node.pointer, handler)
            if handler == "undo" and zone != "main":
                message = "`undo` has no place in steps that run while the run is ending"
                findings.error(place, message, key=True)
            if value[handler] == []:
                hint = "to go on after a failure, write continue_on_error: true" if handler == "catch" else None
                findings.error(place, "must have at least one step", hint=hint)
            inner_zone: Zone = "undo" if handler == "undo" else zone
            node.handlers[handler] = self.read_list(place, value[handler], depth + 1, loops, inner_zone)
            handlers[handler] = _steps_of(node.handlers[handler])
        return handlers

    def _check_end(self, node: Node, kind: Kind, value: dict[str, JSON], zone: Zone) -> None:
        """`fail` and `succeed`: where they may stand, and whether anything after them is reached."""
        if kind.name == "succeed" and zone != "main":
            message = "`succeed` ends a run; where this step stands the run is ending already"
            self._reading.findings.error((*node.pointer, kind.name), message, key=True)
        if kind.name in ("fail", "succeed") and value.get("if", True) is True:
            taken = value.get("continue_on_error") is True or "catch" in value
            node.ends_list = kind.name == "succeed" or not taken


def _steps_of(nodes: list[Node]) -> tuple[Step, ...]:
    return tuple(node.step for node in nodes if node.step is not None)


def _value_at(value: JSON, pointer: Pointer) -> JSON:
    for part in pointer:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return None
    return value


def _ids_in(value: JSON) -> set[str]:
    """All ids within a block that is not read."""
    found: set[str] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            if isinstance(item.get("id"), str):
                found.add(item["id"])
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return found
