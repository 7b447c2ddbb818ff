"""Kinds without side effects, and how kinds are found."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import pytest

from taskforge.core.errors import StartupError
from taskforge.core.kind import ActionKind, Outcome
from taskforge.steps import registry
from taskforge.steps.fail import FailKind
from taskforge.steps.http import HttpKind
from taskforge.steps.registry import built_in_kinds, load_kinds
from taskforge.steps.succeed import SucceedKind
from taskforge.steps.switch import SwitchKind
from taskforge.steps.transform import TransformKind


def test_transform_gives_its_value() -> None:
    assert TransformKind().finish({"a": [1]}) == Outcome(output={"a": [1]})


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ({}, "STEP_FAILED", "a fail step ended the run"),
        ({"message": "no"}, "STEP_FAILED", "no"),
        ({"message": None}, "STEP_FAILED", "a fail step ended the run"),
        ({"message": {"a": 1}}, "STEP_FAILED", '{"a":1}'),
        ({"message": 12345678901234567890}, "STEP_FAILED", "12345678901234567890"),
        ({"message": "no", "code": "NOTHING_2"}, "NOTHING_2", "no"),
    ],
)
def test_fail_fails_with_its_message_and_code(value: object, code: str, message: str) -> None:
    outcome = FailKind().finish(value)
    assert outcome.failure is not None and not outcome.ends_run
    assert (outcome.failure.code, outcome.failure.message) == (code, message)


@pytest.mark.parametrize("code", ["not found", 7, None, "", "X" * 64])
def test_fail_with_a_code_that_came_out_wrong_says_so_and_keeps_the_message(code: object) -> None:
    failure = FailKind().finish({"message": "why", "code": code}).failure
    assert failure is not None and failure.code == "INVALID_CONFIG"
    assert failure.message.startswith("fail.code") and failure.message.endswith("why")


@pytest.mark.parametrize(("value", "output"), [({}, None), ({"output": [1]}, [1]), ({"output": None}, None)])
def test_succeed_ends_the_run_with_its_output(value: object, output: object) -> None:
    assert SucceedKind().finish(value) == Outcome(output=output, ends_run=True)


def test_switch_makes_every_condition_an_expression_and_says_where_each_stood() -> None:
    config = [{"when": "${{ $a }}", "steps": []}, {"when": False, "steps": []}, {"else": []}]
    kind = SwitchKind()
    assert kind.evaluated(config) == ["${{ $a }}", "${{ false }}"]
    assert kind.place((1,)) == (1, "when")
    assert [(block.name, block.pointer) for block in kind.blocks(config)] == [
        ("0", (0, "steps")),
        ("1", (1, "steps")),
        ("2", (2, "else")),
    ]


@pytest.mark.parametrize("config", [None, 1, "x", {}, [1], [{"when": 1}], {"expect": 1}, {"expect": {"body": 1}}, [[]]])
def test_no_kind_breaks_on_a_config_of_another_shape(config: object) -> None:
    for kind in built_in_kinds().values():
        kind.check(config)
        kind.blocks(config)
        kind.later(config)
        kind.evaluated(config)
        kind.further(config)


def test_http_leaves_expect_body_for_later() -> None:
    config = {"url": "https://x", "expect": {"status": 200, "body": "${{ .ok }}"}}
    assert HttpKind().evaluated(config) == {"url": "https://x", "expect": {"status": 200, "body": True}}
    assert HttpKind().later(config) == {"expect.body": (("expect", "body"), "${{ .ok }}")}
    assert HttpKind().evaluated({"url": "https://x"}) == {"url": "https://x"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [({}, None), ({"timeout": "10s"}, 10_000), ({"timeout": 2}, 2_000), ({"timeout": "soon"}, None), (3, None)],
)
def test_http_knows_the_bound_of_an_attempt(value: object, expected: int | None) -> None:
    assert HttpKind().attempt_timeout_ms(value) == expected


class EchoKind(ActionKind):
    """A kind of another package."""

    name = "echo"


def points(*entries: tuple[str, str]) -> EntryPoints:
    return EntryPoints(EntryPoint(name, value, registry.GROUP) for name, value in entries)


def use(monkeypatch: pytest.MonkeyPatch, *entries: tuple[str, str]) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: points(*entries).select(group=group))


def test_kinds_of_installed_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, ("echo", f"{__name__}:EchoKind"))
    monkeypatch.setattr(EntryPoint, "load", lambda self: EchoKind)
    assert list(load_kinds()) == [*built_in_kinds(), "echo"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("echo", "no.such.module:Kind", "cannot be loaded"),
        ("echo", "builtins:dict", "is no Kind of that name"),
        ("other", "taskforge.steps.fail:FailKind", "is no Kind of that name"),
        ("fail", "taskforge.steps.fail:FailKind", "takes a name that is taken"),
    ],
)
def test_a_kind_that_cannot_be_used_stops_the_start_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    use(monkeypatch, (name, value))
    with pytest.raises(StartupError) as caught:
        load_kinds()
    assert f'"{name}"' in caught.value.message and said in caught.value.message
