"""What is answered in process: the common programs are, and whatever could take long is left to the child in time."""

from __future__ import annotations

import contextlib
import time

import pytest

from taskforge.core.model import JSON
from taskforge.expressions.compiled import TooBig, compile_program, compile_single
from taskforge.expressions.errors import EvaluationFailed

ISSUES: list[JSON] = [
    {"id": 12345678901234567890, "title": "one", "labels": ["bug", "ui"], "n": 3},
    {"id": 2, "title": "two", "labels": [], "n": 1},
]
VARIABLES: dict[str, JSON] = {
    "input": {"repo": "acme/api", "count": 11, "on": True, "nested": {"a": {"b": [1, {"c": "x"}]}}},
    "fetch": {"status": 200, "body": ISSUES, "headers": {"x-y": "z"}},
    "trigger": {"body": {"action": "opened"}, "headers": {"x-github-delivery": "d1"}},
    "steps": {"fetch": {"state": "SUCCEEDED", "output": None}},
    "shape": [],
    "item": {"price": 2.5, "amount": 4},
}


@pytest.mark.parametrize(
    ("program", "result"),
    [
        ("$input", VARIABLES["input"]),
        ("$input.repo", "acme/api"),
        ("$input.nested.a.b[1].c", "x"),
        ('$input["nested"]["a"].b[-1]', {"c": "x"}),
        ("$input.none.at.all", None),
        ('$trigger.headers["x-github-delivery"]', "d1"),
        ('$trigger.body.action == "opened"', True),
        ('$trigger.body.action != "opened"', False),
        ("$fetch.body[0].id", 12345678901234567890),
        ("$fetch.status >= 200 and $fetch.status < 300", True),
        (
            '[$fetch.body[] | select(.labels | index("bug")) | {id, title}]',
            [{"id": 12345678901234567890, "title": "one"}],
        ),
        ("$fetch.body | length > 1", True),
        ('$fetch.body | map(.title) | join(", ")', "one, two"),
        ("[$fetch.body[].n] | add", 4),
        ("$fetch.body | sort_by(.n) | map(.n)", [1, 3]),
        ("first($fetch.body[] | select(.n == 1)) | .title", "two"),
        ("$shape == []", True),
        ("$shape | length == 0", True),
        ('$input.x // "default"', "default"),
        ('"\\($input.repo)#\\($fetch.body[0].id)"', "acme/api#12345678901234567890"),
        ('{a: $input.count, "b c": [1, 2.5, null], d: {e: true}}', {"a": 11, "b c": [1, 2.5, None], "d": {"e": True}}),
        ("$item.price * $item.amount", 10),
        ("$item.amount / 8", 0.5),
        ("($input.count - 1) % 4", 2),
        ('if $input.on then "y" else "n" end', "y"),
        ('$input | has("repo") and (has("x") | not)', True),
        ('$input.repo | split("/")[1]', "api"),
        ('$input.repo | startswith("acme/")', True),
        ("$input.nested | keys", ["a"]),
        ("$steps.fetch.state", "SUCCEEDED"),
        ("any($fetch.body[]; .n > 2)", True),
        ("$input.count as $c | $fetch.body | map(.n + $c)", [14, 12]),
        ('$fetch.headers | to_entries | map("\\(.key)=\\(.value)")', ["x-y=z"]),
        ("$input.count | tostring", "11"),
        ("[.[] | . + 1]", [2, 3]),
        ("type", "array"),
        ("-1", -1),
        ("null", None),
        ("1, 2 | select(. > 1)", 2),
    ],
)
def test_common_programs_are_answered_in_process(program: str, result: JSON) -> None:
    compiled = compile_single(program)
    assert compiled is not None
    assert compiled(VARIABLES, [1, 2]) == result


_BEYOND = """
def f: 1; f
reduce .[] as $x (0; . + $x)
range(5)
test("a")
.a = 1
..
now
@base64
[limit(3; .[])]
recurse
{(1): 2}
1.10
1e5
123456789012345678901234567890
try error catch .
env
1 +
. as [$a] | $a
"""


