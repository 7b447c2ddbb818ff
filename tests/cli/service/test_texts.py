"""The files of services: whatever the paths, they mean what was given, and a server is ended as it wants to be."""

from __future__ import annotations

import plistlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.cli.service.texts import (
    Facts,
    Unwritable,
    is_ours,
    launchd_plist,
    stop_seconds,
    systemd_unit,
    unit_home,
)

FACTS = Facts("taskforge", Path("/home/ada/.taskforge"), ["/opt/taskforge/bin/python", "serve"], {}, 10.0)

paths = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), codec="utf-8"), min_size=1).filter(str.isprintable)


def settings_of(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def words_of(value: str) -> list[str]:
    """What systemd makes of a line of quoted words."""
    return [word.replace("%%", "%") for word in shlex.split(value)]


@given(home=paths, words=st.lists(paths, min_size=1, max_size=4), value=paths)
def test_systemd_reads_back_what_was_given(home: str, words: list[str], value: str) -> None:
    facts = Facts("taskforge", Path("/") / home, ["/bin/python", *words], {"PYTHONPATH": value}, 10.0)
    unit = settings_of(systemd_unit(facts))
    (started,) = unit["ExecStart"]
    literal = started.startswith(":")
    assert literal == any("$" in word for word in words)
    assert words_of(started.removeprefix(":")) == ["/bin/python", *words]
    assert [words_of(line) for line in unit["Environment"]] == [
        [f"TASKFORGE_HOME={facts.home}"],
        [f"PYTHONPATH={value}"],
    ]
    assert unit_home(systemd_unit(facts).encode()) == str(facts.home)


@given(home=paths, words=st.lists(paths, min_size=1, max_size=4))
def test_launchd_reads_back_what_was_given(home: str, words: list[str]) -> None:
    facts = Facts("second", Path("/") / home, words, {}, 10.0)
    content = launchd_plist(facts, "dev.taskforge.second")
    found = plistlib.loads(content)
    assert found["ProgramArguments"] == words
    assert found["EnvironmentVariables"] == {"TASKFORGE_HOME": str(facts.home)}
    assert unit_home(content) == str(facts.home)
    assert is_ours(content)


@pytest.mark.parametrize("make", [systemd_unit, lambda facts: launchd_plist(facts, "x")])
@pytest.mark.parametrize("bad", ["a\nExecStartPost=/bin/evil", "a\0b", "\x1b[31m"])
def test_what_would_end_a_line_is_refused(make: object, bad: str) -> None:
    with pytest.raises(Unwritable):
        make(FACTS._replace(command=["/bin/python", bad]))  # type: ignore[operator]


@pytest.mark.parametrize(("grace", "wait"), [(0, 15), (10, 25), (0.5, 16), (3600, 3615)])
def test_the_service_manager_waits_longer_than_attempts_may_go_on(grace: float, wait: int) -> None:
    facts = FACTS._replace(grace_s=grace)
    assert stop_seconds(grace) == wait
    assert settings_of(systemd_unit(facts))["TimeoutStopSec"] == [str(wait)]
    assert plistlib.loads(launchd_plist(facts, "x"))["ExitTimeOut"] == wait


def test_a_failure_is_a_reason_to_restart_and_an_end_by_a_person_is_none() -> None:
    unit = settings_of(systemd_unit(FACTS))
    assert unit["Restart"] == ["on-failure"]
    assert unit["SuccessExitStatus"] == ["130"]
    assert unit["KillMode"] == ["mixed"]
    assert unit["UMask"] == ["0077"]
    assert plistlib.loads(launchd_plist(FACTS, "x"))["KeepAlive"] == {"SuccessfulExit": False}


def test_the_same_facts_give_the_same_text() -> None:
    assert systemd_unit(FACTS) == systemd_unit(FACTS)
    assert launchd_plist(FACTS, "x") == launchd_plist(FACTS, "x")
    for foreign in (b"", b"[Unit]\n", b"<plist/>", b"\xff\xfe"):
        assert not is_ours(foreign)
        assert unit_home(foreign) is None


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_itself_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "a $ttrange %place" / "python"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    facts = FACTS._replace(home=tmp_path / 'ho"me %n', command=[str(program), "-m", "$HOME", "serve"])
    (tmp_path / "taskforge.service").write_text(systemd_unit(facts))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "taskforge.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    about_us = [line for line in done.stderr.splitlines() if re.search(r"taskforge\.service", line)]
    assert about_us == []
