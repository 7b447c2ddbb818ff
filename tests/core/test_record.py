"""Classes made by `core.record` are what `dataclasses` would have made, but that nothing stops an assignment."""

from __future__ import annotations

import dataclasses

import pytest

from taskforge.core import record


@record.dataclass(frozen=True, slots=True)
class _Place:
    name: str
    row: int = 1
    hidden: str = dataclasses.field(default="", repr=False)
    note: list[str] = dataclasses.field(default_factory=list, compare=False)


@record.dataclass(slots=True)
class _Counter:
    count: int = 0


@record.dataclass(slots=True, eq=False)
class _Thing:
    count: int = 0


@record.dataclass(frozen=True, slots=True)
class _Empty:
    """Nothing."""


def test_fields_defaults_and_replacing() -> None:
    place = _Place("a", hidden="x")
    assert (place.name, place.row, place.hidden, place.note) == ("a", 1, "x", [])
    assert dataclasses.replace(place, row=2) == _Place("a", 2, "x")
    assert dataclasses.asdict(_Counter(3)) == {"count": 3}
    assert not hasattr(place, "__dict__")


def test_equal_is_what_has_the_same_class_and_values() -> None:
    assert _Place("a", note=["x"]) == _Place("a")
    assert _Place("a") != _Place("b")
    assert _Counter(1) == _Counter(1) != _Counter(2)
    assert _Counter(1) != object()
    assert _Thing(1) != _Thing(1)
    assert _Empty() == _Empty()


def test_what_is_frozen_has_a_hash_and_what_can_change_has_none() -> None:
    assert len({_Place("a"), _Place("a"), _Place("b")}) == 2
    assert len({_Thing(), _Thing(), _Empty(), _Empty()}) == 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(_Counter())


def test_what_is_hidden_is_not_shown() -> None:
    assert repr(_Place("a", hidden="x")) == "_Place(name='a', row=1, note=[])"
    assert repr(_Empty()) == "_Empty()"
