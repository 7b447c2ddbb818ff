"""`locate` points at what it was asked for: values, keys, and single characters of texts in every style."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString

from taskforge.core.document import Document, parse_document
from taskforge.core.problem import (
    InvalidDocument,
    Pointer,
    Problem,
    format_path,
    format_problem,
    quoted,
    suggest,
)
from taskforge.core.source import SourceText

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029\ufeff"), max_size=20)
OBJECTS = st.dictionaries(
    TEXTS,
    st.recursive(
        st.none() | st.booleans() | st.integers() | TEXTS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=10,
    ),
    min_size=1,
    max_size=4,
)


def pointers(value: Any, at: Pointer = ()) -> Iterator[tuple[Pointer, Any]]:
    yield at, value
    if isinstance(value, dict):
        for key, child in value.items():
            yield from pointers(child, (*at, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            yield from pointers(child, (*at, index))


def rest(document: Document, place: tuple[int, int]) -> str:
    """The source from a place on."""
    lines = SourceText(document.source).text.split("\n")
    return "\n".join([lines[place[0] - 1][place[1] - 1 :], *lines[place[0] :]])


@SLOW
@given(OBJECTS, st.booleans(), st.sampled_from([None, 0, 3]), st.sampled_from(["\n", "\r\n"]))
def test_places_in_json_are_exact(value: dict[str, Any], ascii_only: bool, indent: Any, ends: str) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).replace("\n", ends)
    document = parse_document(text.encode(), "json")
    decoder = json.JSONDecoder()
    for pointer, part in pointers(value):
        assert decoder.raw_decode(rest(document, document.locate(pointer)))[0] == part
        if pointer and isinstance(pointer[-1], str):
            assert decoder.raw_decode(rest(document, document.locate(pointer, key=True)))[0] == pointer[-1]
        if isinstance(part, str):
            for index in range(1, len(part)):
                tail = rest(document, document.locate(pointer, offset=index))
                assert decoder.raw_decode('"' + tail)[0] == part[index:]


@SLOW
@given(OBJECTS, st.sampled_from([True, False, None]), st.sampled_from([20, 4096]))
def test_places_in_yaml_point_at_the_text(value: dict[str, Any], flow: bool | None, width: int) -> None:
    dumper = YAML(typ="safe", pure=True)
    dumper.default_flow_style, dumper.width = flow, width
    out = io.StringIO()
    dumper.dump(value, out)
    try:
        document = parse_document(out.getvalue().encode(), "yaml")
    except InvalidDocument:
        return  # what ruamel dumps and nobody reads is the values' test
    for pointer, part in pointers(document.value):
        tail = rest(document, document.locate(pointer))
        if isinstance(part, str) and part.isalnum():
            assert tail.lstrip("\"'? ").startswith((part[:1], "\\"))
        if pointer and isinstance(pointer[-1], str) and pointer[-1].isalnum() and not pointer[-1].isnumeric():
            assert rest(document, document.locate(pointer, key=True)).lstrip("\"'").startswith((pointer[-1][:1], "\\"))
        check_characters(document, pointer, part)


def check_characters(document: Document, pointer: Pointer, part: Any) -> None:
    """Every visible character of a text is found at its own place; offset 0 is the value itself, with its quote."""
    last = (0, 0)
    for index, character in enumerate(part if isinstance(part, str) else ""):
        place = document.locate(pointer, offset=index)
        assert place >= last
        last = place
        if index and character not in " \t\n":
            assert rest(document, place)[:1] in (character, "\\")


@SLOW
@given(st.lists(st.text("bcdé😀", min_size=1, max_size=4), min_size=1, max_size=8), st.data())
def test_every_visible_character_of_a_folded_text_is_found(words: list[str], data: st.DataObject) -> None:
    gaps = st.sampled_from([" ", "  ", "\n    ", "\n\n    ", " \n \n    ", "\n       "])
    text = words[0] + "".join(data.draw(gaps) + word for word in words[1:])
    for style in ("{0}", "'{0}'", '"{0}"', "|\n    {0}", ">-\n    {0}", "|2\n    {0}"):
        document = parse_document(f"k:\n- x: &anchor {style.format(text)}\n".encode(), "yaml")
        value = document.value["k"][0]["x"]
        assert "".join(value.split()) == "".join(words)
        check_characters(document, ("k", 0, "x"), value)


@pytest.mark.parametrize("kind", [LiteralScalarString, FoldedScalarString])
@SLOW
@given(text=st.text("ab \n", max_size=30))
def test_every_visible_character_of_a_block_text_is_found(kind: Any, text: str) -> None:
    out = io.StringIO()
    YAML().dump({"k": [{"l": kind(text)}], "m": 1}, out)
    try:
        document = parse_document(out.getvalue().encode(), "yaml")
    except (InvalidDocument, YAMLError):
        return
    check_characters(document, ("k", 0, "l"), document.value["k"][0]["l"])


DOCUMENT = """\
name: "a\\tb\\u00e9c"
steps:
  - id: fetch   # first
    http: {url: 'it''s ${{ $x }}', "q": [1, two]}
  - text: |
      one
        two ${{ $y }}
    folded: >
      one
      two

      three
    shared: &s
      deep: yes
    again: *s
    empty:
