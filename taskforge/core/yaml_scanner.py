"""YAML tokens, fast. ruamel's scanner keeps the grammar (keys, indentation, flow levels); the parts that walk over
every character are replaced by regular expressions, which are many times faster, and follow 1.2 in its rules for
tabs, comments and line breaks.

`yaml_events(text, max_depth)` gives ruamel's events; marks carry `index`, `line` and `column` from 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import tokens
from ruamel.yaml.parser import Parser
from ruamel.yaml.scanner import Scanner

from taskforge.core.yaml_messages import INDENT_HINT
from taskforge.core.yaml_scalars import DOUBLE, SINGLE, block_text, double_text, fold_single, plain_text

_KEY_LENGTH = 1024  # a key that is not introduced by "?" ends within so many characters, says YAML
_PADDING = 4  # NUL characters after the text: looking ahead never falls off its end
_BLANK_END = " \t\n\0"
_DOCUMENT_MARK = re.compile(r"(?:---|\.\.\.)(?=[ \t\n\0])")
_SKIPPED = re.compile(r"(?:[ \t]*+(?:#[^\n\0]*+)?+\n)*+[ \t]*+")
_NAME = re.compile(r"[^ \t\n\0,\[\]{}]++")
_TAG = re.compile(r"!(?:<[^> \n\0]*+>|[^ \t\n\0,\[\]{}]*+)")
_DIRECTIVE = re.compile(r"%YAML[ \t]++1\.2[ \t]*+(?:#[^\n\0]*+)?(?=[\n\0])")
_BLOCK_START = re.compile(r"[^\-?:,\[\]{}#&*!|>'\"%@` \t\n\0]|[-?:](?=[^ \t\n\0])")
_FLOW_START = re.compile(r"[^\-?:,\[\]{}#&*!|>'\"%@` \t\n\0]|[-?:](?=[^ \t\n\0,\[\]{}])")


class YamlSyntax(Exception):
    """A text that is no YAML: what is wrong at which offset, and what to do."""

    def __init__(self, offset: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.offset, self.message, self.hint = offset, message, hint


class Mark:
    """A place in the text; ruamel's own marks hold far more."""

    __slots__ = ("column", "index", "line")

    def __init__(self, index: int, line: int, column: int) -> None:
        self.index, self.line, self.column = index, line, column


class TextReader:
    """What ruamel's scanner asks of a reader, over a text in memory whose only line break is "\\n"."""

    encoding = None

    def __init__(self, text: str) -> None:
        self.buffer = text + "\0" * _PADDING
        self.index = self.line = self.column = 0
        self._mark = Mark(0, 0, 0)

    def peek(self, ahead: int = 0) -> str:
        return self.buffer[self.index + ahead]

    def prefix(self, length: int = 1) -> str:
        return self.buffer[self.index : self.index + length]

    def forward(self, length: int = 1) -> None:
        self.move_to(self.index + length)

    def move_to(self, index: int) -> None:
        breaks = self.buffer.count("\n", self.index, index)
        if breaks:
            self.line += breaks
            self.column = index - self.buffer.rfind("\n", self.index, index) - 1
        else:
            self.column += index - self.index
        self.index = index

    def get_mark(self) -> Mark:
        if self._mark.index != self.index:
            self._mark = Mark(self.index, self.line, self.column)
        return self._mark


