"""Every entry is one line, whatever is in it, and nothing that happens to the log stops who writes it."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskforge.observe.logs import LineHandler, configure_logging, get_logger

log = get_logger("test")
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.builds(object)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is one thing for the whole process: put it back as it was."""
    root, ours = logging.getLogger(), logging.getLogger("taskforge")
    before = root.handlers[:], root.level, ours.level
    yield
    logging.captureWarnings(False)
    for handler in [each for each in root.handlers if isinstance(each, LineHandler)]:
        root.removeHandler(handler)
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.fixture
def target(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    path = tmp_path / "log"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield descriptor, path
    os.close(descriptor)


def test_an_entry_is_a_json_object_with_time_level_logger_event_and_fields(target: tuple[int, Path]) -> None:
    configure_logging(descriptor=target[0])
    log.bind(run="run_1").warning("lease_lost", attempt=3, detail={"a": [1]}, level="x")
    entry = json.loads(target[1].read_text())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "test",
        "event": "lease_lost",
        "run": "run_1",
        "attempt": 3,
        "detail": {"a": [1]},
        "level_": "x",
    }


def test_the_console_form_is_key_value(target: tuple[int, Path]) -> None:
    configure_logging(format="console", descriptor=target[0])
    log.info("run_started", run="uptime#42", text='say "hi"\n', empty="", none=None, many=[1, "é"])
    line = target[1].read_text().split(" ", 1)[1]
    assert line == 'info    test run_started run=uptime#42 text="say \\"hi\\"\\n" empty="" none=null many=[1, "é"]\n'


@pytest.mark.parametrize("format", ["json", "console"])
@given(event=st.text(), key=st.text(min_size=1), value=ANYTHING)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_entry_is_one_printable_line_whatever_is_in_it(
    target: tuple[int, Path], format: str, event: str, key: str, value: object
) -> None:
    os.ftruncate(target[0], 0)
    configure_logging(format=format, descriptor=target[0])
    log.info(event, **({key: value} if key != "self" else {}))
    content = target[1].read_bytes().decode("utf-8")
    assert content.endswith("\n")
    assert content[:-1].isprintable()
    if format == "json":
        assert json.loads(content)["event"] == event


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_field_that_cannot_be_shown_raises_nothing(target: tuple[int, Path], format: str) -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    ring: list[object] = []
    ring.append(ring)
    configure_logging(format=format, descriptor=target[0])
    log.info("rude", value=Rude())
    log.info("ring", value=ring)
    log.info("nan", value=[float("nan")])
    lines = target[1].read_text().splitlines()
    for line, words in zip(lines, ["<Rude that cannot be shown>", "[[...]]", "[nan]"], strict=True):
        assert words in line


def test_another_library_whose_arguments_do_not_fit_raises_nothing(target: tuple[int, Path]) -> None:
    root = logging.getLogger()
    configure_logging(descriptor=target[0])
    root.handlers[:] = [each for each in root.handlers if isinstance(each, LineHandler)]
    logging.getLogger("other").warning("%d", "three")
    assert json.loads(target[1].read_text())["event"] == "log_entry_unreadable"


def test_a_very_long_field_is_cut(target: tuple[int, Path]) -> None:
    configure_logging(descriptor=target[0])
    log.info("long", text="x" * 1_000_000)
    content = target[1].read_text()
    assert len(content) < 11_000
    assert "(1000000 characters)" in content


def test_an_exception_stands_with_its_traceback_in_the_same_line(target: tuple[int, Path]) -> None:
    configure_logging(descriptor=target[0])
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        log.exception("failed", run="run_1")
        log.error("failed_again", exc_info=error)
    first, second = (json.loads(line) for line in target[1].read_text().splitlines())
    for entry in (first, second):
        assert entry["exception"].startswith("Traceback")
        assert entry["exception"].endswith("ValueError: two\nlines")


def test_levels_below_the_chosen_one_and_chatter_of_libraries_are_left_out(target: tuple[int, Path]) -> None:
    configure_logging(level="debug", descriptor=target[0])
    log.debug("ours")
    logging.getLogger("library.client").info("theirs")
    logging.getLogger("library.client").warning("theirs %s", "told\nall")
    configure_logging(level="error", descriptor=target[0])
    log.warning("quiet")
    entries = [json.loads(line) for line in target[1].read_text().splitlines()]
    assert [(entry["logger"], entry["event"]) for entry in entries] == [
        ("test", "ours"),
        ("library.client", "theirs told\nall"),
    ]


def test_python_warnings_become_entries(target: tuple[int, Path]) -> None:
    configure_logging(descriptor=target[0])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old\nway", DeprecationWarning, stacklevel=1)
    (entry,) = [json.loads(line) for line in target[1].read_text().splitlines()]
    assert entry["logger"] == "py.warnings"


def test_a_full_disk_loses_entries_and_says_how_many_when_there_is_space(
    target: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    configure_logging(descriptor=target[0])
    real_write = os.write
    room = 40

    def write(descriptor: int, data: bytes) -> int:
        nonlocal room
        if descriptor != target[0]:
            return real_write(descriptor, data)
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real_write(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", write)
    for number in range(3):
        log.info("tried", number=number)
    room = 10_000
    log.info("space")
    half, *whole = target[1].read_text().splitlines()
    assert len(half) == 40
    assert [(entry["event"], entry.get("entries")) for entry in map(json.loads, whole)] == [
        ("log_entries_lost", 3),
        ("space", None),
    ]


def test_a_closed_pipe_is_survived() -> None:
    reader, writer = os.pipe()
    configure_logging(descriptor=writer)
    os.close(reader)
    log.info("nobody_listens")
    os.close(writer)
    log.info("no_descriptor")


def test_a_pipe_that_nobody_reads_does_not_stop_the_service() -> None:
    reader, writer = os.pipe()
    configure_logging(descriptor=writer)
    for number in range(2_000):
        log.info("filling", text="x" * 500, number=number)
    taken = 0
    os.set_blocking(reader, False)
    try:
        while chunk := os.read(reader, 65_536):
            taken += len(chunk)
    except BlockingIOError:
        pass
    log.info("read_again")
    lines = os.read(reader, 65_536).decode().splitlines()
    os.close(reader)
    os.close(writer)
    assert taken >= 4096
    last_two = [json.loads(line) for line in lines[-2:]]
    assert [entry["event"] for entry in last_two] == ["log_entries_lost", "read_again"]
    assert last_two[0]["entries"] > 1_000


@pytest.mark.parametrize("closing", ["2>&-", "2>/dev/full", ""])
def test_a_program_with_standard_error_closed_or_full_goes_on(closing: str) -> None:
    code = (
        "from taskforge.observe.logs import configure_logging, get_logger; configure_logging();"
        "get_logger('x').error('lost'); print('done')"
    )
    found = subprocess.run(
        f"exec '{sys.executable}' -c \"{code}\" {closing}", shell=True, capture_output=True, text=True, timeout=30
    )
    assert (found.returncode, found.stdout) == (0, "done\n")
    assert found.stderr == "" if closing else json.loads(found.stderr)["event"] == "lost"


def test_a_terminal_gets_the_console_form_unless_told_otherwise() -> None:
    leader, follower = os.openpty()
    configure_logging(descriptor=follower)
    log.info("hello", a=1)
    configure_logging(format="json", descriptor=follower)
    log.info("hello", a=1)
    shown = b""
    while shown.count(b"\n") < 2:
        shown += os.read(leader, 4096)
    first, second = shown.decode().splitlines()
    os.close(leader)
    os.close(follower)
    assert first.endswith("info    test hello a=1")
    assert json.loads(second)["a"] == 1
