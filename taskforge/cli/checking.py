"""Workflow files, checked as the server would check them, without a server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taskforge.cli.sources import Media, Source
from taskforge.core.problem import Problem, format_path, format_problem, quoted, suggest
from taskforge.core.record import dataclass

if TYPE_CHECKING:
    from taskforge.core.definition import Definition


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


def check_files(sources: Iterable[Source], environ: Mapping[str, str]) -> list[Checked]:
    """Check every file. One that could not be read has an error that says so."""
    parse = _parser(environ)
    return check_together(_ask_jq([_check(source, parse) for source in sources]))


def check_together(checked: Sequence[Checked]) -> list[Checked]:
    """Check what several files are to each other: one workflow stands in one file, and a child that is in none of them
    has to be on the server."""
    first: dict[str, Checked] = {}
    found = []
    for one in checked:
        twin = first.setdefault(one.name, one) if one.definition else one
        if one.definition and twin is not one:
            line, column = one.definition.locate(("name",))
            message = f"workflow {one.name} is also in {twin.file}"
            one = replace(one, errors=[Problem("name", message, line, column, "a workflow has one file")])
        found.append(one)
    return [replace(one, warnings=[*one.warnings, *_unknown_children(one, first)]) for one in found]


def _unknown_children(one: Checked, known: Collection[str]) -> Iterator[Problem]:
    from taskforge.core.outline import children_of

    for child in children_of(one.definition.document) if one.definition else ():
        if one.definition and child.workflow not in known:
            line, column = one.definition.locate(child.pointer)
            message = f"workflow {quoted(child.workflow)} is not among the given files"
            hint = suggest(child.workflow, known) or "it has to be on the server when a run needs it"
            yield Problem(format_path(child.pointer), message, line, column, hint, "warning")


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
    from taskforge.expressions.jq_check import jq_agrees, jq_problems

    if jq_agrees(one.definition for one in checked if one.definition):
        return list(checked)

    import asyncio
    import logging

    from taskforge.expressions.evaluator import Evaluator

    # What asyncio remarks about a child that was gone before it looked is nothing for a person.
    logging.getLogger("asyncio").setLevel(logging.ERROR)

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


def _check(source: Source, parse: Callable[[bytes, Media], Definition]) -> Checked:
    from taskforge.core.errors import InvalidDefinition

    file, content, media = source.file, source.content, source.media
    if source.problem is not None:
        return Checked(file, content, media, [Problem("", source.problem)], ())
    try:
        definition = parse(content, media)
    except InvalidDefinition as error:
        errors = [problem for problem in error.problems if problem.severity == "error"]
        warnings = [problem for problem in error.problems if problem.severity != "error"]
        return Checked(file, content, media, errors, warnings)
    return Checked(file, content, media, (), definition.warnings, definition)
