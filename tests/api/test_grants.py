"""What a token's scopes allow: the algebra, without a server."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskforge.api.grants import ALL, Grants
from taskforge.api.route import Scope

SCOPES = st.sampled_from(list(Scope))
NAMES = st.sampled_from(["a", "b", "uptime", "run"])
WORDS = st.lists(st.tuples(SCOPES, st.none() | NAMES))


def grants(words: list[tuple[Scope, str | None]]) -> Grants:
    return Grants.parse([scope.name.lower() + (f":{name}" if name else "") for scope, name in words])


@given(WORDS, SCOPES, NAMES)
def test_a_call_is_admitted_exactly_when_one_word_reaches_it(
    words: list[tuple[Scope, str | None]], wanted: Scope, name: str
) -> None:
    found = grants(words)
    assert found.admits(wanted, None) == any(at is None and scope >= wanted for scope, at in words)
    assert found.admits(wanted, name) == any(at in (None, name) and scope >= wanted for scope, at in words)


@given(WORDS, SCOPES)
def test_what_is_listed_is_what_is_admitted(words: list[tuple[Scope, str | None]], wanted: Scope) -> None:
    found, names = grants(words), ("a", "b", "run", "uptime")
    reach = found.reach(wanted)
    assert (reach is None) == found.admits(wanted, None)
    assert (names if reach is None else reach) == tuple(name for name in names if found.admits(wanted, name))


@given(WORDS, WORDS, SCOPES, NAMES)
def test_more_words_never_allow_less(
    words: list[tuple[Scope, str | None]], more: list[tuple[Scope, str | None]], wanted: Scope, name: str
) -> None:
    for workflow in (None, name):
        assert grants(words).admits(wanted, workflow) <= grants(words + more).admits(wanted, workflow)


@given(WORDS, SCOPES, NAMES)
def test_each_scope_includes_those_below_it(words: list[tuple[Scope, str | None]], wanted: Scope, name: str) -> None:
    for workflow in (None, name):
        for below in Scope:
            if below <= wanted and grants(words).admits(wanted, workflow):
                assert grants(words).admits(below, workflow)


@given(st.lists(st.text(max_size=12)))
def test_words_that_are_no_scope_grant_nothing(words: list[str]) -> None:
    known = {scope.name.lower() for scope in Scope}
    strange = [word for word in words if word.partition(":")[0] not in known]
    assert Grants.parse(strange) == Grants()
    assert Grants.parse(["run:", "run:Up_", "run: a", "run:a:b", "run:-a", "*", "run:*", "owner:a"]) == Grants()


def test_the_configured_token_may_do_everything() -> None:
    assert all(ALL.admits(scope, name) for scope in Scope for name in (None, "any"))
