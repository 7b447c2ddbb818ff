"""`contracts/config.schema.json`, made from the declarations, so that editors complete and check `config.toml`."""

from __future__ import annotations

from typing import Any

from taskforge.config.settings import rules
from taskforge.config.values import json_schema


def config_schema() -> dict[str, Any]:
    """The configuration file as JSON Schema (draft 2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "TaskForge config.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            section: {
                "type": "object",
                "additionalProperties": False,
                "properties": {key: json_schema(rule) for key, rule in keys.items()},
            }
            for section, keys in rules().items()
        },
    }
