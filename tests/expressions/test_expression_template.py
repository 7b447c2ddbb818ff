"""Finding `${{ … }}` in a document and putting results in its place; data is never looked at."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import strategies as st

from taskforge.core.model import JSON
from taskforge.expressions.errors import EvaluationFailed
from taskforge.expressions.template import Problem, TemplateError, parse_template, unknown_names
from tests.expressions import jq_programs


def sources(value: JSON) -> list[str]:
    return [expression.source for expression in parse_template(value).expressions]


def problems(value: JSON) -> list[Problem]:
    with pytest.raises(TemplateError) as refused:
        parse_template(value)
    return refused.value.problems


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("${{ {a: {b: 1}} }}", ["{a: {b: 1}}"]),
        ("${{ {a:{b:1}}}}", ["{a:{b:1}}"]),
        ("${{ {} }} and ${{{}}}", ["{}", "{}"]),
        ('${{ "}}" }}', ['"}}"']),
        ('${{ "a\\"}}" }}', ['"a\\"}}"']),
        ('${{ "\\\\" }}', ['"\\\\"']),
        ('${{ "\\({a: "}}"} | .a)" }}', ['"\\({a: "}}"} | .a)"']),
        ('${{ "\\("\\("}}")")" }}x', ['"\\("\\("}}")")"']),
        ('${{ "{{" }}${{ "{" }}', ['"{{"', '"{"']),
        ("${{ .a # a note }}", [".a # a note"]),
        ('${{ .a # "not a string\n | .b }}', ['.a # "not a string\n | .b']),
        ("${{ {a: 1 # }}\n} }}", ["{a: 1 # }}\n}"]),
        ("${{$a}}${{$b}}", ["$a", "$b"]),
        ("a ${{ 1 }} }} {{ b", ["1"]),
        ("${{\n  $a\n}}\n", ["$a"]),
        ("}} {{ { } $ { $x {{ x }} ${x} $( ) $$", []),
        ("$${{ x }}", []),
        ("$${{ x }} ${{ 1 }}", ["1"]),
    ],
)
def test_an_expression_ends_at_its_own_end(text: str, found: list[str]) -> None:
    assert sources(text) == found


@pytest.mark.parametrize("value", [None, True, 0, 12345678901234567890, 1.5, "x", [1, [None]], {"a": {"b": [""]}}])
def test_a_whole_scalar_keeps_the_type_of_its_result(value: JSON) -> None:
    for text in ("${{ . }}", "${{.}}", "${{ . }}\n", "${{\n.\n}}\r\n"):
        assert parse_template(text).render([value]) is value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é\n", "é\n"),
        (12345678901234567890, "12345678901234567890"),
        (2**100, str(2**100)),
        (-1.5, "-1.5"),
        (True, "true"),
        (False, "false"),
        ([1, {"a": "é"}], '[1,{"a":"é"}]'),
        ({}, "{}"),
        ("", ""),
    ],
)
def test_inside_a_longer_string_a_result_becomes_text(value: JSON, text: str) -> None:
    assert parse_template("<${{ . }}>").render([value]) == f"<{text}>"
    assert parse_template("${{ . }}${{ . }}").render([value, value]) == text + text
    assert parse_template(" ${{ . }}").render([value]) == " " + text


def test_null_inside_a_longer_string_is_an_error_that_suggests_a_default() -> None:
    template = parse_template({"http": {"headers": [{"x-a": "Bearer ${{ $vars.X }}"}]}})
    with pytest.raises(EvaluationFailed) as failed:
        template.render([None])
    assert failed.value.code == "EXPRESSION_ERROR"
    assert 'http.headers[0]["x-a"]' in failed.value.message or "http.headers[0].x-a" in failed.value.message
    assert '// ""' in failed.value.message


def test_escapes_are_literal_and_keys_are_never_templates() -> None:
    template = parse_template({"${{ $a }}": "$${{ $b }}", "x": ["$${{", "a $${{ ${{ $c }} $${{"], "y": "$$${{"})
    assert sources(["$${{ $b }}"]) == []
    assert [expression.source for expression in template.expressions] == ["$c"]
    assert template.render(["!"]) == {"${{ $a }}": "${{ $b }}", "x": ["${{", "a ${{ ! ${{"], "y": "$${{"}
    assert parse_template(["$${{ x }}", {"a": "$${{"}]).render([]) == ["${{ x }}", {"a": "${{"}]


def test_literals_are_given_back_as_they_are() -> None:
    value = {"a": [1, None, {"b": "${ x } {{ y }}"}], "c": 2**70}
    template = parse_template(value)
    assert template.is_literal
    assert template.render([]) == value


def test_expressions_pointers_and_results_are_in_the_order_of_the_document() -> None:
    template = parse_template({"a": ["${{ 1 }}", {"b": "x${{ 2 }}y${{ 3 }}"}], "c": 5, "d": "${{ 4 }}"})
    assert template.pointers == (("a", 0), ("a", 1, "b"), ("a", 1, "b"), ("d",))
    assert [expression.source for expression in template.expressions] == ["1", "2", "3", "4"]
    assert not template.is_literal
    assert template.render([[], "p", "q", None]) == {"a": [[], {"b": "xpyq"}], "c": 5, "d": None}
    assert template.render([1, 2, 3, 4]) == {"a": [1, {"b": "x2y3"}], "c": 5, "d": 4}


def test_offsets_count_from_the_start_of_the_scalar() -> None:
    text = "é 😀 ${{  $vars.X + $y }}"
    (expression,) = parse_template(text).expressions
    assert text[expression.offset :].startswith("$vars.X")
    first, second = expression.names
    assert text[first.offset :].startswith("$vars")
    assert first.field_offset is not None
    assert text[first.field_offset :].startswith("X +")
    assert text[second.offset :].startswith("$y")


def test_all_problems_are_given_at_once_with_their_places() -> None:
    value = {"a": "x ${{ .b. }} ${{ env }}", "b": ["ok", "${{ 'x' }}", "${{ .a"], "c": "${{ }}"}
    found = [(problem.pointer, problem.offset) for problem in problems(value)]
    assert found == [(("a",), 8), (("a",), 17), (("b", 1), 4), (("b", 2), 0), (("c",), 4)]


@pytest.mark.parametrize(
    "text", ["${{ .a", "x ${{ 1 }} ${{ {a: 1 }}", '${{ "a }}', '${{ "\\(1 }}', "${{ {{ }}", "${{ .a }"]
)
def test_an_expression_that_is_not_closed_says_to_use_single_quotes(text: str) -> None:
    (problem,) = problems(text)
    assert text[problem.offset :].startswith("${{")
    assert "no `}}`" in problem.message
    assert "single quotes" in (problem.hint or "")


def test_unknown_names_come_with_their_place_and_the_nearest_right_name() -> None:
    template = parse_template({"url": "x/${{ $fetchh.id }}/${{ $input.a + $qqqq }}"})
    first, second = unknown_names(template, {"input", "fetch", "steps"})
    assert (first.pointer, first.offset, first.message) == (("url",), 6, '"$fetchh" is not defined')
    assert first.hint == 'did you mean "$fetch"?'
    assert (second.offset, second.hint) == (35, None)


@pytest.mark.parametrize("evil", ["${{ $secrets }}", "$${{ 1 }}", "{{ 1 }}", "${{", '"}}', "${1}", "\\(1)"])
def test_data_that_looks_like_an_expression_is_never_evaluated(evil: str) -> None:
    template = parse_template(["${{ $a }}", "<${{ $a }}>", "${{ $b }}", {"k": "${{ $b }}!"}])
    data = {evil: [evil]}
    assert template.render([evil, evil, data, evil]) == [evil, f"<{evil}>", data, {"k": f"{evil}!"}]


@hypothesis.given(jq_programs.programs, jq_programs.json_values)
def test_any_program_is_found_whole_and_its_result_kept(program: str, value: JSON) -> None:
    for text in ("${{ %s }}", "${{%s}}", "a ${{ %s }} b ${{ %s }}"):
        whole = text.replace("%s", program)
        assert sources(whole) == [program] * whole.count(program) or sources(whole) == [program] * text.count("%s")
    assert parse_template({"x": ["${{ " + program + " }}"]}).render([value]) == {"x": [value]}


@hypothesis.given(st.text('${}"\\(#) \na1.', max_size=30))
def test_any_text_is_a_template_or_has_problems_with_places(text: str) -> None:
    try:
        template = parse_template(text)
    except TemplateError as error:
        assert all(0 <= problem.offset <= len(text) for problem in error.problems)
        return
    for expression in template.expressions:
        assert text[expression.offset :].startswith(expression.source)
    if template.is_literal:
        assert template.render([]) == text.replace("$${{", "${{")
