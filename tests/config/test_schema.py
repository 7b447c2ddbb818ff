"""The schema that editors use says the same as the program."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import pytest

from taskforge.config import ConfigError, config_schema, load_settings
from taskforge.config.home import render_config
from taskforge.config.settings import rules


def test_the_schema_is_valid_and_takes_a_new_home_and_every_default() -> None:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomllib.loads(render_config("tf_12345678")), schema)
    for section, keys in rules().items():
        for key, rule in keys.items():
            default = list(rule.default) if isinstance(rule.default, tuple) else rule.default
            jsonschema.validate({section: {key: default}}, schema)


@pytest.mark.parametrize(
    "text",
    [
        "server.port = 65536",
        "server.port = 'x'",
        "server.prot = 1",
        "sever.port = 1",
        "log.level = 'loud'",
        "egress.deny = 'x'",
        "egress.allow_self = 1",
        "engine.lease_seconds = 0",
        "server = 1",
    ],
)
def test_what_the_schema_refuses_the_program_refuses(text: str, tmp_path: Path) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text), config_schema())
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError):
        load_settings(tmp_path, {})


def test_the_schema_does_not_hold_a_token() -> None:
    assert config_schema()["properties"]["auth"]["properties"]["token"] == {
        "description": "The administrator's token; whoever has it may do everything.",
        "type": "string",
    }