class TextScanner(Scanner):
    """ruamel's scanner with its own ways over text. One instance reads one text."""

    reader: Any = None
    scanner_processing_version = (1, 2)

    def __init__(self, loader: _Loader, text: str, max_depth: int) -> None:
        self.reader = TextReader(text)
        self.text: str = self.reader.buffer
        self.max_depth = max_depth
        super().__init__(loader)

    # Between tokens

    def fetch_more_tokens(self) -> Any:
        self.scan_to_next_token()
        self.stale_possible_simple_keys()
        reader = self.reader
        self.unwind_indent(reader.column)
        first = self.text[reader.index]
        if first == "\0":
            return self.fetch_stream_end()
        if reader.column == 0 and first in "%-.":
            if first == "%":
                return self.fetch_directive()
            if _DOCUMENT_MARK.match(self.text, reader.index):
                return self.fetch_document_start() if first == "-" else self.fetch_document_end()
        if fetch := _FETCH.get(first):
            return fetch(self)
        if first == "-" and self.check_block_entry():
            return self.fetch_block_entry()
        if first == "?" and self.check_key():
            return self.fetch_key()
        if first == ":" and self.check_value():
            return self.fetch_value()
        if first in "|>" and not self.flow_context:
            return self.fetch_block_scalar(first)
        if self.check_plain():
            return self.fetch_plain()
        raise YamlSyntax(reader.index, f'an unquoted text cannot start with "{first}" here', "put it in single quotes")

    def scan_to_next_token(self) -> None:
        reader, start = self.reader, self.reader.index
        if self.text[start] == "#" and reader.column > 0:
            raise YamlSyntax(start, 'a comment needs a space before its "#"', "or quote the text")
        match = _SKIPPED.match(self.text, start)
        end = match.end() if match else start
        line_start = self.text.rfind("\n", start, end) + 1
        if line_start and not self.flow_context:
            self.allow_simple_key = True
        if self.text[end] == "#":  # a comment on the last line, which has no break
            end = len(self.text) - _PADDING
        elif not self.flow_context and "\t" in (blanks := self.text[line_start or start : end]):
            if self.text[end] != "\0" and (line_start or reader.column == 0):
                at = (line_start or start) + blanks.index("\t")
                raise YamlSyntax(at, "a tab cannot indent YAML", "indent with spaces")
            # After "- " or "key:" a tab may part, but what follows it cannot open a block: its column is unclear.
            self.allow_simple_key = False
        if end != start:
            reader.move_to(end)

    def check_token(self, *choices: Any) -> bool:
        queue = self.tokens
        if self.possible_simple_keys or not queue:
            while self.need_more_tokens():
                self.fetch_more_tokens()
        return bool(queue) and (not choices or isinstance(queue[0], choices))

    def get_token(self) -> Any:
        if not self.check_token():
            return None
        self.tokens_taken += 1
        return self.tokens.pop(0)

    def need_more_tokens(self) -> bool:
        if self.done:
            return False
        if not self.tokens:
            return True
        if not self.possible_simple_keys:
            return False
        self.stale_possible_simple_keys()
        return bool(self.next_possible_simple_key() == self.tokens_taken)

    # Possible keys are kept by flow level, and a deeper level always opened later: the first is the oldest.

    def stale_possible_simple_keys(self) -> None:
        keys = self.possible_simple_keys
        while keys:
            level, oldest = next(iter(keys.items()))
            if oldest.line == self.reader.line and self.reader.index - oldest.index <= _KEY_LENGTH:
                return
            if oldest.required:
                raise YamlSyntax(oldest.index, 'expected "key: value" here, found no ":" after the key', INDENT_HINT)
            del keys[level]

    def next_possible_simple_key(self) -> Any:
        return next(iter(self.possible_simple_keys.values())).token_number if self.possible_simple_keys else None

    # Checks

    def check_block_entry(self) -> bool:
        return self.text[self.reader.index + 1] in _BLANK_END

    def check_key(self) -> bool:
        return self.text[self.reader.index + 1] in _BLANK_END

    def check_value(self) -> bool:
        after = self.text[self.reader.index + 1]
        if after in _BLANK_END:
            return True
        if not self.flow_context:
            return False
        # After a quoted key or a bracket the value may follow without a blank, as in JSON.
        last = self.tokens[-1] if self.tokens else None
        adjacent = isinstance(last, tokens.FlowMappingEndToken | tokens.FlowSequenceEndToken) or (
            isinstance(last, tokens.ScalarToken) and last.style in ("'", '"')
        )
        return after in ",[]{}" or (adjacent and self.flow_level in self.possible_simple_keys)

    def check_plain(self) -> bool:
        start = _FLOW_START if self.flow_context else _BLOCK_START
        return start.match(self.text, self.reader.index) is not None

    # Tokens

    def fetch_directive(self) -> None:
        match = _DIRECTIVE.match(self.text, self.reader.index)
        if match is None or self.tokens_taken > 1:
            raise YamlSyntax(
                self.reader.index,
                'a line cannot start with "%" here: the only directive taken is %YAML 1.2, before "---"',
            )
        self.reader.move_to(match.end())

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
        if len(self.flow_context) >= self.max_depth:
            raise YamlSyntax(self.reader.index, f"the document is nested more than {self.max_depth} deep")
        super().fetch_flow_collection_start(TokenClass, to_push)

    def scan_anchor(self, TokenClass: Any) -> Any:
        reader = self.reader
        start = reader.get_mark()
        sign = self.text[start.index]
        match = _NAME.match(self.text, start.index + 1)
        name = match[0] if match else ""
        if sign == "*" and name.endswith(":") and match and self.text[match.end()] in _BLANK_END:
            name = name[:-1]  # `*a: x` is a key in people's eyes
        if not name:
            kind = "alias" if sign == "*" else "anchor"
            raise YamlSyntax(
                start.index, f'an unquoted "{sign}" starts an {kind} and needs a name', "put it in single quotes"
            )
        reader.move_to(start.index + 1 + len(name))
        return TokenClass(name, start, reader.get_mark())

    def scan_tag(self) -> Any:
        reader = self.reader
        start = reader.get_mark()
        match = _TAG.match(self.text, start.index)
        reader.move_to(match.end() if match else start.index + 1)
        return tokens.TagToken(("!", "refused"), start, reader.get_mark())

    def scan_plain(self) -> Any:
        value, end = plain_text(self.text, self.reader.index, self.indent, bool(self.flow_context))
        return self._scalar(value, end, None)

    def scan_flow_scalar(self, style: Any) -> Any:
        start = self.reader.index
        match = (DOUBLE if style == '"' else SINGLE).match(self.text, start)
        if match is None:
            raise YamlSyntax(start, f"the text that starts here has no closing {style}")
        content = match[1]
        if "\n" in content:
            mark = re.search(r"^(?:---|\.\.\.)(?=[ \t\n])", content[content.index("\n") :], re.MULTILINE)
            if mark:
                raise YamlSyntax(start, f"the text that starts here has no closing {style} before a document mark")
        try:
            value = double_text(content) if style == '"' else fold_single(content)
        except ValueError as error:
            offset, message = error.args
            raise YamlSyntax(start + 1 + offset, message, "a backslash itself is written \\\\") from None
        return self._scalar(value, match.end(), style)

    def scan_block_scalar(self, style: Any, rt: bool | None = False) -> Any:
        start = self.reader.index
        try:
            value, end, after = block_text(self.text, start, self.indent)
        except ValueError as error:
            offset, message = error.args
            raise YamlSyntax(offset, message) from None
        token = self._scalar(value, end, style)
        self.reader.move_to(after)
        return token

    def _scalar(self, value: str, end: int, style: str | None) -> Any:
        reader = self.reader
        start = reader.get_mark()
        reader.move_to(end)
        return tokens.ScalarToken(value, style is None, start, reader.get_mark(), style)


