"""What is printed: the same content in JSON and YAML, nothing that steers a terminal, nothing wider than it."""

from __future__ import annotations

import json
import unicodedata
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from taskforge.cli.render import cut, fold, width
from taskforge.cli.shown import ascii_only, encode, encode_yaml, escape

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_json_text_reads_back_as_the_value(value: object) -> None:
    assert json.loads(encode(value)) == value
    assert json.loads(encode(value, indent=None)) == value
    assert "\n" not in encode(value, indent=None)
    assert json.loads(ascii_only(encode(value))) == value


@given(values)
def test_yaml_text_reads_back_as_the_value(value: object) -> None:
    assert YAML(typ="safe", pure=True).load(StringIO(encode_yaml(value))) == value


@pytest.mark.parametrize(
    "word", ["yes", "No", "null", "~", "1", "1.5", "2026-11-23", "a: b", "- a", "#x", "x #y", "", " "]
)
def test_words_that_yaml_reads_otherwise_are_quoted(word: str) -> None:
    assert YAML(typ="safe", pure=True).load(StringIO(encode_yaml({"key": word, word: [word]}))) == {
        "key": word,
        word: [word],
    }


def test_integers_keep_every_digit() -> None:
    assert encode(12345678901234567890, indent=None) == "12345678901234567890"
    assert encode_yaml([12345678901234567890]) == "- 12345678901234567890\n"


@given(st.text())
def test_nothing_that_a_terminal_acts_upon_is_left(text: str) -> None:
    for shown in (escape(text), encode([text], indent=None), encode_yaml([text])[:-1]):
        assert not [char for char in shown if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
        assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


@given(texts.map(escape), st.integers(1, 20))
def test_cut_text_fits(text: str, columns: int) -> None:
    assert width(cut(text, columns)) <= columns


@given(st.text("ab 中", max_size=40), st.integers(2, 20), st.integers(2, 20))
def test_folded_text_fits_and_loses_no_letter(text: str, first: int, rest: int) -> None:
    lines = fold(text, first, rest)
    assert width(lines[0]) <= first
    assert all(width(line) <= rest for line in lines[1:])
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
