"""Profiles: which server a command talks to and why, and that a token goes to its own server alone."""

from __future__ import annotations

import itertools
import json
import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.cli.connection import find_connection
from taskforge.cli.failure import CommandError, Exit
from taskforge.config.profiles import Profile, Profiles, load_profiles, profiles_path
from taskforge.core.errors import StartupError
from tests.support.server import ServerProcess, run_cli

HOME = "http://127.0.0.1:7788"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home, and two profiles of which `one` is the current one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text('[auth]\ntoken = "tf_of_the_home"\n')
    found = {"TASKFORGE_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    path = profiles_path(found)
    assert path is not None
    known = {"one": Profile("https://one.example", "tf_of_one"), "two": Profile("https://two.example")}
    Profiles(path, known, "one").save()
    return found


@pytest.mark.parametrize(
    ("given", "variables", "url", "token", "words"),
    [
        ({}, {}, "https://one.example", "tf_of_one", "profile one (taskforge profile use)"),
        ({}, {"TASKFORGE_PROFILE": "two"}, "https://two.example", "", "profile two (TASKFORGE_PROFILE)"),
        ({}, {"TASKFORGE_TOKEN": "tf_v"}, "https://one.example", "tf_v", "profile one (taskforge profile use)"),
        ({"token": "tf_f"}, {"TASKFORGE_TOKEN": "tf_v"}, "https://one.example", "tf_f",
         "profile one (taskforge profile use)"),
        ({}, {"TASKFORGE_SERVER": "https://v.example"}, "https://v.example", "", "TASKFORGE_SERVER"),
        ({}, {"TASKFORGE_SERVER": "https://v.example", "TASKFORGE_PROFILE": "two"}, "https://v.example", "",
         "TASKFORGE_SERVER"),
        ({"server": "https://f.example"}, {"TASKFORGE_SERVER": "https://v.example"}, "https://f.example", "",
         "--server"),
        ({"server": "https://f.example"}, {"TASKFORGE_PROFILE": "one"}, "https://f.example", "", "--server"),
        ({"profile": "one"}, {"TASKFORGE_SERVER": "https://v.example", "TASKFORGE_TOKEN": "tf_v"},
         "https://one.example", "tf_of_one", "profile one (--profile)"),
        ({"profile": "two"}, {"TASKFORGE_TOKEN": "tf_v"}, "https://two.example", "tf_v", "profile two (--profile)"),
        ({"profile": "two"}, {"TASKFORGE_PROFILE": "one"}, "https://two.example", "", "profile two (--profile)"),
        ({"server": HOME}, {}, HOME, "tf_of_the_home", "--server"),
    ],
)  # fmt: skip
def test_the_nearest_to_the_command_decides(
    environ: dict[str, str], given: dict[str, str], variables: dict[str, str], url: str, token: str, words: str
) -> None:
    asked = {"server": None, "token": None, "profile": None} | given
    found = find_connection(asked["server"], asked["token"], environ | variables, asked["profile"])
    assert (found.url, found.token, found.chosen_by, found.local) == (url, token, words, False)


def test_without_a_profile_the_home_decides(environ: dict[str, str]) -> None:
    run_cli("profile", "use", "--home", environ=dict(os.environ) | environ)
    found = find_connection(None, None, environ)
    assert (found.url, found.token, found.local, found.chosen_by) == (HOME, "tf_of_the_home", True, "home")


def test_what_cannot_be_meant_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(CommandError) as refused:
        find_connection("https://x.example", None, environ, "one")
    assert refused.value.code == Exit.USAGE
    for profile, variables in (("on", {}), (None, {"TASKFORGE_PROFILE": "on"})):
        with pytest.raises(CommandError, match="did you mean") as refused:
            find_connection(None, None, environ | variables, profile)
        assert refused.value.code == Exit.NOT_FOUND


@given(st.data())
def test_a_token_goes_to_the_server_that_it_was_given_for(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Each server has tokens of its own name; those said beside the command belong to whatever server is chosen."""
    folder = tmp_path_factory.getbasetemp()
    environ = {"TASKFORGE_HOME": str(folder / "no-home"), "XDG_CONFIG_HOME": str(folder / "config")}
    path = profiles_path(environ)
    assert path is not None
    known = {name: Profile(f"https://{name}.example", data.draw(st.sampled_from(["", f"tf_of_{name}"])))
             for name in ("one", "two")}  # fmt: skip
    Profiles(path, known, data.draw(st.sampled_from([None, "one", "two"]))).save()
    optional = st.none() | st.just("said")
    server, profile = data.draw(st.sampled_from([(None, None), ("https://f.example", None), (None, "one")]))
    token = "tf_said" if data.draw(optional) else None
    if data.draw(optional):
        environ["TASKFORGE_TOKEN"] = "tf_said_too"
    environ |= data.draw(st.sampled_from([{}, {"TASKFORGE_SERVER": "https://v.example"}]))
    environ |= data.draw(st.sampled_from([{}, {"TASKFORGE_PROFILE": "two"}]))
    found = find_connection(server, token, environ, profile)
    if found.token.startswith("tf_of_"):
        assert found.url == f"https://{found.token.removeprefix('tf_of_')}.example"
    assert not token or found.token == token


# ---- the file


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(["https://a", "http://[::1]:7788"]), st.text("ab!\"\\#'"))))
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, known: dict[str, tuple[str, str]]) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path_factory.getbasetemp() / "any")}
    path = profiles_path(environ)
    assert path is not None
    profiles = Profiles(path, {name: Profile(*entry) for name, entry in known.items()}, next(iter(known), None))
    profiles.save()
    assert load_profiles(environ) == profiles
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_none_is_named_and_its_tokens_are_not(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = profiles_path(environ)
    assert path is not None
    path.parent.mkdir()
    for text in ("[", "current = 1", "profiles = 1", '[profiles.a]\nserver = "x"\ntoken = 5', "tf_secret\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(StartupError) as refused:
            load_profiles(environ)
        assert str(path) in refused.value.message and "tf_secret" not in refused.value.message
    assert profiles_path({"HOME": "/somebody"}) == Path("/somebody/.config/taskforge/profiles.toml")
    assert profiles_path({"HOME": "/somebody", "XDG_CONFIG_HOME": "relative"}) == Path(
        "/somebody/.config/taskforge/profiles.toml"
    )


# ---- as a person uses it


def test_a_second_server_is_added_used_shown_and_removed(server: ServerProcess, tmp_path: Path) -> None:
    environ = server.environ | {"TASKFORGE_HOME": str(tmp_path / "elsewhere"), "XDG_CONFIG_HOME": str(tmp_path)}
    token = tmp_path / "token.txt"
    token.write_text(server.token + "\n")
    added = run_cli("profile", "add", "here", "--server", server.url, "--token-file", str(token), environ=environ)
    assert added.returncode == 0, added.stderr
    assert server.token not in added.stdout + added.stderr
    stored = tmp_path / "taskforge" / "profiles.toml"
    assert (stored.stat().st_mode & 0o777, stored.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert tomllib.loads(stored.read_text())["profiles"]["here"]["token"] == server.token

    assert run_cli("runs", environ=environ | {"TASKFORGE_SERVER__PORT": "1"}).returncode == 3
    assert run_cli("runs", "--profile", "here", environ=environ).returncode == 0
    assert run_cli("runs", environ=environ | {"TASKFORGE_PROFILE": "here"}).returncode == 0
    assert run_cli("profile", "use", "here", environ=environ).returncode == 0
    status = run_cli("status", environ=environ)
    assert "profile here (taskforge profile use)" in status.stdout
    facts = json.loads(run_cli("status", "-o", "json", environ=environ).stdout)
    assert facts["chosen_by"] == "profile here (taskforge profile use)"

    listed = run_cli("profile", "list", environ=environ)
    assert "here" in listed.stdout and server.url in listed.stdout and server.token not in listed.stdout
    items = json.loads(run_cli("profile", "-o", "json", environ=environ).stdout)["items"]
    assert items == [{"name": "here", "server": server.url, "token": True, "current": True}]
    assert run_cli("profile", "list", "-q", environ=environ).stdout == "here\n"

    wrong = run_cli("profile", "add", "here", "--server", server.url, "--token-file", "-", environ=environ,
                    stdin="tf_wrong_token\n")  # fmt: skip
    assert wrong.returncode == 0, wrong.stderr
    refused = run_cli("runs", environ=environ)
    assert refused.returncode == 3 and "taskforge profile add here" in refused.stderr
    assert run_cli("profile", "remove", "here", environ=environ).returncode == 0
    assert run_cli("profile", "use", "here", environ=environ).returncode == 4
    assert "tf_wrong_token" not in stored.read_text()


@pytest.mark.parametrize(
    "arguments",
    [["add", "x"], ["add", "a b", "--server", "http://x"], ["add", "x", "--server", "ftp://x"], ["use"],
     ["use", "a", "--home"], ["add", "x", "--server", "http://x", "--token-file", "/absent"]],
)  # fmt: skip
def test_wrong_usage_changes_nothing(arguments: list[str], environ: dict[str, str]) -> None:
    path = profiles_path(environ)
    assert path is not None
    before = path.read_bytes()
    done = run_cli("profile", *arguments, environ=dict(os.environ) | environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert path.read_bytes() == before


def test_adding_keeps_the_other_profiles(environ: dict[str, str]) -> None:
    for name, again in itertools.product(("a", "b"), range(2)):
        done = run_cli("profile", "add", name, "--server", f"http://x:{again + 1}", environ=dict(os.environ) | environ)
        assert done.returncode == 0, done.stderr
    assert set(load_profiles(environ).known) == {"one", "two", "a", "b"}
