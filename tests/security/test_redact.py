"""Masking: a secret is found in any spelling, and nothing else is touched."""

from __future__ import annotations

import base64
import html
import json
import time
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taskforge.security.redact import Masker

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=4, max_size=40)


@example("00\\\xa0", "", "", 0)
@example('ab\\\\"\n\\x', "", "", 0)
@given(TEXT, st.text(max_size=10), st.text(max_size=10), st.integers(0, 2))
def test_every_spelling_of_a_value_is_masked(value: str, before: str, after: str, shift: int) -> None:
    masker = Masker([("KEY", value)])
    raw = value.encode()
    forms = {value, quote(value), quote(value, safe=""), quote_plus(value), raw.hex(), raw.hex().upper()}
    forms |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], html.escape(value)}
    forms |= {json.dumps(json.dumps(value))[3:-3], base64.b64encode(raw).decode()}
    for form in forms:
        assert "[secret KEY]" in masker.mask_text(f"{before}|{form}|{after}")
    if len(raw) >= 8:
        inside = base64.b64encode(b"\0" * shift + raw + after.encode()).decode()
        assert "[secret KEY]" in masker.mask_text(inside)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
NAMES = st.text(max_size=5)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4)))
def test_a_value_without_a_secret_comes_back_itself(value: Any) -> None:
    assert Masker().mask(value) is value
    assert Masker([("KEY", "zzzz-not-in-there")]).mask(value) is value


def test_masking_goes_into_keys_lists_and_numbers() -> None:
    masker = Masker([("WORD", "hunter22"), ("PIN", "48151623")])
    value = {"a": ["x hunter22 y", {"hunter22": None}], "n": 48151623, "big": 1481516230, "f": 4.8, "ok": True}
    assert masker.mask(value) == {
        "a": ["x [secret WORD] y", {"[secret WORD]": None}],
        "n": "[secret PIN]",
        "big": "1[secret PIN]0",
        "f": 4.8,
        "ok": True,
    }


def test_a_short_value_is_not_masked() -> None:
    masker = Masker([("ONE", "a"), ("THREE", "abc"), ("EMPTY", "")])
    assert masker.mask_text("a banana, abc") == "a banana, abc"
    assert (
        Masker([("FOUR", "abcd")]).mask_text("abcd YWJjZA== 61626364") == "[secret FOUR] [secret FOUR]== [secret FOUR]"
    )


def test_the_longer_of_two_values_is_masked_first() -> None:
    masker = Masker([("SHORT", "abcdef"), ("LONG", "abcdef-tail")])
    assert masker.mask_text("abcdef-tail abcdef") == "[secret LONG] [secret SHORT]"


def test_lines_of_a_long_value_are_masked_by_themselves() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w\nAAoIBAQDExampleLine\n-----END KEY-----\n"
    masker = Masker([("PEM", key)])
    assert masker.mask_text(key) == "[secret PEM]"
    assert masker.mask_text(key.replace("\n", "\r\n")) == "[secret PEM]"
    assert masker.mask_text("at MIIEvQIBADANBgkqhkiG9w:") == "at [secret PEM]:"
    assert "BEGIN" in masker.mask_text("-----BEGIN KEY-----")


@pytest.mark.parametrize("secret", ["????////", "\\" * 40, "a" * 60, "+++++++++"])
def test_odd_values_cost_no_more_than_others(secret: str) -> None:
    masker = Masker([("ODD", secret)])
    text = (secret[:-1] + "x") * 2_000
    started = time.process_time()
    assert secret not in masker.mask_text(text)
    assert time.process_time() - started < 2


def test_a_large_value_is_masked_quickly() -> None:
    masker = Masker([(f"S{n}", f"secret-value-{n:04}-{n * 7919:x}") for n in range(50)])
    value = [{"id": n, "name": f"item number {n}", "text": "lorem ipsum " * 5} for n in range(10_000)]
    started = time.process_time()
    assert masker.mask(value) is value
    assert time.process_time() - started < 3
