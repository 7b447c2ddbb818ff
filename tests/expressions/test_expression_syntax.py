"""Reading jq programs: what they use, what is refused and where, and that nothing makes the reader slow or deep."""

from __future__ import annotations

import time

import hypothesis
import jq
import pytest
from hypothesis import strategies as st

from taskforge.expressions.builtins import FORBIDDEN, KNOWN
from taskforge.expressions.errors import ExpressionSyntaxError, SyntaxProblem
from taskforge.expressions.syntax import MAX_LENGTH, parse_program
from taskforge.expressions.tokens import MAX_NESTING
from taskforge.expressions.worker import wrap
from tests.expressions import jq_programs


def names(source: str) -> list[tuple[str, str | None, int]]:
    return [(name.root, name.field, name.offset) for name in parse_program(source).names]


def problems(source: str) -> tuple[SyntaxProblem, ...]:
    with pytest.raises(ExpressionSyntaxError) as refused:
        parse_program(source)
    return refused.value.problems


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("$a", [("a", None, 0)]),
        (" $secrets.TOKEN + $steps.fetch.output", [("secrets", "TOKEN", 1), ("steps", "fetch", 18)]),
        ('$vars["X y"], $vars."Z", $vars.["W"]', [("vars", "X y", 0), ("vars", "Z", 14), ("vars", "W", 25)]),
        ("$vars[$key].x", [("vars", None, 0), ("key", None, 6)]),
        ("$vars[0].x", [("vars", None, 0)]),
        ("$vars?.X", [("vars", "X", 0)]),
        ('"a \\($x.y) \\("\\($z)")"', [("x", "y", 5), ("z", None, 16)]),
        ("1 as $x | $x, $y", [("y", None, 14)]),
        ("(1 as $x | $x) | $x", [("x", None, 17)]),
        ("$x as $x | $x", [("x", None, 0)]),
        ('$in as [$a, {b: $c, $d, ("e" + $key): $f}] | $a, $c, $d, $f', [("in", None, 0), ("key", None, 31)]),
        (". as [$a] ?// {$b} | $a, $b, $c", [("c", None, 29)]),
        ("reduce $in[] as $x (0; . + $x) | $x", [("in", None, 7), ("x", None, 33)]),
        ("foreach .[] as $x (0; . + $x; [$x, $y])", [("y", None, 35)]),
        ("def f($p; g): $p + g + $q; f(1; 2), $p", [("q", None, 23), ("p", None, 36)]),
        (
            '{$a, b: $b, ($c): 1, "x\\($d)": 2, $__loc__}',
            [("a", None, 1), ("b", None, 8), ("c", None, 13), ("d", None, 25)],
        ),
        ("label $out | 1, break $out", []),
        ("$__loc__.line", []),
        ("# $comment\n$a # $b", [("a", None, 11)]),
        (
            "if $a then $b elif $c then $d else $e end",
            [("a", None, 3), ("b", None, 11), ("c", None, 19), ("d", None, 27), ("e", None, 35)],
        ),
        ("try $a catch $b", [("a", None, 4), ("b", None, 13)]),
        ('@base64 "\\($a)", @text', [("a", None, 11)]),
    ],
)
def test_free_names_are_found_with_their_first_field_and_place(
    source: str, found: list[tuple[str, str | None, int]]
) -> None:
    assert names(source) == found
    for root, _, offset in found:
        assert source[offset:].startswith("$" + root)


def test_the_place_of_the_first_field_is_known() -> None:
    for source in ("$secrets.TOKEN", '$secrets["TOKEN"]', '$secrets . "TOKEN"'):
        (name,) = parse_program(source).names
        assert name.field_offset is not None
        assert source[name.field_offset :].strip('"').startswith("TOKEN")


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_forbidden_functions_are_refused_unless_the_program_defines_them(name: str) -> None:
    (problem,) = problems(f"1 | {name}")
    assert (problem.offset, problem.message) == (4, f"`{name}` is not available in expressions")
    assert problem.hint
    assert parse_program(f"def {name}: 1; {name}").names == ()
    assert parse_program(f"def f({name}): {name}; f(1)").names == ()


