"""The home directory and the settings in it, from file, variables and flags."""

from __future__ import annotations

from taskforge.config.home import HomeError, HomeReport, check_home, create_home, is_home, new_token
from taskforge.config.reading import ConfigError, load_settings, resolve_home
from taskforge.config.schema import config_schema
from taskforge.config.settings import Settings

__all__ = [
    "ConfigError",
    "HomeError",
    "HomeReport",
    "Settings",
    "check_home",
    "config_schema",
    "create_home",
    "is_home",
    "load_settings",
    "new_token",
    "resolve_home",
]
