"""Settings: where each comes from, and the exact words and place of every refusal."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskforge.config import ConfigError, Settings, create_home, load_settings, resolve_home
from taskforge.config.settings import rules
from taskforge.config.values import Rule

FILE = "config.toml"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def write(home: Path, text: str | bytes) -> None:
    path = home / FILE
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)


def faults(home: Path, environ: dict[str, str] | None = None) -> list[str]:
    """Every fault, with the file's name in place of its path."""
    with pytest.raises(ConfigError) as refused:
        load_settings(home, environ or {})
    assert str(refused.value) == "\n".join(refused.value.faults)
    return [fault.replace(f"{home / FILE}", "FILE") for fault in refused.value.faults]


def test_a_home_without_a_file_gives_the_defaults(home: Path) -> None:
    assert load_settings(home, {}) == Settings(home=home)
    assert load_settings(home / "missing", {}) == Settings(home=home / "missing")


def test_a_flag_goes_before_a_variable_before_the_file_before_the_default(home: Path) -> None:
    write(home, "[server]\nport = 1001\nhost = 'file.example'\n[engine]\nlease_seconds = 7\n")
    environ = {"TASKFORGE_SERVER__PORT": "1002", "TASKFORGE_SERVER__HOST": "variable.example"}
    found = load_settings(home, environ, {"server.port": 1003})
    assert (found.server.port, found.server.host) == (1003, "variable.example")
    assert (found.engine.lease_seconds, found.engine.grace_seconds) == (7.0, 10.0)
    assert found.sources == {
        "server.port": "flag --port",
        "server.host": "variable TASKFORGE_SERVER__HOST",
        "engine.lease_seconds": f"{home / FILE}:5:17",
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            "[server]\nport = 70000\n",
            "FILE:2:8: server.port is 70000; it must be a whole number from 0 to 65535",
        ),
        (
            "[server]\n  port='7788'\n",
            'FILE:2:8: server.port is "7788"; it must be a whole number from 0 to 65535',
        ),
        ("[server]\nport = true\n", "FILE:2:8: server.port is true; it must be a whole number from 0 to 65535"),
        ("[server]\nport = 80.5\n", "FILE:2:8: server.port is 80.5; it must be a whole number from 0 to 65535"),
        (
            "server.port = -1",
            "FILE:1:15: server.port is -1; it must be a whole number from 0 to 65535",
        ),
        (
            "server = {host = '::1', port = 123456}",
            "FILE:1:32: server.port is 123456; it must be a whole number from 0 to 65535",
        ),
        (
            "[engine]\nlease_seconds = nan\n",
            "FILE:2:17: engine.lease_seconds is NaN; it must be a number from 1 to 3600",
        ),
        (
            "[engine]\nlease_seconds = 2026-01-01\n",
            "FILE:2:17: engine.lease_seconds is 2026-01-01; it must be a number from 1 to 3600",
        ),
        (
            "[expressions]\nchildren = 1\n",
            "FILE:2:12: expressions.children is 1; it must be a whole number from 2 to 64",
        ),
        ("[egress]\nallow_self = 'no'\n", 'FILE:2:14: egress.allow_self is "no"; it must be true or false'),
        (
            "[egress]\ndeny = '10.0.0.0/8'\n",
            'FILE:2:8: egress.deny is "10.0.0.0/8"; it must be a list of IP ranges',
        ),
        (
            "[egress]\ndeny = [1]\n",
            "FILE:2:8: egress.deny is [1]; it must be a list of IP ranges",
        ),
        (
            "[egress]\ndeny = ['::1', '10.0.0.1/8']\n",
            'FILE:2:8: egress.deny has "10.0.0.1/8"; the range is 10.0.0.0/8',
        ),
        (
            "[egress]\nallow = ['home']\n",
            'FILE:2:9: egress.allow has "home"; it must be an IP range such as 10.0.0.0/8 or an IP address',
        ),
        (
            "[server]\nhost = 'http://x:80/'\n",
            'FILE:2:8: server.host is "http://x:80/"; it must be a host name or an IP address, '
            "without scheme, port or path",
        ),
        (
            "[log]\nlevel = 'loud'\n",
            'FILE:2:9: log.level is "loud"; it must be one of "debug", "info", "warning", "error"',
        ),
        (
            "[auth]\ntoken = 'sp ace in it'\n",
            "FILE:2:9: auth.token is not accepted; it must be 8 to 200 printable ASCII characters without spaces",
        ),
        ("[auth]\ntoken = 12345678\n", "FILE:2:9: auth.token is not accepted; it must be a text"),
        (
            "[server]\nport = 1\nprot = 7788\n",
            "FILE:3:1: unknown setting server.prot; did you mean server.port (a whole number from 0 to 65535)?",
        ),
        (
            "[server]\n'po\\rt' = 1\n",
            'FILE:2:1: unknown setting server."po\\\\rt"; did you mean server.port (a whole number from 0 to 65535)?',
        ),
        (
            "[server]\nlease_seconds = 1\n",
            "FILE:2:1: unknown setting server.lease_seconds; did you mean engine.lease_seconds "
            "(a number from 1 to 3600)?",
        ),
        (
            "[auth]\nzzz = 1\n",
            "FILE:2:1: unknown setting auth.zzz; [auth] has: token",
        ),
        ("[sever]\nport = 1\n", "FILE:1:2: unknown section [sever]; did you mean [server]?"),
        (
            "\n\n[ 'x y' ]\n",
            'FILE:3:3: unknown section ["x y"]; there are: auth, server, engine, expressions, limits, inbox, '
            "retention, http, egress, secrets, audit, log",
        ),
        ("port = 7788\n", "FILE:1:1: port stands outside any section; did you mean port in [server]?"),
        (
            "[server]\nport = 0x" + "f" * 9000,
            "FILE:2:8: server.port is a very long number; it must be a whole number from 0 to 65535",
        ),
        ("nothing = 7788\n", "FILE:1:1: nothing stands outside any section"),
        ("server = 3\n", "FILE:1:10: server is 3; it must be a section: [server]"),
        ("[[server]]\nport = 1\n", 'FILE:1:3: server is [{"port": 1}]; it must be a section: [server]'),
        (
            "[server]\ntls_cert = 'cert.pem'\n",
            "FILE:2:12: server.tls_key is missing; server.tls_cert and server.tls_key go together",
        ),
        (
            "[server]\ntls_key = 'key.pem'\n",
            "FILE:2:11: server.tls_cert is missing; server.tls_cert and server.tls_key go together",
        ),
        (
            "[server]\nport = \n",
            "FILE:2:8: this is not valid TOML: Invalid value",
        ),
        ("[server]\nport = 1\nport = 2\n", "FILE:3:9: this is not valid TOML: Cannot overwrite a value"),
        (b"[server]\nhost = '\xff'\n", "FILE:2:9: the file is not UTF-8 text"),
    ],
)
def test_a_wrong_file_is_refused_with_place_key_and_what_is_accepted(home: Path, text: str | bytes, fault: str) -> None:
    write(home, text)
    assert faults(home) == [fault]


