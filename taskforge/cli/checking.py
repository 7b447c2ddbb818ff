"""Workflow files: found, read and checked as the server would check them, without a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.run_input import read_stdin
from taskforge.core.problem import Problem, format_problem

if TYPE_CHECKING:
    from taskforge.core.definition import Definition

SUFFIXES = (".yaml", ".yml", ".json")
Media = Literal["yaml", "json"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A file and what its check found. `definition` is None where it has errors."""

    file: str
    content: bytes
    media: Media
    errors: Sequence[Problem]
    warnings: Sequence[Problem]
    definition: Definition | None = None

    @property
    def name(self) -> str:
        """The workflow's name; "" where the document has errors."""
        return self.definition.plan.name if self.definition else ""

    def error_lines(self) -> list[str]:
        return [format_problem(problem, self.file) for problem in self.errors]

    def to_json(self) -> dict[str, Any]:
        """As `POST /v1/workflows:validate` answers, with the file."""
        return {
            "file": self.file,
            "valid": not self.errors,
            "errors": [problem.to_json() for problem in self.errors],
            "warnings": [problem.to_json() for problem in self.warnings],
        }


def check_files(files: Iterable[str], environ: Mapping[str, str]) -> list[Checked]:
    """Check every file. One that cannot be read has an error that says so."""
    parse = _parser(environ)
    return _ask_jq([_check(file, parse) for file in files])


def find_files(paths: Sequence[str]) -> Iterator[str]:
    """The files themselves; of a directory, every *.yaml, *.yml and *.json in it, by name. `-` is standard input."""
    for path in paths:
        if path == "-" or not Path(path).is_dir():
            yield path
            continue
        found = [entry for entry in Path(path).iterdir() if entry.suffix in SUFFIXES and entry.is_file()]
        if not found:
            raise CommandError(f"{path} has no *.yaml, *.yml or *.json file", code=Exit.USAGE)
        yield from (str(entry) for entry in sorted(found))


def warning_line(checked: Checked, warning: Problem) -> str:
    place = ":".join(str(part) for part in (checked.file, warning.line, warning.column) if part is not None)
    told = format_problem(Problem(warning.path, warning.message, hint=warning.hint))
    return f"{place}: warning: {told}"


def _parser(environ: Mapping[str, str]) -> Callable[[bytes, Media], Definition]:
    """The one place of the command line that knows the concrete kinds and the expression language."""
    from taskforge.config.reading import load_settings, resolve_home
    from taskforge.core.definition import DefinitionLimits, parse_definition
    from taskforge.expressions.template import parse_template
    from taskforge.steps.registry import load_kinds
    from taskforge.triggers.schedule import parse_schedule

    given, kinds = load_settings(resolve_home(environ), environ).limits, load_kinds()
    limits = DefinitionLimits(document_bytes=given.document_bytes, steps=given.steps, nesting=given.nesting)
    return lambda content, media: parse_definition(content, media, kinds, parse_template, limits, parse_schedule)


def _ask_jq(checked: Sequence[Checked]) -> list[Checked]:
    """Let jq compile what is not evaluated in process. Files without such expressions cost nothing."""
    import asyncio

    from taskforge.expressions.evaluator import Evaluator
    from taskforge.expressions.jq_check import jq_problems, needs_jq

    if not any(one.definition and needs_jq(one.definition) for one in checked):
        return list(checked)

    async def ask() -> list[Checked]:
        evaluator = Evaluator()
        try:
            return [
                replace(one, errors=await jq_problems(evaluator, one.definition)) if one.definition else one
                for one in checked
            ]
        finally:
            await evaluator.close()

    return asyncio.run(ask())


def _check(file: str, parse: Callable[[bytes, Media], Definition]) -> Checked:
    from taskforge.core.errors import InvalidDefinition

    shown = "<stdin>" if file == "-" else file
    try:
        content = read_stdin() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return Checked(shown, b"", "yaml", [Problem("", str(reason).lower())], ())
    json = file.endswith(".json") or (file == "-" and content.lstrip()[:1] == b"{")
    media: Media = "json" if json else "yaml"
    try:
        definition = parse(content, media)
    except InvalidDefinition as error:
        errors = [problem for problem in error.problems if problem.severity == "error"]
        warnings = [problem for problem in error.problems if problem.severity != "error"]
        return Checked(shown, content, media, errors, warnings)
    return Checked(shown, content, media, (), definition.warnings, definition)