"""


@pytest.mark.parametrize(
    ("pointer", "options", "place"),
    [
        ((), {}, (1, 1)),
        (("name",), {}, (1, 7)),
        (("name",), {"key": True}, (1, 1)),
        (("name",), {"offset": 0}, (1, 7)),
        (("name",), {"offset": 1}, (1, 9)),
        (("name",), {"offset": 2}, (1, 11)),
        (("name",), {"offset": 3}, (1, 12)),
        (("name",), {"offset": 4}, (1, 18)),
        (("name",), {"offset": 99}, (1, 19)),
        (("steps",), {}, (3, 3)),
        (("steps", 0), {}, (3, 5)),
        (("steps", 0, "id"), {}, (3, 9)),
        (("steps", 0, "http"), {}, (4, 11)),
        (("steps", 0, "http", "url"), {}, (4, 17)),
        (("steps", 0, "http", "url"), {"key": True}, (4, 12)),
        (("steps", 0, "http", "url"), {"offset": 9}, (4, 28)),
        (("steps", 0, "http", "q"), {"key": True}, (4, 36)),
        (("steps", 0, "http", "q", 1), {}, (4, 45)),
        (("steps", 0, "http", "q", 1), {"key": True}, (4, 45)),
        (("steps", 1, "text"), {}, (5, 11)),
        (("steps", 1, "text"), {"offset": 1}, (6, 8)),
        (("steps", 1, "text"), {"offset": 6}, (7, 9)),
        (("steps", 1, "text"), {"offset": 14}, (7, 17)),
        (("steps", 1, "folded"), {"offset": 4}, (10, 7)),
        (("steps", 1, "folded"), {"offset": 8}, (12, 7)),
        (("steps", 1, "shared", "deep"), {}, (14, 13)),
        (("steps", 1, "shared"), {}, (14, 7)),
        (("steps", 1, "again"), {}, (15, 12)),
        (("steps", 1, "again", "deep"), {}, (14, 13)),
        (("steps", 1, "empty"), {"key": True}, (16, 5)),
        # Where the pointer leads nowhere: its nearest ancestor
        (("nothing",), {}, (1, 1)),
        (("steps", 0, "http", "urll"), {}, (4, 11)),
        (("steps", 0, "http", "urll"), {"key": True}, (4, 5)),
        (("steps", 7, "http"), {}, (3, 3)),
        (("steps", "x"), {}, (3, 3)),
        (("steps", 0, "id", "x", 1), {"offset": 3}, (3, 9)),
    ],
)
def test_places_of_a_document(pointer: Pointer, options: dict[str, Any], place: tuple[int, int]) -> None:
    assert parse_document(DOCUMENT.encode(), "yaml").locate(pointer, **options) == place


def test_a_document_makes_problems_with_their_place() -> None:
    document = parse_document(DOCUMENT.encode(), "yaml")
    problem = document.problem(("steps", 0, "http"), "needs a method", hint="GET", key=True, severity="warning")
    assert problem == Problem("steps[0].http", "needs a method", 4, 5, "GET", "warning")
    assert format_problem(problem, "f.yaml") == "f.yaml:4:5: needs a method (GET)"
    assert problem.to_json() == {
        "path": "steps[0].http", "line": 4, "column": 5, "message": "needs a method", "hint": "GET",
    }  # fmt: skip


def test_problems_without_a_place_leave_it_out() -> None:
    problem = Problem("", "too large")
    assert problem.to_json() == {"path": "", "message": "too large"}
    assert format_problem(problem, "f.yaml") == "f.yaml: too large"
    assert format_problem(problem) == "too large"


def test_foreign_text_in_problems_stays_short_and_on_one_line() -> None:
    assert quoted('a\nb\u2028\x9b\ud800"') == '"a\\nb\\u2028\\u009b\\ud800\\""'
    assert len(quoted("x" * 10_000)) == 83
    assert format_problem(Problem("", "a\nb"), "f") == "f: a\\u000ab"


def test_paths_read_like_code() -> None:
    assert format_path(("steps", 2, "http", "url")) == "steps[2].http.url"
    assert format_path(("headers", "X-A", "a b", "", 0, 'q"')) == 'headers.X-A["a b"][""][0]["q\\""]'
    assert format_path(()) == ""


def test_the_nearest_known_word_is_suggested() -> None:
    known = ["fetch", "shape", "max_attempts"]
    assert suggest("fetchh", known) == 'did you mean "fetch"?'
    assert suggest("Fetch", known) == 'did you mean "fetch"?'
    assert suggest("max_attempt", known) == 'did you mean "max_attempts"?'
    assert suggest("zzz", known) is None
    assert suggest("fetch", ["fetch"]) is None
    assert suggest("x" * 100_000, known) is None