@pytest.mark.parametrize(
    "text", ["[server", "[server]\nhost = 'x", "a = \0", "a = [" * 100_000, "a = " + "9" * 9000, 'a = "\\q"', "=\n"]
)
def test_every_broken_file_is_one_fault_with_line_and_column(home: Path, text: str) -> None:
    write(home, text)
    (fault,) = faults(home)
    file, line, column, rest = fault.split(":", 3)
    assert file == "FILE"
    assert int(line) >= 1 and int(column) >= 1
    assert "not valid TOML" in rest or "nested too deeply" in rest or "cannot be read" in rest


def test_every_fault_of_file_and_variables_is_told_at_once(home: Path) -> None:
    write(home, "[server]\nport = 70000\nprot = 1\n[log]\nlevel = 'loud'\n")
    found = faults(home, {"TASKFORGE_ENGINE__LEASE_SECONDS": "0"})
    assert [fault.split(": ")[0] for fault in found] == [
        "FILE:2:8",
        "FILE:3:1",
        "FILE:5:9",
        "variable TASKFORGE_ENGINE__LEASE_SECONDS",
    ]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("SERVER__PORT", "8080", 8080),
        ("SERVER__PORT", " 8080 ", 8080),
        ("SERVER__HOST", "0.0.0.0", "0.0.0.0"),
        ("SERVER__ALLOWED_HOSTS", "a.example, b.example", ("a.example", "b.example")),
        ("SERVER__ALLOWED_HOSTS", '["a.example"]', ("a.example",)),
        ("SERVER__ALLOWED_HOSTS", "[]", ()),
        ("ENGINE__LEASE_SECONDS", "1.5", 1.5),
        ("ENGINE__LEASE_SECONDS", "2", 2.0),
        ("EGRESS__ALLOW_PRIVATE", "false", False),
        ("EGRESS__ALLOW_PRIVATE", "NO", False),
        ("EGRESS__ALLOW_SELF", "1", True),
        ("EGRESS__DENY", "10.0.0.0/8,fd00::/8", ("10.0.0.0/8", "fd00::/8")),
        ("LOG__LEVEL", "debug", "debug"),
        ("AUTH__TOKEN", "tf_0123456789", "tf_0123456789"),
    ],
)
def test_a_variable_sets_each_kind_of_setting(home: Path, name: str, text: str, value: object) -> None:
    section, key = name.lower().split("__")
    found = load_settings(home, {f"TASKFORGE_{name}": text})
    assert getattr(getattr(found, section), key) == value


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        (
            "TASKFORGE_SERVER__PORT",
            "http",
            'variable TASKFORGE_SERVER__PORT: server.port is "http"; it must be a whole number from 0 to 65535',
        ),
        (
            "TASKFORGE_SERVER__PORT",
            "1.5",
            "variable TASKFORGE_SERVER__PORT: server.port is 1.5; it must be a whole number from 0 to 65535",
        ),
        (
            "TASKFORGE_SERVER__PORT",
            "9" * 5000,
            f'variable TASKFORGE_SERVER__PORT: server.port is "{"9" * 58}…; it must be a whole number from 0 to 65535',
        ),
        (
            "TASKFORGE_EGRESS__ALLOW_SELF",
            "maybe",
            'variable TASKFORGE_EGRESS__ALLOW_SELF: egress.allow_self is "maybe"; it must be true or false',
        ),
        (
            "TASKFORGE_EGRESS__DENY",
            "[1, 2",
            'variable TASKFORGE_EGRESS__DENY: egress.deny is "[1, 2"; it must be a list of IP ranges',
        ),
        (
            "TASKFORGE_SERVER__PROT",
            "1",
            "variable TASKFORGE_SERVER__PROT: unknown setting; did you mean TASKFORGE_SERVER__PORT "
            "(a whole number from 0 to 65535)?",
        ),
        (
            "TASKFORGE_server__port",
            "1",
            "variable TASKFORGE_server__port: unknown setting; did you mean TASKFORGE_SERVER__PORT "
            "(a whole number from 0 to 65535)?",
        ),
        ("TASKFORGE_QQ__ZZ", "1", "variable TASKFORGE_QQ__ZZ: unknown setting"),
        (
            "TASKFORGE_AUTH__TOKEN",
            "schlüssel-1234",
            "variable TASKFORGE_AUTH__TOKEN: auth.token is not accepted; "
            "it must be 8 to 200 printable ASCII characters without spaces",
        ),
    ],
)
def test_a_wrong_variable_is_refused_by_name(home: Path, name: str, text: str, fault: str) -> None:
    assert faults(home, {name: text}) == [fault]


