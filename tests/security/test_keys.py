"""`secret.key`: written whole and private, read with everything a change of the key leaves in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.config.home import create_home
from taskforge.core.errors import StartupError, Unavailable
from taskforge.security.keys import LINK_PURPOSE, MOST_LINKS, KeyFile, KeyRing, derive_key, new_key, read_key
from taskforge.security.resume_links import ResumeLinks, ResumeTarget

KEY = st.binary(min_size=32, max_size=32)
TARGET = ResumeTarget("run_1", "ask", 1)


@given(KEY, st.none() | KEY, st.lists(KEY, max_size=MOST_LINKS))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, current: bytes, previous: bytes | None,
                                 links: list[bytes]) -> None:  # fmt: skip
    file = KeyFile(tmp_path_factory.getbasetemp())
    ring = KeyRing(current, previous, tuple(links))
    file.write(ring)
    assert file.read() == ring
    assert read_key(file.path.parent) == current
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_line_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    create_home(tmp_path / "home")
    file = KeyFile(tmp_path / "home")
    good = file.path.read_text()
    for line in ("previous", "previous x", "link ", good.strip(), "other " + good.strip()):
        file.path.write_text(good + line + "\n")
        with pytest.raises(StartupError, match="holds no key"):
            file.read()


def test_a_change_keeps_the_old_key_until_it_is_ended_and_links_good_after_it() -> None:
    ring = KeyRing(new_key())
    links = ResumeLinks(ring.current, "http://x")
    tokens = []
    for _ in range(MOST_LINKS):
        tokens.append(links.token(TARGET))
        changing = ring.begin_change(new_key())
        assert changing.previous == ring.current
        ring = changing.end_change()
        assert ring.previous is None
        links.use_keys(ring.current, ring.links)
        assert all(links.read(token) == TARGET for token in tokens)
    assert derive_key(ring.current, LINK_PURPOSE) not in ring.links
    ring = ring.begin_change(new_key()).end_change()
    links.use_keys(ring.current, ring.links)
    assert len(ring.links) == MOST_LINKS
    assert [links.read(token) for token in tokens] == [None, *[TARGET] * (MOST_LINKS - 1)]
    ring = ring.begin_change(new_key(), keep_links=False)
    links.use_keys(ring.current, ring.links)
    assert not any(links.read(token) for token in tokens)


def test_a_file_that_cannot_be_written_is_refused_and_stays_as_it_was(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "absent")
    with pytest.raises(Unavailable, match="the key was not changed"):
        file.write(KeyRing(new_key()))
    create_home(tmp_path / "home")
    file = KeyFile(tmp_path / "home")
    before = file.path.read_bytes()
    (tmp_path / "home" / ".next-secret.key").mkdir()
    with pytest.raises(Unavailable):
        file.write(KeyRing(new_key()))
    assert file.path.read_bytes() == before
