"""Secrets at rest: sealed with the home's key and bound to their name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.security.secrets import SecretBox, UnreadableSecret

KEY, OTHER = b"k" * 32, b"o" * 32


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_what_is_sealed_is_opened_by_the_same_key_and_name_alone(value: str) -> None:
    sealed = SecretBox(KEY).seal("A", value)
    assert SecretBox(KEY).open("A", sealed) == value
    assert len(value) < 4 or value.encode() not in sealed
    for box, name, changed in (
        (SecretBox(OTHER), "A", sealed),
        (SecretBox(KEY), "B", sealed),
        (SecretBox(KEY), "A", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (SecretBox(KEY), "A", sealed[:5]),
        (SecretBox(KEY), "A", b""),
    ):
        with pytest.raises(UnreadableSecret):
            box.open(name, changed)


def test_the_same_value_is_never_sealed_alike_and_a_key_is_named_without_being_told() -> None:
    box = SecretBox(KEY)
    assert box.seal("A", "v") != box.seal("A", "v")
    assert box.key_id == SecretBox(KEY).key_id != SecretBox(OTHER).key_id
    assert len(box.key_id) == 16 and KEY.hex()[:16] != box.key_id