@pytest.mark.parametrize(
    ("source", "offset", "message", "hint"),
    [
        ("$ENV.PATH", 0, "`$ENV` is not available", "environment"),
        ("$__prog_args", 0, "`$__prog_args` is not available", ""),
        ('import "a" as a; 1', 0, "`import` is not available", "no modules"),
        ('include "a"; 1', 0, "`include` is not available", "no modules"),
        (".a | lenght", 5, 'the function "lenght" is not defined', 'did you mean "length"?'),
        ("fetch.body", 0, 'the function "fetch" is not defined', "$fetch"),
        ('split("a", "b", "c"; 1; 2)', 0, "`split` takes 1 argument or 2 arguments, not 3", ""),
        ("map()", 4, 'unexpected ")"', ""),
        ("", 0, "the expression is empty", ""),
        ("  # nothing", 0, "the expression is empty", ""),
        (".a == 'x'", 6, 'unexpected "\'"', "double quotes"),
        (".a && .b", 3, 'unexpected "&&"', "`and`"),
        (".a || .b", 4, 'unexpected "|"', "`or`"),
        ("!.a", 0, 'unexpected "!"', "`not`"),
        (".a?//1", 2, 'unexpected "?//"', "space"),
        (".a = = 1", 5, 'unexpected "="', "`==`"),
        ("1 == 2 == 3", 7, "`==` cannot follow", "parentheses"),
        ('"abc', 0, "the string is not closed", ""),
        ('"a\\qb"', 2, "escape that jq does not know", ""),
        ('"\\ud800"', 1, "escape that jq does not know", ""),
        ("{1: 2}", 1, "expected a key", "parentheses"),
        ("[1, 2", 5, "expected `]` but found the end", ""),
        ("if . then 1", 11, "expected `end` of `if`", ""),
        (".foo.é", 4, 'unexpected "."', '.["name"]'),
        ("break $x", 0, "no `label $x`", ""),
        ("def f: 1;", 9, "unexpected the end of the expression", ""),
    ],
)
def test_a_problem_says_where_and_what_to_do(source: str, offset: int, message: str, hint: str) -> None:
    problem = problems(source)[0]
    assert message in problem.message
    assert problem.offset == offset
    assert hint in (problem.hint or "")
    assert "\n" not in problem.message


def test_all_forbidden_calls_are_found_at_once() -> None:
    assert [problem.offset for problem in problems("env, ($ENV | debug), input")] == [0, 6, 13, 21]


@pytest.mark.parametrize(
    "source",
    [
        "(" * 10_000 + "1" + ")" * 10_000,
        "[" * 10_000,
        "{a:" * 8_000,
        '"\\(' * 8_000,
        "-" * 10_000 + "1",
        "try " * 5_000 + "1",
        "1//" * 8_000 + "1",
        ". as $x|" * 3_000 + "1",
        ". as " + "[" * 10_000,
        "def f: " * 3_000,
        "if 1 then " * 3_000,
        "1" + "+1" * 500_000,
        '"' + "x" * 1_000_000 + '"',
        "é" * 1_000_000,
    ],
    ids=lambda source: f"{source[:8]!r} of {len(source)}",
)
def test_huge_and_deep_programs_are_refused_quickly(source: str) -> None:
    start = time.monotonic()
    (problem,) = problems(source)
    assert time.monotonic() - start < 1
    assert (
        str(MAX_NESTING // 2) in problem.message
        or f"{MAX_LENGTH:,}" in problem.message
        or "not closed" in problem.message
    )


def test_long_flat_programs_are_read() -> None:
    for source in ("1" + "+1" * 10_000, ".a" * 10_000, ".[0]" * 5_000, "1|" * 10_000 + "1", "." + "?" * 10_000):
        assert parse_program(source).names == ()


def test_the_functions_that_are_known_are_those_of_jq() -> None:
    of_jq = set(jq.compile("builtins").input_value(None).first())
    known = {f"{name}/{count}" for name, counts in KNOWN.items() for count in counts}
    assert known <= of_jq
    assert {entry.partition("/")[0] for entry in of_jq - known} <= set(FORBIDDEN)


@hypothesis.settings(max_examples=200)
@hypothesis.given(jq_programs.programs)
def test_programs_that_jq_compiles_are_read(source: str) -> None:
    try:
        jq.compile(wrap([(source, 0)], list(jq_programs.NAMES), 1))
    except ValueError:
        hypothesis.reject()
    assert {name.root for name in parse_program(source).names} <= set(jq_programs.NAMES)


_WORDS = """
. .a .. [ ] ( ) { } " "a" \\( | , : ; ? // ?// = |= + - * == and or not if then else elif end try catch reduce foreach
as def f f(1;2) g $x $y 1 1.5e3 label break @base64 @text null $__loc__ length map( é \\ ' $ @ & .[] .a? as$x $p
"""
_PIECES = st.sampled_from(
    [*_WORDS.split(), " ", " ", " ", "\n", "# c\n", "def f: ", "def f($p; g): ", "label $x | ", ". as $x | "]
)


@hypothesis.settings(max_examples=600)
@hypothesis.given(st.lists(_PIECES, max_size=12).map("".join))
def test_any_text_is_read_or_refused_as_jq_does(source: str) -> None:
    """Stricter than jq never; more lenient only where `Evaluator.check` asks jq."""
    try:
        parse_program(source)
    except ExpressionSyntaxError as error:
        assert all(0 <= problem.offset <= len(source) for problem in error.problems)
        with pytest.raises(ValueError, match="jq"):
            jq.compile(wrap([(source, -1)], ["x", "y"], 0))


def test_texts_of_strings_are_read_as_jq_reads_them() -> None:
    for source in ('"\\u00e9\\n\\t\\"\\\\ \\/ \\ud83d\\ude00"', '"a\tb\nc"', '"\\u0041"', '@text "x"'):
        body = parse_program(source).body
        assert jq.compile(source).input_value(None).first() == getattr(body, "value", None)
