"""Any value, any text: what goes in comes out the same, and nothing but InvalidDocument is ever raised."""

from __future__ import annotations

import io
import json
import re
import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString

from taskforge.core.document import parse_document
from taskforge.core.problem import InvalidDocument, format_problem

# All but surrogates; more often than not the characters that mean something to YAML.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text(
    " \n\t'\"\\:#-?[]{},&*!|>%@`~$a1.\r\x85\u2028\ufeff", max_size=20
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from(["null", "~", "yes", "2020-01-01", "0o7", "0x1", "1e3", ".5", "<<", "=", "-", "? a", "${{ a }}"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=15
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=5)
SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def yaml_text(value: Any, flow: bool | None, width: int) -> str:
    dumper = YAML(typ="safe", pure=True)
    dumper.default_flow_style = flow
    dumper.width = width
    dumper.allow_unicode = True
    out = io.StringIO()
    dumper.dump(value, out)
    return out.getvalue()


def same(left: Any, right: Any) -> bool:
    """Equal with equal types; -0.0 and 0.0 differ, 1 and True differ."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(repr(left) == repr(right))


@SLOW
@given(OBJECTS, st.booleans(), st.sampled_from([None, 0, 2]), st.sampled_from(["\n", "\r\n", "\r"]))
def test_any_object_dumped_as_json_reads_back(value: dict[str, Any], ascii_only: bool, indent: Any, ends: str) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert same(parse_document(text.replace("\n", ends).encode(), "json").value, value)


def sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_keys(value[key]) for key in sorted(value)}
    return [sorted_keys(item) for item in value] if isinstance(value, list) else value


@SLOW
@given(OBJECTS, st.sampled_from([True, False, None]), st.sampled_from([20, 4096]))
def test_any_object_dumped_as_yaml_reads_back(value: dict[str, Any], flow: bool | None, width: int) -> None:
    text = yaml_text(value, flow, width)
    # Line breaks of 1.1 that 1.2 knows as common characters: ruamel's dumper still folds at them.
    if not value or "${{" in text or re.search("[\x85\u2028\u2029]", text):
        return
    try:
        if not same(sorted_keys(YAML(typ="safe", pure=True).load(text)), sorted_keys(value)):
            return  # the dumper wrote something else
    except YAMLError:
        return  # the dumper wrote what it cannot read itself
    assert same(sorted_keys(parse_document(text.encode(), "yaml").value), sorted_keys(value))


@SLOW
@given(OBJECTS)
def test_any_object_dumped_as_json_is_yaml_too(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    assert same(parse_document(text.encode(), "yaml").value, value)


DOUBLE_PARTS = st.sampled_from(["a", " ", "\n", "\t", "\\n", "\\\n", "\\ ", "\\t", "\\x41", '\\"', "\\\\"])
PLAIN_PARTS = st.sampled_from(["a", "b:", "#", "- ", " ", "\n ", "\n  ", "\n", "x#", ":y", "'", "[", "}", ","])
LINES = st.lists(st.text("ab #:'\"\\-\t", max_size=6), max_size=6).map("\n".join)


@SLOW
@given(LINES, st.sampled_from(["|", ">"]), st.sampled_from(["", "-", "+"]), st.integers(1, 4))
def test_block_texts_read_as_ruamel_reads_them(text: str, style: str, chomp: str, width: int) -> None:
    source = f"k:\n  t: {style}{width}{chomp}\n" + "".join(f"  {' ' * width}{line}\n" for line in text.split("\n"))
    source += "  u: 1\n"
    ours = parse_document(source.encode(), "yaml").value
    assert ours == YAML(typ="safe", pure=True).load(source)


@SLOW
@given(st.text("ab \n\t'", max_size=20))
def test_single_quoted_texts_read_as_ruamel_reads_them(text: str) -> None:
    source = f"k: '{text.replace(chr(39), chr(39) * 2)}'\n"
    assert parse_document(source.encode(), "yaml").value == YAML(typ="safe", pure=True).load(source)


@SLOW
@given(st.lists(DOUBLE_PARTS, max_size=15))
@example([" ", "\\ ", " ", "\n", "a"])
def test_double_quoted_texts_read_as_ruamel_reads_them(parts: list[str]) -> None:
    source = f'k: "{"".join(parts)}"\n'
    assert parse_document(source.encode(), "yaml").value == YAML(typ="safe", pure=True).load(source)


@SLOW
@given(st.lists(PLAIN_PARTS, max_size=12))
def test_plain_texts_read_as_ruamel_reads_them_or_are_refused(parts: list[str]) -> None:
    source = f"k: p{''.join(parts)}\n"
    try:
        expected = YAML(typ="safe", pure=True).load(source)
    except YAMLError:
        with pytest.raises(InvalidDocument):
            parse_document(source.encode(), "yaml")
        return
    try:
        assert parse_document(source.encode(), "yaml").value == expected
    except InvalidDocument as refused:
        allowed = re.compile(r"keys? .*(text|twice|empty)|space before")
        assert all(allowed.search(problem.message) for problem in refused.problems)


@SLOW
@given(st.data())
def test_literal_and_folded_dumps_read_back(data: st.DataObject) -> None:
    text = data.draw(st.text("ab \n", max_size=30))
    kind = data.draw(st.sampled_from([LiteralScalarString, FoldedScalarString]))
    out = io.StringIO()
    YAML().dump({"k": kind(text), "l": 1}, out)
    source = out.getvalue()
    if "\a" not in source:
        assert parse_document(source.encode(), "yaml").value == YAML(typ="safe", pure=True).load(source)


PIECES = st.sampled_from(
    [
        *[
            " --- ",
            " ... ",
            " ${{ ",
            " }} ",
            " #",
            "&a ",
            "*a ",
            "!t ",
            "<<: ",
            "\\u",
            "\\ud800",
            "null",
            "true",
            "0x",
            "1e9",
            ".inf",
            ": ",
            "- ",
            "%YAML 1.2",
        ],
        *("\n  ", "\n    ", "\n---\n", "\n...\n", "\x85", "\u2028", "\ufeff", "\x00", "é", "😀", "|\n", ">+2\n"),
        *"abk01.-?:,[]{}#&*!|>'\"%@` \t\n\r\\$~<=",
    ]
)


def nothing_but_invalid_document(data: bytes) -> None:
    for media in ("yaml", "json"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                document = parse_document(data, "yaml" if media == "yaml" else "json")
            except InvalidDocument as refused:
                assert refused.problems
                for problem in refused.problems:
                    line = format_problem(problem, "f")
                    assert len(line.splitlines()) == 1
                    line.encode()
            else:
                json.dumps(document.value, allow_nan=False, ensure_ascii=False).encode()
                assert isinstance(document.value, dict)


@SLOW
@given(st.binary(max_size=60))
@example(b"\x00")
@example(b'a: "\\UFFFFFFFF"')
@example(b"%YAML 1." + b"9" * 5000 + b"\n---\na: b")
@example(b"a: !%ff x")
@example(b"? ? a\n: b")
@example(b"{?}")
@example(b"[?]: x")
@example(b"a: &b")
@example(b"&b : x")
@example(b"a: [b: &c]")
@example(b"- &x\n- *x")
def test_random_bytes_raise_nothing_but_invalid_document(data: bytes) -> None:
    nothing_but_invalid_document(data)


@settings(SLOW, max_examples=500)
@given(st.lists(PIECES, max_size=25).map("".join))
def test_random_yaml_shapes_raise_nothing_but_invalid_document(text: str) -> None:
    nothing_but_invalid_document(text.encode())
    nothing_but_invalid_document(b"a: " + text.encode())


@SLOW
@given(OBJECTS, st.data())
def test_damaged_documents_raise_nothing_but_invalid_document(value: dict[str, Any], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([json.dumps(value), yaml_text(value, False, 80)]))
    at = data.draw(st.integers(0, len(text)))
    piece = data.draw(PIECES)
    nothing_but_invalid_document((text[:at] + piece + text[at + data.draw(st.integers(0, 3)) :]).encode())
