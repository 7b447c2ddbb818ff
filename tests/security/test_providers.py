"""Providers of secrets: real variables, files and programs; what goes wrong is told without a word of a value."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.config.values import check_provider
from taskforge.engine.sources import NotFetched, Sources
from taskforge.security.providers import (
    MAX_SECRET_BYTES,
    CommandProvider,
    EnvProvider,
    FileProvider,
    ProviderFailed,
    make_providers,
)
from tests.support.clock import ManualClock

VALUE = "opaque-value"


def command(code: str, *, timeout_s: float = 20, environ: dict[str, str] | None = None) -> CommandProvider:
    return CommandProvider([sys.executable, "-c", code], environ or dict(os.environ), timeout_s)


async def test_a_variable_is_read_by_prefix_and_an_empty_one_is_none() -> None:
    provider = EnvProvider("APP_", {"APP_A": VALUE, "APP_EMPTY": "", "APP_": "x", "OTHER": "y"})
    assert [await provider.read(name) for name in ("A", "EMPTY", "B")] == [VALUE, None, None]
    assert provider.list_names() == ["A", "EMPTY"]


async def test_a_file_loses_one_newline_and_only_files_of_the_directory_are_read(tmp_path: Path) -> None:
    provider = FileProvider(tmp_path)
    for name, raw in {"A": b"a\n", "B": b"b\r\n", "C": b"c\n\n", "D": b"", "E": b"\n", "F": b"\xff",
                      "G": b"x" * (MAX_SECRET_BYTES + 1), "H": b"x" * MAX_SECRET_BYTES + b"\r\n"}.items():  # fmt: skip
        (tmp_path / name).write_bytes(raw)
    found = [await provider.read(name) for name in ("A", "B", "C", "D", "E", "absent")]
    assert found == ["a", "b", "c\n", None, None, None]
    assert len(await provider.read("H") or "") == MAX_SECRET_BYTES
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("F", "G", "folder", "pipe"):
        with pytest.raises(ProviderFailed, match=f"file:.*{name}"):
            await provider.read(name)
    assert provider.list_names() == ["A", "B", "C", "D", "E", "F", "G", "H"]
    assert FileProvider(tmp_path / "absent").list_names() == []
    assert await FileProvider(tmp_path / "absent").read("A") is None


async def test_a_command_gets_the_name_as_it_is_and_no_shell_sees_it() -> None:
    show = "import sys; print(repr(sys.argv[1:]))"
    assert await command(show).read("A") == "['A']"
    named = CommandProvider([sys.executable, "-c", show, "x/{name}/y", "$(id)", "{name}"], dict(os.environ), 20)
    assert await named.read("A") == "['x/A/y', '$(id)', 'A']"


async def test_a_command_sees_its_servers_environment_without_the_servers_own_settings() -> None:
    code = "import os; print(sorted(name for name in os.environ if name.startswith(('TASKFORGE', 'VAULT'))))"
    environ = {"TASKFORGE_AUTH__TOKEN": VALUE, "VAULT_ADDR": "x", "PATH": os.environ["PATH"]}
    assert await command(code, environ=environ).read("A") == "['VAULT_ADDR']"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (f"print('{VALUE}'); raise SystemExit(3)", "exit code 3"),
        (f"import sys; sys.stdout.buffer.write(b'\\xff{VALUE}')", "not UTF-8"),
        (f"print('{VALUE}' * 100000)", "more than 65536 bytes"),
        ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
    ],
)
async def test_a_command_that_fails_is_named_and_nothing_of_its_output_is_told(code: str, words: str) -> None:
    with pytest.raises(ProviderFailed) as failed:
        await command(code).read("NAME")
    told = str(failed.value)
    assert words in told and "NAME" in told and told.startswith("command:python")
    assert VALUE not in told


async def test_a_command_that_is_not_there_is_a_failure_too() -> None:
    with pytest.raises(ProviderFailed, match="command:no-such cannot be run for A: no such file"):
        await CommandProvider(["/absent/no-such"], {}, 5).read("A")


async def test_a_slow_command_is_ended_with_what_it_has_started(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "import subprocess, sys, time; "
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(mark)!r}, 'w').write(str(child.pid)); time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(ProviderFailed, match="within 1 s"):
        await command(code, timeout_s=1).read("A")
    assert time.monotonic() - began < 10
    deadline = time.monotonic() + 10
    while _lives(int(mark.read_text())):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


# ---- in order, and kept for a while


class Counting:
    """A provider that counts how often it is asked."""

    can_list = True

    def __init__(self, label: str, values: dict[str, Any]) -> None:
        self.label = label
        self.values = values
        self.asked: list[str] = []

    async def read(self, name: str) -> str | None:
        self.asked.append(name)
        await asyncio.sleep(0)
        value = self.values.get(name)
        if isinstance(value, Exception):
            raise value
        return None if value is None else str(value)

    def list_names(self) -> list[str]:
        return list(self.values)


ORDERS = st.permutations([None, "a", "b"])
HAS = st.fixed_dictionaries({name: st.booleans() for name in ("store", "a", "b")})


@given(ORDERS, HAS)
async def test_the_first_provider_that_has_a_name_gives_it(order: list[str | None], has: dict[str, bool]) -> None:
    made = {label: Counting(label, {"N": f"of {label}"} if has[label] else {}) for label in ("a", "b")}
    stored = {"N": "of store"} if has["store"] else {}
    sources = Sources(stored, ManualClock(), [None if label is None else made[label] for label in order])
    await sources.fetch(["N"])
    first = next((label or "store" for label in order if has[label or "store"]), None)
    assert sources.find("N") == (None if first is None else f"of {first}")
    assert sources.listed() == ({} if first is None else {"N": first})


async def test_a_value_is_kept_for_its_time_and_absence_shortly() -> None:
    clock, provider, told = ManualClock(), Counting("a", {"N": "one"}), []
    sources = Sources({}, clock, [None, provider], 60_000, lambda name, value: told.append((name, value)))
    with pytest.raises(NotFetched):
        sources.find("N")
    await asyncio.gather(*(sources.fetch(["N", "ABSENT"]) for _ in range(20)))
    assert provider.asked == ["N", "ABSENT"], "whoever asks at the same time shares the answer"
    provider.values = {"N": "two", "ABSENT": "here"}
    clock.advance(1_001)
    await sources.fetch(["N", "ABSENT"])
    assert (sources.find("N"), sources.find("ABSENT")) == ("one", "here")
    clock.advance(60_000)
    await sources.fetch(["N"])
    assert sources.find("N") == "two"
    assert told == [("N", "one"), ("ABSENT", "here"), ("N", "two")]


async def test_a_failure_is_told_and_not_kept() -> None:
    provider = Counting("a", {"N": ProviderFailed("a is down")})
    sources = Sources({}, ManualClock(), [provider])
    for _ in range(2):
        with pytest.raises(ProviderFailed, match="a is down"):
            await sources.fetch(["N"])
    provider.values = {"N": "up"}
    await sources.fetch(["N"])
    assert (sources.find("N"), len(provider.asked)) == ("up", 3)


async def test_no_provider_is_asked_for_what_is_no_name() -> None:
    provider = Counting("a", {})
    sources = Sources({"../x": "stored"}, ManualClock(), [provider, None])
    for name in ("../x", "a/b", "", "x\n", "-rf", "a b"):
        await sources.fetch([name])
        assert sources.find(name) == ("stored" if name == "../x" else None)
    assert provider.asked == []


def test_a_wrong_provider_is_refused_with_the_right_form(tmp_path: Path) -> None:
    for text in ("store", "env:A_", "file:/run/secrets", "file:secrets", "command:/bin/x", 'command:["x", "{name}"]'):
        assert check_provider(text) is None
        assert len(make_providers([text], {}, tmp_path, 1)) == 1
    wrong = ["", "store:x", "env:", "env:1", "env:A-", "file:", "command:", "command:[]", 'command:["x", 1]',
             "command:[", 'command:[""]', "file:~no-such-user/secrets",
             "vault:x", "Store", "command:" + "[" * 100_000]  # fmt: skip
    for text in wrong:
        assert check_provider(text) is not None, text


@given(st.text(max_size=30))
def test_any_text_is_judged(text: str) -> None:
    for head in ("", "env:", "file:", "command:", "command:["):
        if check_provider(head + text) is None and "\0" not in text:
            make_providers([head + text], {}, Path(), 1)


def test_a_relative_directory_lies_in_the_home(tmp_path: Path) -> None:
    (provider,) = make_providers(["file:mine"], {}, tmp_path, 1)
    assert provider is not None and provider.label == f"file:{tmp_path / 'mine'}"
    assert json.dumps(provider.list_names()) == "[]"
