"""Random jq programs of the subset that is compiled in process, and random JSON for them to work on."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from taskforge.core.model import JSON

NAMES = ("a", "b", "steps")
_KEYS = ("a", "b", "id", "x y", "é", "if", "")

numbers = st.one_of(
    st.integers(-5, 5),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53, 2**53 + 1, 2**53 - 1, -(2**53) - 1, 12345678901234567890, 10**17, 0, 1.5, -0.5, 0.1, 1e-7]),
    st.sampled_from([1.0, 2.0, 100.0, 3.0, 1e16, 1e300, 0.3, -2.5]),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
)
texts = st.one_of(
    st.sampled_from(["", "a", "b", "ab", "é", "😀x", "1", "-3", "1.5", "a,b", "true", 'q"q', "x\ny", "\x7f", "\x00"]),
    st.text(max_size=4),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
json_values: st.SearchStrategy[JSON] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(_KEYS) | texts, inner, max_size=4)
    ),
    max_leaves=10,
)
"""Any JSON: integers beyond 2^53, all of Unicode, nested nulls."""

variables = st.fixed_dictionaries(dict.fromkeys(NAMES, json_values))

_LITERALS = """
null true false 0 1 2 -1 1.5 10 0.1 9007199254740993 12345678901234567 "a" "b" "" "é" "a,b" "," "\\n" "\\u00e9"
[] {} [1,2] {"a":1}
"""
_FUNCTIONS = """
length not keys keys_unsorted tostring tojson type add any all first last sort unique min max reverse to_entries
ascii_downcase ascii_upcase floor tonumber abs empty values nulls strings numbers arrays objects booleans iterables
scalars
"""
_FUNCTIONS_OF_ONE = """
has map select first last any all join startswith endswith ltrimstr rtrimstr split index contains sort_by group_by
unique_by min_by max_by isempty add error
"""
_OPERATORS = "+ - * / % == != < <= > >= and or //"
_literals = st.sampled_from(_LITERALS.split())
_fields = st.sampled_from([".a", ".b", ".id", '."x y"', '.["é"]', ".if", "[0]", "[1]", "[-1]", "[1:]", "[:1]", "[-2:]"])
_roots = st.sampled_from([".", "$a", "$b", "$steps"])
_plain_functions = st.sampled_from(_FUNCTIONS.split())
_functions_of_one = st.sampled_from(_FUNCTIONS_OF_ONE.split())
_operators = st.sampled_from(_OPERATORS.split())


@st.composite
def _path(draw: st.DrawFn) -> str:
    root = draw(_roots)
    steps = draw(st.lists(_fields, max_size=3))
    path = root
    for step in steps:
        path = step if path == "." and step.startswith(".") else path + step
    return path + draw(st.sampled_from(["", "", "", "", "?"]) if steps else st.just(""))


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    def build(template: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map(lambda drawn: template.format(*drawn))

    return st.one_of(
        build("({} {} {})", inner, _operators, inner),
        build("({} {} {})", inner, _operators, inner),
        build("({} | {})", inner, inner),
        build("({} | {})", inner, _plain_functions),
        build("{}({})", _functions_of_one, inner),
        build("({} | {}({}))", inner, _functions_of_one, inner),
        build("any({}; {})", inner, inner),
        build("all({}; {})", inner, inner),
        build("({}, {})", inner, inner),
        build("[{}]", inner),
        build("[{}[]]", inner),
        build("[{}[] | {}]", inner, inner),
        build("[{}[] | select({}) | {}]", inner, inner, inner),
        build("[.[]? | {}]", inner),
        build("({})?", inner),
        build("(try {})", inner),
        build("{{a: {}, b: {}}}", inner, inner),
        build("{{({}): {}}}", inner, inner),
        build('{{"k\\({})": {}, $a, a}}', inner, inner),
        build('"x\\({})y\\({})"', inner, inner),
        build("(if {} then {} else {} end)", inner, inner, inner),
        build("(if {} then {} elif {} then {} end)", inner, inner, inner, inner),
        build("({} as $b | {})", inner, inner),
        build("({})[{}]", inner, inner),
        build("({})[{}]?", inner, inner),
        build("({})[{}:{}]", inner, inner, inner),
        build("(-{})", inner.map(lambda text: f"({text})")),
        build("({}).a", inner),
    )


programs = st.recursive(st.one_of(_path(), _path(), _literals, _plain_functions), _grow, max_leaves=6)
"""Programs that parse; most of them have closures."""
