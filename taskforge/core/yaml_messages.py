"""ruamel's syntax errors in our words: one line that says what stands where and what to do."""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml.error import MarkedYAMLError

from taskforge.core.source import SourceText

QUOTE_IT = "put it in single quotes: '${{ … }}', with every ' inside written twice"

_TOKENS = {
    "<stream end>": "the end of the document",
    "<document start>": 'a new document ("---")',
    "<document end>": 'the end of the document ("...")',
    "<block end>": "a line that stands further left",
    "<block sequence start>": 'a list ("- ")',
    "<block mapping start>": 'a "key:"',
    "<scalar>": "a text",
    "<alias>": "an alias (*)",
    "<anchor>": "an anchor (&)",
    "<tag>": "a tag (!)",
    "?": 'a "key:"',
    ":": '":"',
    "-": '"- "',
}
_FOUND = re.compile(r"but (?:found|got) \(?'(.+?)'")
INDENT_HINT = "check the indentation and the quotes on this line and the one before"


def syntax_hint(source: SourceText, offsets: tuple[int, ...]) -> str | None:
    """What to do where one of the lines holds an expression: nearly always the quotes are missing."""
    return QUOTE_IT if any("${{" in source.line_at(offset) for offset in offsets) else None


def explain(source: SourceText, error: MarkedYAMLError) -> tuple[int, str, str | None]:
    """Offset, message and hint for an error of ruamel's scanner or parser."""
    problem = str(error.problem or "the text is not YAML")
    at = _index(error.problem_mark)
    opened = _index(error.context_mark) if error.context_mark is not None else None
    start = at if at is not None else opened or 0
    found = _FOUND.search(problem)
    shown = _shown(source, found[1], start) if found else ""
    context = str(error.context or "")
    offset, message, hint = start, f"the text is not YAML: {problem}", None
    if "could not find expected ':'" in problem:
        offset = opened if opened is not None else start
        message, hint = 'expected "key: value" here, found no ":" after the key', INDENT_HINT
    elif "sequence entries are not allowed" in problem:
        message, hint = 'a list entry ("- ") cannot start here', "start the list on a line of its own"
    elif "mapping values are not allowed" in problem:
        message, hint = _no_value_here(source, start)
    elif "mapping keys are not allowed" in problem:
        message, hint = 'a key ("? ") cannot start here', "start it on a line of its own"
    elif "flow sequence" in context or "flow mapping" in context:
        offset, message, hint = _in_brackets(source, start, opened, found[1] if found else "", shown)
    elif "expected the node content" in problem:
        message = f"expected a value, found {shown}"
    elif found and found[1] in ("<block mapping start>", "<block sequence start>", "?"):
        message, hint = "the indentation of this line fits no line before it", "align it with the entries it belongs to"
    elif "block collection" in context:
        message, hint = f'expected the next list entry ("- "), found {shown}', INDENT_HINT
    elif "block mapping" in context:
        message, hint = f'expected the next "key:", found {shown}', INDENT_HINT
    elif "<document start>" in problem:
        message, hint = f"the document ends before this; found {shown}", INDENT_HINT
    elif "content after document end" in problem:
        message = 'nothing but a comment can follow "..." on its line'
    return offset, message, syntax_hint(source, (start, offset)) or hint


def _no_value_here(source: SourceText, start: int) -> tuple[str, str]:
    _, column = source.position(start)
    if ": " in source.line_at(start)[: column - 1]:
        return 'a second ": " cannot stand here', 'quote the text that has the ": "'
    return 'a "key:" cannot stand here: the text of the line before goes on in this line', "check the indentation"


def _in_brackets(
    source: SourceText, start: int, opened: int | None, found: str, shown: str
) -> tuple[int, str, str | None]:
    bracket = source.text[opened] if opened is not None and opened < len(source.text) else "["
    if found in ("<stream end>", "<document start>", "<document end>") and opened is not None:
        return opened, f'the "{bracket}" that starts here is not closed', None
    closing = "}" if bracket == "{" else "]"
    return start, f'expected "," or "{closing}", found {shown}', "quote a text that has brackets, braces or commas"


def _index(mark: Any) -> int | None:
    return None if mark is None else int(mark.index)


def _shown(source: SourceText, token: str, at: int) -> str:
    """A token in words; a bracket as itself."""
    if token == "<scalar>":
        match = re.compile(r"[^\s,\[\]{}]{1,30}").match(source.text, at)
        return f'the text "{match[0]}"' if match else "a text"
    return _TOKENS.get(token, f'"{token}"')
