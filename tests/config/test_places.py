"""Keys are found where they stand, in every way that TOML writes them."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.config.places import Place, find_places

WORDS = st.text("abcXYZ_-09", min_size=1, max_size=6)
KEYS = st.one_of(
    WORDS,
    WORDS.map(lambda word: f'"{word} é"'),
    st.sampled_from(["'lit#eral'", '"a.b"', '"q\\"uote"', '"\\u0041"', "''"]),
)
SCALARS = st.sampled_from(
    [
        "1",
        "-0.5e3",
        "true",
        "1979-05-27 07:32:00",
        '"text"',
        '"# no comment = [ }"',
        "'lit\\'",
        '"\\""',
        '""',
        '"""\nmany\n[lines] = 1 # no"""',
        '""""a"" b"""""',
        "'''it's\n''x'''''",
        '"""\\""""',
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: "[ # comment ]\n" + ",\n".join(items) + "\n]"),
        st.lists(inner.filter(lambda text: "\n" not in text), max_size=3).map(
            lambda items: "{" + ", ".join(f"k{n} = {item}" for n, item in enumerate(items)) + "}"
        ),
    ),
    max_leaves=6,
)


def paths(document: object, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not isinstance(document, dict):
        return set()
    found: set[tuple[str, ...]] = set()
    for key, value in document.items():
        found |= {(*above, key)} | paths(value, (*above, key))
    return found


@given(st.lists(st.tuples(st.sampled_from(["", "[t{}]\n", "[t{}.'x y'] # [c]\n"]), KEYS, VALUES), max_size=6))
def test_every_key_of_a_document_is_found_and_a_value_stands_at_its_place(
    parts: list[tuple[str, str, str]],
) -> None:
    # a number in each key and header keeps them from meeting; `p{n}.` makes it a dotted key
    text = "".join(
        f"{header.format(n)}  p{n} . {key}\t=  {value} # end\n" for n, (header, key, value) in enumerate(parts)
    )
    document = tomllib.loads(text)
    places = find_places(text)
    assert paths(document) <= set(places)
    lines = text.split("\n")
    for n, (_, key, value) in enumerate(parts):
        path = next(path for path in places if path[-2:-1] == (f"p{n}",) and path[-1] == _plain(key))
        place = places[path]
        assert lines[place.key[0] - 1][place.key[1] - 1 :].startswith(f"p{n} . {key}")
        assert "\n".join([lines[place.value[0] - 1][place.value[1] - 1 :], *lines[place.value[0] :]]).startswith(value)


def _plain(key: str) -> str:
    found: str = next(iter(tomllib.loads(f"{key} = 1")))
    return found


@pytest.mark.parametrize(
    ("text", "path", "place"),
    [
        ("a = 1", ("a",), Place((1, 1), (1, 5))),
        ("# x\n\n [ a . b ]\n", ("a", "b"), Place((3, 4), (3, 4))),
        ("[[a]]\nb = 1\n[[a]]\nb = 2", ("a", "b"), Place((2, 1), (2, 5))),
        ("a = {b = {c = 'd'}}", ("a", "b", "c"), Place((1, 11), (1, 15))),
        ("é = 1".replace("é", '"é"') + "\nb = [1,\n 2] # c\nd = 2", ("d",), Place((4, 1), (4, 5))),
    ],
)
def test_a_place_counts_lines_and_characters_from_1(text: str, path: tuple[str, ...], place: Place) -> None:
    assert find_places(text)[path] == place
