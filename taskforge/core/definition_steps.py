"""Reads the steps of a workflow document into `model.Step`s."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from taskforge.core.config_errors import config_problems
from taskforge.core.definition_read import (
    RESERVED_IDS,
    STEP_ID,
    Reading,
    Use,
    check_mapping,
    is_whole,
    read_condition,
    read_duration,
    read_flag,
    read_retry,
    read_text,
    read_word,
)
from taskforge.core.kind import BlockSource, Kind
from taskforge.core.model import JSON, Block, Evaluation, Retry, Step, Template
from taskforge.core.problem import Pointer, quoted, suggest
from taskforge.core.templated import describe

STEP_KEYS = ("id", "description", "if", "retry", "timeout", "continue_on_error")
LATER_KINDS = ("foreach", "parallel", "wait", "repeat", "workflow", "set_state")
LATER_KEYS = (
    "needs",
    "catch",
    "finally",
    "undo",
    "effect",
    "probe",
    "rate_limit",
    "priority",
    "max_queue_time",
    "on_failure",
    "notify",
    "concurrency",
)
_ID_FORM = "use lower-case letters, digits and _, beginning with a letter, at most 63"


@dataclass(slots=True, eq=False)
class Node:
    """A step as it stands in the document, with what the check of names needs. `step` is None after an error."""

    pointer: Pointer
    id: str | None = None
    step: Step | None = None
    uses: list[Use] = field(default_factory=list)
    blocks: list[tuple[BlockSource, list[Node]]] = field(default_factory=list)
    hidden_ids: set[str] = field(default_factory=set)
    """Ids inside blocks that this version does not know: they are no unknown names."""


class StepReader:
    """Reads lists of steps; ids are unique in the whole document."""

    def __init__(self, reading: Reading, retry: dict[str, Any]) -> None:
        self._reading = reading
        self._retry = retry
        self._ids: dict[str, Pointer] = {}
        self._count = 0

    def read_list(self, pointer: Pointer, value: JSON, depth: int = 0, loops: tuple[str, ...] = ()) -> list[Node]:
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
                nodes.append(self._read_step((*pointer, position), item, depth, loops))
        return nodes

    def _read_step(self, pointer: Pointer, value: JSON, depth: int, loops: tuple[str, ...]) -> Node:
        node = Node(pointer)
        if not check_mapping(self._reading, pointer, value):
            return node
        node.id = self._read_id(pointer, value)
        name = self._read_kind_name(node, value)
        settings = self._read_settings(node, value)
        if name is None:
            return node
        kind = self._reading.kinds[name]
        config = {} if value[name] is None and kind.optional else value[name]
        if "retry" in value and kind.role != "action":
            message = f"retry has no effect on a {name} step: it makes no attempts"
            self._reading.findings.warn((*pointer, "retry"), message, key=True)
        self._check_config(kind, (*pointer, name), config)
        step = self._read_config(node, kind, (*pointer, name), config, depth, loops)
        if step is None or node.id is None:
            return node
        evaluation, blocks, later = step
        node.step = Step(
            id=node.id,
            kind=kind,
            config=config,
            evaluation=Evaluation(settings.pop("guard"), evaluation, kind.evaluation_mode(config)),
            loops=loops,
            blocks=blocks,
            later=later,
            position=self._reading.findings.place(pointer),
            **settings,
        )
        return node

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
        later = [key for key in value if key in LATER_KINDS and key not in kinds]
        unknown = [key for key in value if key not in (*STEP_KEYS, *LATER_KEYS, *kinds, *LATER_KINDS)]
        unknown.sort(key=lambda key: findings.place((*pointer, key)))
        for key in value:
            if key in later or (key in LATER_KEYS and key not in kinds):
                findings.error((*pointer, key), f"`{key}` is not supported by this version of TaskForge", key=True)
                node.hidden_ids |= _ids_in(value[key])
        listed = ", ".join(kinds)
        if len(found) > 1:
            both = " and ".join(found)
            findings.error((*pointer, found[1]), f"step has {both}; it needs exactly one of {listed}", key=True)
        elif not found and not later:
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
        return found[0] if len(found) == 1 and not later else None

    def _read_settings(self, node: Node, value: dict[str, JSON]) -> dict[str, Any]:
        """What every step may have, whatever its kind."""
        reading, pointer = self._reading, node.pointer
        guard: Template | None = None
        if "if" in value:
            use = read_condition(reading, (*pointer, "if"), value["if"], "if")
            if use is not None:
                node.uses.append(use)
                guard = use.template
        retry = self._retry
        if "retry" in value:
            retry = read_retry(reading, (*pointer, "retry"), value["retry"], retry)
        timeout = value.get("timeout")
        flag = value.get("continue_on_error", False)
        return {
            "guard": guard,
            "retry": Retry(**retry),
            "timeout_ms": None if timeout is None else read_duration(reading, (*pointer, "timeout"), timeout),
            "continue_on_error": read_flag(reading, (*pointer, "continue_on_error"), flag),
            "description": read_text(reading, (*pointer, "description"), value.get("description")),
        }

    def _check_config(self, kind: Kind, pointer: Pointer, config: JSON) -> None:
        if kind.Config is None or not self._reading.strict:
            return
        found = list(kind.check(config))
        try:
            kind.Config.model_validate(config)
        except ValidationError as error:
            found += config_problems(error, config, kind.Config)
        for problem in found:
            place = (*pointer, *problem.pointer)
            self._reading.findings.error(place, problem.message, hint=problem.hint, key=problem.key)

    def _read_config(
        self, node: Node, kind: Kind, pointer: Pointer, config: JSON, depth: int, loops: tuple[str, ...]
    ) -> tuple[Template, tuple[Block, ...], dict[str, Template]] | None:
        """The templates and inner steps of a config, as far as it can be read."""
        reading = self._reading
        blocks: list[Block] = []
        for source in kind.blocks(config):
            inner_loops = (*loops, node.id or "") if source.loop else loops
            inner = self.read_list(
                (*pointer, *source.pointer), _value_at(config, source.pointer), depth + 1, inner_loops
            )
            node.blocks.append((source, inner))
            blocks.append(Block(source.name, tuple(item.step for item in inner if item.step is not None)))
        try:
            evaluated, later = kind.evaluated(config), kind.later(config)
        except (TypeError, KeyError, AttributeError, IndexError):
            if reading.strict and reading.findings.errors:
                return None  # a config of another shape, which the model has refused
            raise
        use = reading.template_at(lambda inner: (*pointer, *kind.place(inner)), evaluated, kind.name)
        if use is None:
            return None
        node.uses.append(use)
        templates: dict[str, Template] = {}
        for name, (place, value) in later.items():
            found = reading.template((*pointer, *place), value, name)
            if found is None:
                return None
            node.uses.append(found)
            templates[name] = found.template
        self._check_whole(kind, pointer, config, use, later, templates)
        return use.template, tuple(blocks), templates

    def _check_whole(
        self, kind: Kind, pointer: Pointer, config: JSON, use: Use, later: Any, templates: dict[str, Template]
    ) -> None:
        """Conditions (of a `switch`, of `expect`) are one whole expression each."""
        message = "a condition must be one whole ${{ … }}, true or false"
        if kind.evaluation_mode(config) == "first_true" and isinstance(kind.evaluated(config), list):
            for position, value in enumerate(kind.evaluated(config)):
                alone = self._reading.parse_template(value)
                if alone.expressions and not is_whole(alone):
                    self._reading.findings.error(use.place((position,)), message)
        for name in kind.conditions:
            if name in templates and templates[name].expressions and not is_whole(templates[name]):
                self._reading.findings.error((*pointer, *later[name][0]), message)


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
