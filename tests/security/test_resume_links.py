"""One-time links: nobody makes or changes one without the key."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from taskforge.config.home import create_home
from taskforge.core.errors import StartupError
from taskforge.security.keys import derive_key, read_key
from taskforge.security.resume_links import PATH, ResumeLinks, ResumeTarget

LINKS = ResumeLinks(b"k" * 32, "https://flows.example.com/")
TARGET = ResumeTarget("run_01", "each[3].approve", 2)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_a_link_leads_to_its_step_and_reads_back() -> None:
    url = LINKS.url(TARGET)
    assert url.startswith(f"https://flows.example.com{PATH}")
    token = url.removeprefix(f"https://flows.example.com{PATH}")
    assert set(token) <= set(ALPHABET + ".")
    assert LINKS.read(token) == TARGET
    assert LINKS.token(TARGET) == token, "the same step has the same link, before and after a crash"


def test_links_of_other_steps_runs_generations_and_keys_differ() -> None:
    others = [TARGET._replace(run="run_02"), TARGET._replace(path="each[4].approve"), TARGET._replace(generation=3)]
    tokens = [LINKS.token(other) for other in (TARGET, *others)]
    assert len(set(tokens)) == 4
    assert len({token.partition(".")[2] for token in tokens}) == 4
    assert ResumeLinks(b"o" * 32, "http://x").read(LINKS.token(TARGET)) is None


@given(st.data())
def test_no_change_of_a_single_character_is_taken(data: st.DataObject) -> None:
    token = LINKS.token(TARGET)
    at = data.draw(st.integers(0, len(token) - 1))
    char = data.draw(st.sampled_from(ALPHABET + ".=+/é\x00").filter(lambda char: char != token[at]))
    assert LINKS.read(token[:at] + char + token[at + 1 :]) is None


@given(st.text(max_size=300))
def test_no_other_text_is_taken(text: str) -> None:
    assert LINKS.read(text) is None
    assert LINKS.read(LINKS.token(TARGET) + text[:1]) is None or not text


def test_a_payload_of_our_own_form_with_another_signature_is_not_taken() -> None:
    payload, _, signature = LINKS.token(TARGET).partition(".")
    forged = base64.urlsafe_b64encode(b'["run_01","each[4].approve",2]').decode().rstrip("=")
    for token in (f"{forged}.{signature}", payload, f"{payload}.", f".{signature}", "." * 10, "", "x" * 100_000):
        assert LINKS.read(token) is None


def test_keys_are_derived_by_hkdf_and_differ_by_purpose() -> None:
    key = bytes(range(32))
    for purpose in ("a", "taskforge resume link 1", "ä"):
        known = HKDF(SHA256(), 32, None, purpose.encode()).derive(key)
        assert derive_key(key, purpose) == known
    assert derive_key(key, "a") != derive_key(key, "b")


def test_the_key_of_the_home_is_read_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    home = tmp_path / "home"
    create_home(home)
    assert len(read_key(home)) == 32
    file = home / "secret.key"
    for content in (b"", b"c2hvcnQ=", b"no base64 at all!", os.urandom(32)):
        file.write_bytes(content)
        with pytest.raises(StartupError) as refused:
            read_key(home)
        assert str(file) in refused.value.message
    file.unlink()
    with pytest.raises(StartupError, match="cannot be read"):
        read_key(home)