@pytest.mark.parametrize("program", _BEYOND.strip().splitlines())
def test_what_is_not_in_the_subset_is_not_compiled(program: str) -> None:
    assert compile_single(program) is None
    assert compile_program(program) is None


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("$input.repo.x", "Cannot index string with"),
        ("$nowhere", "$nowhere is not defined"),
        ("$nowhere.a.b", "$nowhere is not defined"),
        ("$input.count[]", "Cannot iterate over number (11)"),
        ('1 + "a"', "cannot be added"),
        ("1 / 0", "divisor is zero"),
        ("empty", "gave no result"),
        ("$fetch.body[]", "gave 2 results"),
        ('error("no")', "no"),
        ("$fetch[0]", "Cannot index object with number"),
    ],
)
def test_errors_are_those_of_jq(program: str, message: str) -> None:
    compiled = compile_single(program)
    assert compiled is not None
    with pytest.raises(EvaluationFailed) as failed:
        compiled(VARIABLES, None)
    assert failed.value.code == "EXPRESSION_ERROR"
    assert message in failed.value.message


def test_all_results_are_given_by_the_form_for_many() -> None:
    compiled = compile_program("$fetch.body[].n, .")
    assert compiled is not None
    assert compiled(VARIABLES, "x") == [3, 1, "x"]


def test_data_is_never_changed_in_place() -> None:
    value: JSON = {"a": {"b": [3, 1, 2]}, "c": [1]}
    for program in (
        "$x.a * {b: 1}",
        "$x + {a: 1}",
        "$x.a.b | sort",
        "$x.a.b + [4]",
        "$x.a.b | reverse",
        "$x | to_entries",
    ):
        compiled = compile_single(program)
        assert compiled is not None
        compiled({"x": value}, value)
        assert value == {"a": {"b": [3, 1, 2]}, "c": [1]}


_BIG: JSON = list(range(100_000))
_WIDE: JSON = [{"a": index, "b": [index]} for index in range(5_000)]


@pytest.mark.parametrize(
    "program",
    [
        "$big | map(. + 1)",
        "[$big[]]",
        "$big | sort",
        "$big | add",
        "$big | any(. < 0)",
        "[$wide[] | . as $x | $wide[] | . == $x]",
        "$wide | map(. as $x | $wide | map(. == $x))",
        "$wide | map($wide | length | [., .]) | map(tojson) | add | length | . * 0 | $wide | map($wide | tojson)",
        "$wide | sort_by(.b) | length",
        "$wide - $wide",
        "$wide | unique | length",
        "$wide | map($wide | sort)",
        "$wide | index({})",
        "[" + " | ".join(["(1, 2)"] * 40) + " | empty]",
        "[first(" + " | ".join(["(1, 2, 3)"] * 30) + " | select(. > 5))]",
        "{" + ", ".join(f"k{index}: (1, 2)" for index in range(30)) + "}",
        '"' + "\\(1, 2)" * 40 + '"',
        '"ab" | ' + " | ".join([". + ."] * 40),
        "[1] | " + " | ".join([". + ."] * 40),
        "[1] | " + " | ".join(["[., .]"] * 40) + " | tojson",
        '"x" * 1000000000',
        "[$text | ., . | ., . | ., . | ., . | ., . | ., . | ., . | . + . | length]",
        "$deep == $deeper",
        "any(" + " | ".join(["(1, 2)"] * 40) + "; . > 2)",
    ],
    ids=lambda program: program[:50],
)
def test_what_could_take_long_is_left_to_the_child_in_time(program: str) -> None:
    deep: JSON = [0]
    deeper: JSON = [1]
    for _ in range(12):
        deep, deeper = [deep, deep], [deep, deeper]
    variables = {"big": _BIG, "wide": _WIDE, "text": "x" * 900_000, "deep": deep, "deeper": deeper}
    compiled = compile_program(program)
    if compiled is None:
        return
    start = time.monotonic()
    with contextlib.suppress(TooBig):
        compiled(variables, None)
    assert time.monotonic() - start < 0.5


def test_long_programs_are_left_to_the_child() -> None:
    assert compile_single("1" + "+1" * 10_000) is None
    assert compile_single("1" + " + 1" * 100) is None
    assert compile_single("$x" + ".a" * 4_000) is not None