@pytest.mark.parametrize(
    "environ",
    [
        {"TASKFORGE_SERVER": "http://x", "TASKFORGE_TOKEN": "t", "TASKFORGE_PROFILE": "p", "TASKFORGE_HOME": "/x"},
        {"TASKFORGE_TEST_PG__URL": "x", "TASKFORGE_PORT_7788_TCP": "tcp://x", "SERVER__PORT": "x", "TASKFORGE_": "x"},
        {"TASKFORGE_SERVER__PORT": "", "TASKFORGE_EGRESS__DENY": ""},
    ],
    ids=["not settings", "not ours", "empty"],
)
def test_variables_that_are_no_settings_or_empty_are_ignored(home: Path, environ: dict[str, str]) -> None:
    assert load_settings(home, environ) == Settings(home=home)


def test_a_wrong_flag_is_refused_by_its_name(home: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(home, {}, {"server.port": 65536})
    assert refused.value.faults == [
        "flag --port: server.port is 65536; it must be a whole number from 0 to 65535",
    ]


@given(data=st.data())
def test_every_number_takes_its_whole_range_and_nothing_beyond(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    numbers = [
        (section, key, rule)
        for section, keys in rules().items()
        for key, rule in keys.items()
        if rule.high is not None and rule.low is not None
    ]
    section, key, rule = data.draw(st.sampled_from(numbers))
    assert rule.high is not None and rule.low is not None
    value = data.draw(st.integers(int(rule.low) - 3, int(rule.high) + 3))
    environ = {f"TASKFORGE_{section}__{key}".upper(): str(value)}
    home = tmp_path_factory.getbasetemp() / "nowhere"
    if rule.low <= value <= rule.high:
        assert getattr(getattr(load_settings(home, environ), section), key) == value
    else:
        with pytest.raises(ConfigError, match=f"{section}.{key} is {value}; it must be"):
            load_settings(home, environ)


def test_every_default_is_accepted_by_its_own_rule() -> None:
    for section, keys in rules().items():
        for key, rule in keys.items():
            assert rule.judge(rule.default) == (rule.default, None), f"{section}.{key}"


def test_the_token_is_shown_by_no_repr(home: Path) -> None:
    write(home, "[auth]\ntoken = 'tf_very-hidden-1'\n")
    found = load_settings(home, {})
    assert found.auth.token == "tf_very-hidden-1"
    assert "very-hidden" not in repr(found)


def test_settings_cannot_be_changed(home: Path) -> None:
    found = load_settings(home, {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_file_that_others_can_read_is_warned_about(home: Path, mode: int) -> None:
    create_home(home / "new")
    path = home / "new" / FILE
    assert load_settings(home / "new", {}).warnings == ()
    path.chmod(mode)
    assert load_settings(home / "new", {}).warnings == (
        f"{path} holds the token and can be read by others (mode {mode:04o}); run: chmod 600 {path}",
    )


def test_a_directory_or_a_pipe_in_place_of_the_file_is_refused(home: Path) -> None:
    (home / FILE).mkdir()
    assert faults(home) == ["FILE: is not a file"]
    (home / FILE).rmdir()
    os.mkfifo(home / FILE)
    assert faults(home) == ["FILE: is not a file"]


def test_a_file_with_byte_order_mark_and_windows_lines_is_read(home: Path) -> None:
    write(home, b"\xef\xbb\xbf[server]\r\nport = 99\r\n")
    assert load_settings(home, {}).server.port == 99
    write(home, b"\xef\xbb\xbf[server]\r\nport = -9\r\n")
    assert faults(home)[0].startswith("FILE:2:8: ")


def test_the_home_is_the_variable_else_a_directory_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert resolve_home({}) == tmp_path / ".taskforge"
    assert resolve_home({"TASKFORGE_HOME": ""}) == tmp_path / ".taskforge"
    assert resolve_home({"TASKFORGE_HOME": "~/x"}) == tmp_path / "x"
    assert resolve_home({"TASKFORGE_HOME": "a/../b"}) == tmp_path / "b"


def test_a_rule_names_what_it_accepts() -> None:
    assert Rule(True, "").accepted() == "true or false"
    assert Rule(1.0, "", low=0.5, high=2).accepted() == "a number from 0.5 to 2"
