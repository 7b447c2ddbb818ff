"""The closures of `compiled` against jq itself: the same results, or both an error."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis
import jq
from hypothesis import strategies as st

from taskforge.core import jsontext
from taskforge.core.model import JSON
from taskforge.expressions.compiled import TooBig, compile_program
from taskforge.expressions.errors import EvaluationFailed
from taskforge.expressions.worker import wrap
from tests.expressions import jq_programs


def by_jq(program: str, variables: Mapping[str, JSON], dot: JSON) -> list[JSON] | None:
    """Every result, or None for an error."""
    text = jsontext.dumps({"v": dict(variables), "d": [dot], "now": 0})
    try:
        compiled = jq.compile(wrap([(program, 0)], list(variables), 1))
        outputs = compiled.input_text(text).all()
    except ValueError:
        return None
    return [jsontext.loads(output, clamp=True) for output in outputs[:-1]]


def in_process(program: str, variables: Mapping[str, JSON], dot: JSON) -> list[JSON] | None:
    """The same from the closures. Rejects the example where they leave it to jq."""
    compiled = compile_program(program)
    hypothesis.assume(compiled is not None)
    assert compiled is not None
    try:
        return compiled(variables, dot)
    except TooBig:
        hypothesis.reject()
    except EvaluationFailed:
        return None


def same(a: JSON, b: JSON) -> bool:
    """Equal in type, order of keys and every digit.

    One licence: jq passes a double beyond 2^53 through as the integer that its shortest text is.
    """
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, float) and type(b) is int and abs(b) > 2**53:
        return a == float(b)
    return type(a) is type(b) and bool(a == b)


@hypothesis.settings(max_examples=300, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(jq_programs.programs, jq_programs.variables, jq_programs.json_values)
def test_random_programs_give_what_jq_gives(program: str, variables: dict[str, JSON], dot: JSON) -> None:
    assert same(in_process(program, variables, dot), by_jq(program, variables, dot))


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    st.sampled_from(["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "and", "or", "//"]),
    jq_programs.json_values,
    jq_programs.json_values,
)
def test_operators_on_any_two_values_give_what_jq_gives(operator: str, a: JSON, b: JSON) -> None:
    program = f"$a {operator} $b"
    assert same(in_process(program, {"a": a, "b": b}, None), by_jq(program, {"a": a, "b": b}, None))


@hypothesis.settings(max_examples=200)
@hypothesis.given(st.lists(jq_programs.json_values, max_size=6))
def test_order_of_any_values_is_that_of_jq(values: list[JSON]) -> None:
    for program in ("sort", "unique", "group_by(.)", "min", "max", "[.[] | [., 1]] | sort"):
        assert same(in_process(program, {}, values), by_jq(program, {}, values))
