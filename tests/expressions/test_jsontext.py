"""One documented reading of every odd JSON text, and nothing lost between text and value."""

from __future__ import annotations

import json
import math

import hypothesis
import pytest
from hypothesis import strategies as st

from taskforge.core import jsontext
from taskforge.core.jsontext import MAX_DEPTH, MAX_DIGITS, JsonError
from taskforge.core.model import JSON
from tests.expressions import jq_programs


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12345678901234567890", 12345678901234567890),
        ("-9223372036854775809", -9223372036854775809),
        ("-9223372036854775808", -9223372036854775808),
        ("18446744073709551616", 18446744073709551616),
        ('{"id": 123456789012345678901234567890}', {"id": 123456789012345678901234567890}),
        ("1" * MAX_DIGITS, int("1" * MAX_DIGITS)),
        ("1.0", 1.0),
        ("1e2", 100.0),
        ("-0", 0),
        ('"\\ud83d\\ude00"', "😀"),
        ('"\\ud800"', "\ufffd"),
        ('"a\\udfffb"', "a\ufffdb"),
        ('"\\\\ud800"', "\\ud800"),
        ('"\\ud800\\ud83d\\ude00"', "\ufffd😀"),
        ('"\\u0000"', "\0"),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ('"' + "7" * 40 + '"', "7" * 40),
    ],
)
def test_odd_texts_have_one_reading(text: str, value: JSON) -> None:
    read = jsontext.loads(text)
    assert read == value
    assert type(read) is type(value)
    assert jsontext.loads(text.encode()) == read


def test_duplicate_keys_are_refused_where_asked_with_their_place() -> None:
    text = '{"a": [{"b": "x:\\"{", "c": 1}],\n  "a": 2}'
    with pytest.raises(JsonError, match='duplicate key "a"') as refused:
        jsontext.loads(text, unique_keys=True)
    assert (refused.value.line, refused.value.column) == (2, 3)
    assert jsontext.loads('{"a": {"a": 1}, "b": {"a": 1}}', unique_keys=True) == {"a": {"a": 1}, "b": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "message", "line", "column"),
    [
        ("NaN", "unexpected character", 1, 1),
        ("[1,\n Infinity]", "unexpected character", 2, 2),
        ("[1,\n 1e400]", "too large for a double", 2, 2),
        ("1" * (MAX_DIGITS + 1), "1001 digits", 1, 1),
        ('["1111", ' + "1" * 5000 + "]", "5000 digits", 1, 10),
        ('{"a": 1', "unexpected end", 1, 8),
        ("", "empty", 1, 1),
        ("[1,]", "", 1, 3),
        ("[00000000000000000000001]", "", 1, 3),
        ("-Infinity", "", 1, 2),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: str, message: str, line: int, column: int) -> None:
    with pytest.raises(JsonError) as refused:
        jsontext.loads(text)
    assert message in refused.value.message
    assert (refused.value.line, refused.value.column) == (line, column)


@pytest.mark.parametrize("text", [b"\xff", b'"a\xc3"', b'["\xed\xa0\x80"]x', b'{"' + b"1" * 30 + b'": "\xfe"}'])
def test_invalid_utf8_is_refused(text: bytes) -> None:
    with pytest.raises(JsonError):
        jsontext.loads(text)


def test_nesting_is_bounded_the_same_way_on_every_path() -> None:
    for opening, closing, inner in (("[", "]", ""), ('{"a":', "}", "1")):
        for filling in (inner, "1" * 30):
            for deeper in (0, 1):
                depth = MAX_DEPTH + deeper
                text = opening * depth + filling + closing * depth
                if deeper:
                    with pytest.raises(JsonError, match="inside one another"):
                        jsontext.loads(text)
                else:
                    assert jsontext.loads(jsontext.dumps(jsontext.loads(text))) == jsontext.loads(text)
    for depth in (1_000, 100_000):
        with pytest.raises(JsonError):
            jsontext.loads(nested(depth))
        with pytest.raises(JsonError):
            jsontext.loads("[" * depth, unique_keys=True)


def test_values_too_deep_to_read_again_are_not_written() -> None:
    value: JSON = 2**70
    for _ in range(MAX_DEPTH + 1):
        value = [value]
    with pytest.raises(JsonError, match="inside one another"):
        jsontext.dumps(value)


def test_what_no_double_holds_is_clamped_only_where_asked() -> None:
    assert jsontext.loads("[1e400, -1e400]", clamp=True) == [1.7976931348623157e308, -1.7976931348623157e308]


def test_numbers_are_written_alike_beside_huge_integers() -> None:
    assert jsontext.dumps([1e-7, 2**64]) == "[1e-7,18446744073709551616]"
    assert jsontext.dumps({"a\ud800": "\udfff", "n": 2**200}) == f'{{"a\ufffd":"\ufffd","n":{2**200}}}'


@hypothesis.given(jq_programs.json_values)
def test_every_value_comes_back_with_every_digit(value: JSON) -> None:
    read = jsontext.loads(jsontext.dumps(value))
    assert read == value
    assert jsontext.dumps(read) == jsontext.dumps(value)
    assert jsontext.loads(jsontext.dump_bytes(value), unique_keys=True) == value


@hypothesis.given(
    st.recursive(
        st.sampled_from(["1", '"a:b"', '"\\":"', "null"]),
        lambda inner: (
            st.lists(st.tuples(st.sampled_from(['"a"', '"b:"', '"\\u0061"', '""']), inner), max_size=3).map(
                lambda pairs: "{" + ", ".join(f"{key} : {value}" for key, value in pairs) + "}"
            )
            | st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
        ),
        max_leaves=8,
    )
)
def test_a_key_is_found_to_be_there_twice_however_it_is_written(text: str) -> None:
    def pairs(items: list[tuple[str, JSON]]) -> JSON:
        if len(dict(items)) < len(items):
            raise KeyError
        return dict(items)

    try:
        expected = json.loads(text, object_pairs_hook=pairs)
    except KeyError:
        with pytest.raises(JsonError, match="duplicate key"):
            jsontext.loads(text, unique_keys=True)
    else:
        assert jsontext.loads(text, unique_keys=True) == expected


@hypothesis.given(st.binary(max_size=60) | st.text('[]{}",:0123456789eE+-.\\u dtrufalsn', max_size=60))
def test_any_input_gives_a_value_or_a_json_error(text: bytes | str) -> None:
    for unique_keys in (False, True):
        try:
            value = jsontext.loads(text, unique_keys=unique_keys)
        except JsonError as error:
            assert "\n" not in error.message
            continue
        assert not isinstance(value, float) or math.isfinite(value)
        jsontext.dumps(value)