_FETCH: dict[str, Any] = {
    "[": Scanner.fetch_flow_sequence_start,
    "{": Scanner.fetch_flow_mapping_start,
    "]": Scanner.fetch_flow_sequence_end,
    "}": Scanner.fetch_flow_mapping_end,
    ",": Scanner.fetch_flow_entry,
    "*": Scanner.fetch_alias,
    "&": Scanner.fetch_anchor,
    "!": Scanner.fetch_tag,
    "'": Scanner.fetch_single,
    '"': Scanner.fetch_double,
}


class _TextParser(Parser):
    scanner: Any = None
    resolver: Any = None

    def __init__(self, loader: _Loader, scanner: TextScanner) -> None:
        self.scanner = scanner
        self.resolver = loader
        super().__init__(loader)


class _Loader:
    """The little that ruamel's parser asks of its loader."""

    typ = "taskforge"
    comment_handling = None
    processing_version = (1, 2)


def yaml_events(text: str, max_depth: int) -> Iterator[Any]:
    """ruamel's events of a text. Raises YamlSyntax or ruamel's MarkedYAMLError; bounds the depth of brackets."""
    loader = _Loader()
    parser = _TextParser(loader, TextScanner(loader, text, max_depth))
    while parser.check_event():
        yield parser.get_event()
