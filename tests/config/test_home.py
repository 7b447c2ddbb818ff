"""The home is made once, private, whole, and the same for everyone who asks at the same time."""

from __future__ import annotations

import base64
import errno
import multiprocessing
import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from taskforge.config import HomeError, Settings, create_home, is_home, load_settings, new_token
from taskforge.config.home import render_config
from taskforge.config.settings import rules


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in home.iterdir()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_a_new_home_is_private_whatever_the_umask(home: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        report = create_home(home)
    finally:
        os.umask(before)
    assert report.created == (".", "secret.key", "config.toml")
    assert report.warnings == ()
    assert mode(home) == 0o700
    assert {path.name: mode(path) for path in home.iterdir()} == {"secret.key": 0o600, "config.toml": 0o600}


def test_a_new_home_has_a_key_a_token_and_an_address(home: Path) -> None:
    create_home(home)
    assert is_home(home)
    assert len(base64.b64decode((home / "secret.key").read_text(), validate=False)) == 32
    written = tomllib.loads((home / "config.toml").read_text())
    assert {section: keys for section, keys in written.items() if keys} == {
        "auth": {"token": written["auth"]["token"]},
        "server": {"host": "127.0.0.1", "port": 7788},
    }
    found = load_settings(home, {})
    assert found.auth.token.startswith("tf_")
    assert len(found.auth.token) == 46
    assert found.warnings == ()


def test_two_homes_have_different_keys_and_tokens(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create_home(tmp_path / name)
    first, second = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert first["secret.key"] != second["secret.key"]
    assert first["config.toml"] != second["config.toml"]


def test_running_again_changes_nothing_and_says_so(home: Path) -> None:
    create_home(home)
    before = contents(home)
    times = {path.name: path.stat().st_mtime_ns for path in home.iterdir()}
    report = create_home(home)
    assert report.created == ()
    assert contents(home) == before
    assert {path.name: path.stat().st_mtime_ns for path in home.iterdir()} == times


def test_a_home_whose_making_was_cut_off_is_completed(home: Path) -> None:
    create_home(home)
    key = (home / "secret.key").read_bytes()
    (home / "config.toml").unlink()
    (home / ".new-config.toml-123").write_text("half a fi")
    assert create_home(home).created == ("config.toml",)
    assert set(contents(home)) == {"secret.key", "config.toml"}
    assert (home / "secret.key").read_bytes() == key


def test_a_lost_key_is_not_replaced_beside_a_database(home: Path) -> None:
    create_home(home)
    (home / "secret.key").unlink()
    (home / "taskforge.db").write_bytes(b"")
    before = contents(home)
    with pytest.raises(HomeError, match=r"secret\.key is missing, but taskforge\.db is there"):
        create_home(home)
    assert contents(home) == before


def test_uncommenting_every_line_gives_a_file_with_the_defaults(home: Path) -> None:
    home.mkdir()
    token = new_token()
    text = render_config(token)
    settings = [line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")]
    (home / "config.toml").write_text("\n".join(settings))
    (home / "config.toml").chmod(0o600)
    found = load_settings(home, {})
    assert len(found.sources) == sum(len(keys) for keys in rules().values())
    assert found.auth.token == token
    for section in ("server", "engine", "expressions", "limits", "http", "egress", "log"):
        assert getattr(found, section) == getattr(Settings(home=home), section)


def test_parents_of_a_named_home_are_made(tmp_path: Path) -> None:
    create_home(tmp_path / "a" / "b" / "home")
    assert mode(tmp_path / "a" / "b" / "home") == 0o700


def test_an_empty_directory_of_our_own_becomes_private(home: Path) -> None:
    home.mkdir(mode=0o755)
    assert create_home(home).created == ("secret.key", "config.toml")
    assert mode(home) == 0o700


def test_a_directory_with_other_things_keeps_its_mode_and_is_warned_about(home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    (home / "other").write_text("")
    report = create_home(home)
    assert mode(home) == 0o755
    assert report.warnings == (f"{home} can be entered by others (mode 0755); run: chmod 700 {home}",)


def test_a_file_in_place_of_the_home_is_refused_by_name(home: Path) -> None:
    home.write_text("mine")
    with pytest.raises(HomeError, match=f"^{home} is not a directory; move it away"):
        create_home(home)
    assert home.read_text() == "mine"


def test_a_file_in_place_of_a_parent_is_refused_by_name(home: Path) -> None:
    home.write_text("mine")
    with pytest.raises(HomeError, match="not a directory"):
        create_home(home / "x" / "home")
    with pytest.raises(HomeError, match="not a directory"):
        create_home(home / "home")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "is on a read-only file system; set TASKFORGE_HOME"),
        (errno.ENOSPC, "is full; make space"),
        (errno.EACCES, "may not be written by user"),
        (errno.EIO, "cannot be used: Input/output error"),
    ],
)
@pytest.mark.parametrize("call", ["open", "link", "fsync"])
def test_each_refusal_of_the_system_names_the_home_and_leaves_no_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    home.mkdir(mode=0o700)
    if call == "open":
        real_open = os.open

        def refuse_new_files(path: str | Path, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_CREAT:
                raise OSError(number, os.strerror(number), str(path))
            return real_open(path, flags, mode)

        monkeypatch.setattr(os, "open", refuse_new_files)
    else:

        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, call, refuse)
    with pytest.raises(HomeError) as refused:
        create_home(home)
    assert str(home) in refused.value.message
    assert words in refused.value.message
    assert ".new-" not in refused.value.message
    monkeypatch.undo()
    assert not list(home.glob(".new-*"))
    create_home(home)
    assert is_home(home)


def test_a_file_system_without_hard_links_will_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    create_home(home)
    assert {path.name: mode(path) for path in home.iterdir()} == {"secret.key": 0o600, "config.toml": 0o600}


def _create(home: Path, barrier: object, answers: multiprocessing.Queue[tuple[str, ...]]) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    answers.put(create_home(home).created)


@pytest.mark.parametrize("round", range(5))
def test_processes_that_make_the_home_at_once_make_one(home: Path, round: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(4)
    answers: multiprocessing.Queue[tuple[str, ...]] = spawn.Queue()
    processes = [spawn.Process(target=_create, args=(home, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    made = [name for _ in processes for name in answers.get(timeout=30)]
    for process in processes:
        process.join(30)
    assert sorted(made) == [".", "config.toml", "secret.key"]
    assert set(contents(home)) == {"secret.key", "config.toml"}
    assert load_settings(home, {}).auth.token


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    create_home(tmp_path / "home")
    tmp_path.chmod(0o711)
    found = subprocess.run(
        [sys.executable, "-c", _AS_SOMEONE_ELSE, str(tmp_path)], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout.strip() == (
        "home belongs to user 0, and this process runs as user 12345; "
        "run as its owner, or set TASKFORGE_HOME to a directory of your own"
    )


_AS_SOMEONE_ELSE = """
import os, sys
from pathlib import Path
from taskforge.config import HomeError, create_home
os.chdir(sys.argv[1])  # what lies above the temporary directory is closed to others
os.setgid(12345)
os.setuid(12345)
try:
    create_home(Path("home"))
except HomeError as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_in_the_home_of_another_user_is_warned(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home, 12345, 12345)
    assert create_home(home).warnings == (
        f"{home} belongs to user 12345, and this process runs as user 0: files made now will belong to user 0",
    )
