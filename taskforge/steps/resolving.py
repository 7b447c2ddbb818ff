"""Checks the evaluated config of a step whose kind is no `http`: what is wrong in it is the step's failure."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from taskforge.core.config_errors import config_problems
from taskforge.core.errors import Failure
from taskforge.core.model import JSON
from taskforge.core.problem import format_path
from taskforge.core.templated import resolve

M = TypeVar("M", bound=BaseModel)


class InvalidConfig(Exception):
    """An evaluated config does not fit; `failure` has the code INVALID_CONFIG and says where."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def resolve_config(kind: str, model: type[M], value: JSON) -> M:
    """Return the evaluated config of a step of this kind. Raises InvalidConfig."""
    try:
        return resolve(model, value)
    except ValidationError as error:
        first = config_problems(error, value, model)[0]
        raise invalid(kind, first.pointer, first.message) from None


def invalid(kind: str, pointer: tuple[str | int, ...], message: str) -> InvalidConfig:
    """Return the failure for something at a place in the config."""
    path = format_path((kind, *pointer))
    return InvalidConfig(Failure("INVALID_CONFIG", f"{path}: {message}", detail={"path": path}))
