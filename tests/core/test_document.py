"""Hazards of documents, one by one: what is accepted means what YAML 1.2 and JSON say, what is refused says where."""

from __future__ import annotations

from typing import Any

import pytest

from taskforge.core.document import Document, DocumentLimits, Media, parse_document
from taskforge.core.problem import InvalidDocument, Problem, format_problem


def problems(text: str | bytes, media: Media = "yaml", limits: DocumentLimits | None = None) -> list[Problem]:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(InvalidDocument) as refused:
        parse_document(data, media, limits or DocumentLimits())
    for problem in refused.value.problems:
        assert "\n" not in format_problem(problem, "f.yaml")
        assert len(problem.message) < 300
    return refused.value.problems


def read(text: str | bytes, media: Media = "yaml") -> Document:
    return parse_document(text.encode() if isinstance(text, str) else text, media)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2020-01-01", "2020-01-01"),
        ("a: 12:30:45", "12:30:45"),
        ("a: yes", "yes"),
        ("a: no", "no"),
        ("a: on", "on"),
        ("a: off", "off"),
        ("a: y", "y"),
        ("a: NO", "NO"),
        ("a: true", True),
        ("a: TRUE", True),
        ("a: False", False),
        ("a: tRue", "tRue"),
        ("a:", None),
        ("a: ~", None),
        ("a: Null", None),
        ("a: nil", "nil"),
        ("a: 'null'", "null"),
        ("a: 0o17", 15),
        ("a: 0x1F", 31),
        ("a: 0b11", "0b11"),
        ("a: 017", 17),
        ("a: +12", 12),
        ("a: -0x1", "-0x1"),
        ("a: 1_000", "1_000"),
        ("a: 1.5", 1.5),
        ("a: .5", 0.5),
        ("a: 5.", 5.0),
        ("a: 1e3", 1000.0),
        ("a: -1.5E-2", -0.015),
        ("a: .", "."),
        ("a: --", "--"),
        ("a: ١", "١"),
        ("a: 123456789012345678901234567890", 123456789012345678901234567890),
        ("a: " + "9" * 4300, 10**4300 - 1),
        ("a: =", "="),
        ("a: '<<'", "<<"),
        ("a: b # c", "b"),
        ("a: b#c", "b#c"),
        ("a: b\t# c", "b"),
        ("a:\tb", "b"),
        ("a: http://x:1/y", "http://x:1/y"),
        ("a: x\n  y\n\n  z", "x y\nz"),
        ("a: x\n  - y", "x - y"),
        ("a: 'it''s'", "it's"),
        ("a: 'p\n  q\n\n  r'", "p q\nr"),
        ('a: "p \n  q\\\n   r\\ \n  s"', "p qr  s"),
        ('a: "\\x41\\u00e9\\U0001F600\\n\\t\\0\\e\\_\\N\\L\\P\\/\\\\"', "Aé😀\n\t\0\x1b\xa0\x85\u2028\u2029/\\"),
        ('a: "\\ud83d\\ude00"', "😀"),
        ("a: x\u2028y", "x\u2028y"),
        ("a: '\ufeff'", "\ufeff"),
        ("a: |\n  x\n   y\n\n  z\n\n", "x\n y\n\nz\n"),
        ("a: |-\n  x\n\n", "x"),
        ("a: |+\n  x\n\n", "x\n\n"),
        ("a: |\n  x", "x"),
        ("a: |2\n    x\n", "  x\n"),
        ("a: |-2 # c\n    x\n", "  x"),
        ("a: |\n", ""),
        ("a: |\n  # kept\n# comment\n", "# kept\n"),
        ("a: >\n  x\n  y\n\n  z\n    w\n  v\n", "x y\nz\n  w\nv\n"),
        ("a: >-\n\n  x\n  y", "\nx y"),
        ("a: |\n  ${{ .a | {b: 1} }} # kept\n", "${{ .a | {b: 1} }} # kept\n"),
        ("a: {b: 1, 'c': [1, two, {d: e}]}", {"b": 1, "c": [1, "two", {"d": "e"}]}),
        ('a: {"b":1,"c":[1,2],}', {"b": 1, "c": [1, 2]}),
        ('a: ["b":c]', [{"b": "c"}]),
        ("a: [\n\t1,\n2 # c\n]", [1, 2]),
        ("a: [b: c, d]", [{"b": "c"}, "d"]),
        ("a:\n- b\n- c: 1\n  d: 2\n-\n  - e", ["b", {"c": 1, "d": 2}, ["e"]]),
        ("a: ${{ $x }}", "${{ $x }}"),
        ("a: $${{ x", "$${{ x"),
        ("a: '${{ \"}}\" }} and ${{ x'", "${{ \"}}\" }} and ${{ x"),
        ("a: x ${{ $b }} y ${{ $c }}", "x ${{ $b }} y ${{ $c }}"),
        ("? a\n: b", "b"),
        ("a: b\r\n", "b"),
        ("a: |\r\n  x\r\n  y\r", "x\ny\n"),
        ("---\na: b\n...\n", "b"),
        ("%YAML 1.2\n---\na: b", "b"),
        ("\ufeffa: b", "b"),
        ("# only\n\na: b", "b"),
    ],
)  # fmt: skip
def test_yaml_means_what_version_1_2_says_with_the_types_of_json(text: str, value: Any) -> None:
    assert read(text).value == {"a": value}
    assert type(read(text).value["a"]) is type(value)


def test_aliases_give_equal_and_independent_values() -> None:
    value = read("a: &x {b: [1]}\nc: *x\nd: [*x, &y z, *y]\n*y : k").value
    assert value == {"a": {"b": [1]}, "c": {"b": [1]}, "d": [{"b": [1]}, "z", "z"], "z": "k"}
    value["c"]["b"].append(2)
    assert value["a"] == {"b": [1]}


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        # What has no place in JSON
        ("a: .nan", 1, 4, "not a JSON number"),
        ("a: [-.INF]", 1, 5, "not a JSON number"),
        ("a: 1e999", 1, 4, "out of range"),
        ("a: " + "9" * 4301, 1, 4, "4,300 digits"),
        ("a: 0x" + "f" * 4000, 1, 4, "4,300 digits"),
        ("a: !!python/object:os.system x", 1, 4, 'tag "!!python/object:os.system"'),
        ("a: !!binary aGk=", 1, 4, 'tag "!!binary"'),
        ("a: !!str 1", 1, 4, "tag"),
        ("a: !x {b: 1}", 1, 4, 'tag "!x"'),
        ("a: !<tag:yaml.org,2002:int> 1", 1, 4, 'tag "!<tag:yaml.org,2002:int>"'),
        ("a: &b !c d", 1, 4, 'tag "!c"'),
        ("b: &b {}\na:\n  <<: *b", 3, 3, "merge keys"),
        ("a: 1\nb: 2\na: 3", 3, 1, 'key "a" stands twice; first on line 1'),
        ("a: 1\n'a': 3", 2, 1, 'key "a" stands twice'),
        ("1: x", 1, 1, 'key "1" is a number; keys must be text (quote it: "1")'),
        ("a:\n  ~: x", 2, 3, "is null; keys must be text"),
        ("a: {true: x}", 1, 5, "is a boolean; keys must be text"),
        (": x", 1, 1, "the key is empty"),
        ("[a]: x", 1, 1, "a key must be text, not a list"),
        ("a: {{ x }}", 1, 5, "put it in single quotes"),
        # Aliases
        ("a: *b", 1, 4, 'alias "*b" has no anchor before it'),
        ("a: *.py", 1, 4, "if it is text, put it in single quotes"),
        ("cron: * * * * *", 1, 7, "put it in single quotes"),
        ("a: &x [*x]", 1, 8, "inside its own anchor"),
        # The whole document
        ("", 1, 1, "the document is empty"),
        ("# nothing\n", 1, 1, "the document is empty"),
        ("---\n", 1, 1, "the document is empty"),
        ("- 1", 1, 1, "must be a mapping, not a list"),
        ("  text", 1, 3, "must be a mapping, not a single value"),
        ("null", 1, 1, "must be a mapping"),
        ("a: 1\n---\nb: 2", 2, 1, "more than one document"),
        ("a: 1\n---\n", 2, 1, "more than one document"),
        ("%YAML 1.1\n---\na: yes", 1, 1, "%YAML 1.2"),
        ("%TAG ! x\n---\na: 1", 1, 1, "%YAML 1.2"),
        # Characters
        (b"a: b\nc: \xff", 2, 4, "byte 0xFF at position 8 is not UTF-8"),
        (b"a: \xed\xa0\x80", 1, 4, "not UTF-8"),
        ("a: b".encode("utf-16"), 1, 1, "UTF-16"),
        ("a: b".encode("utf-16-le"), 1, 1, "UTF-16"),
        ("a: b".encode("utf-32"), 1, 1, "UTF-16 or UTF-32"),
        ("é: b\nc: \0", 2, 4, "NUL"),
        ("a: b\x07", 1, 5, "U+0007"),
        ("a: b\x7f", 1, 5, "U+007F"),
        ('a: "\\ud83d"', 1, 4, "surrogate"),
        ('a: "\\ude00\\ud83d"', 1, 4, "surrogate"),
        ('a: "\\UFFFFFFFF"', 1, 5, "beyond the last character"),
        ('a: "x\\u12"', 1, 6, '"\\u" needs 4 hexadecimal digits'),
        ('a: "x\n  \\q"', 2, 3, '"\\q" is no escape'),
        # Syntax
        ("a:\n\tb: 1", 2, 1, "a tab cannot indent YAML"),
        ("a:\n  b: 1\n \tc: 2", 3, 2, "a tab cannot indent YAML"),
        ("a: 'x", 1, 4, "has no closing '"),
        ('a: "x\n---\n"', 1, 4, 'has no closing "'),
        ("a: [1,\n  2", 1, 4, 'the "[" that starts here is not closed'),
        ("a:\n  {b: 1", 2, 3, 'the "{" that starts here is not closed'),
        ("a: [1]]", 1, 7, 'found "]"'),
        ("a: b: c", 1, 5, 'a second ": " cannot stand here'),
        ("a: b\n c: d", 2, 3, "the line before goes on"),
        ("steps:\n  - id: a\n   http: x", 3, 4, "indentation"),
        ("a: - b", 1, 4, "a list entry"),
        ("a: b\nc", 2, 1, 'found no ":"'),
        ("a: @x", 1, 4, 'cannot start with "@"'),
        ("a: %x", 1, 4, 'cannot start with "%"'),
        ("a: |x\n", 1, 4, 'after "|" only'),
        ("a: |\n    \n  x\n", 3, 1, "blank line"),
        ('a: "x"#c', 1, 7, 'needs a space before its "#"'),
        ('a: "x" y', 1, 8, 'found the text "y"'),
        ("a: 1\n}", 2, 1, 'found "}"'),
        # Expressions that need quotes
        ("if: ${{ . | {a: 1} }}", 1, 5, "put it in single quotes"),
        ('if: ${{ . == "a #b" }}', 1, 5, 'at " #"'),
        ("if: ${{ . ", 1, 5, 'has no "}}"'),
        ("- ${{ {a: 1} }}", 1, 3, "put it in single quotes"),
        ("a: {b: ${{ $c }}}", 1, 9, "put it in single quotes"),
        ("a: [${{ $c }}]", 1, 6, "put it in single quotes"),
        ('a: "${{ $h["x"] }}"', 1, 13, "put it in single quotes"),
        ("a: '${{ 'x' }}'", 1, 10, "put it in single quotes"),
        ("a: {{ $x }}\nb: ${{ $x }}", 1, 5, "put it in single quotes"),
    ],
)  # fmt: skip
def test_refused_yaml_says_what_where_and_what_to_do(text: str | bytes, line: int, column: int, says: str) -> None:
    first = problems(text)[0]
    assert says in format_problem(first)
    assert (first.line, first.column) == (line, column)


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("", 1, 1, "empty"),
        ("[1]", 1, 1, "must be a mapping"),
        ('{"a": 1,\n "a": 2}', 2, 2, 'key "a" stands twice; first on line 1'),
        ('{"a": NaN}', 1, 7, "NaN is not JSON"),
        ('{"a": -Infinity}', 1, 7, "-Infinity is not JSON"),
        ('{"a": 1,}', 1, 8, "remove the comma"),
        ('{"a": [1,]}', 1, 9, "remove the comma"),
        ("{a: 1}", 1, 2, "double quotes"),
        ("{'a': 1}", 1, 2, "double quotes"),
        ("{\"a\": 'b'}", 1, 7, "JSON has double quotes only"),
        ('{"a": 01}', 1, 7, "no leading zero"),
        ('{"a": +1}', 1, 7, "no plus"),
        ('{"a": .5}', 1, 7, "a digit on both sides"),
        ('{"a": 1.}', 1, 7, "a digit on both sides"),
        ('{"a": 0x1F}', 1, 7, "expected a value"),
        ('{"a": 1e999}', 1, 7, "out of range"),
        ('{"a": ' + "9" * 4301 + "}", 1, 7, "4,300 digits"),
        ('{"a": True}', 1, 7, "written small"),
        ('{"a": hello}', 1, 7, "double quotes"),
        ('{"a": 1 "b": 2}', 1, 9, 'expected "," or "}", found a text'),
        ('{"a" 1}', 1, 6, 'expected ":" after the key "a"'),
        ('{"a": 1]', 1, 8, 'found "]"'),
        ('{"a": "x\ty"}', 1, 9, "must be escaped"),
        ('{"a": "x\ny"}', 1, 9, "must be escaped"),
        ('{"a": "\\q"}', 1, 8, "a backslash is written \\\\"),
        ('{"a": "\\u12"}', 1, 9, "four hexadecimal digits"),
        ('{"a": "x', 1, 7, "no closing quote"),
        ('{"a": [1', 1, 7, "not closed"),
        ('{"a": 1} x', 1, 10, "after its end"),
        ('// c\n{"a": 1}', 1, 1, "JSON has no comments"),
        ('{"a": 1, // c\n"b": 2}', 1, 10, "JSON has no comments"),
        ('{"a": "\\ud800"}', 1, 7, "surrogate"),
        ('{"\\udc00": 1}', 1, 2, "surrogate"),
        ('{"a": }', 1, 7, "expected a value"),
        ('{"a": \0}', 1, 7, "NUL"),
        ("\x0c{}", 1, 1, "expected a value"),
        ("\xa0{}", 1, 1, "expected a value"),
        (b'{"a": "\xe9"}', 1, 8, "byte 0xE9 at position 7 is not UTF-8"),
        ('{"a": 1}'.encode("utf-16-be"), 1, 1, "UTF-16"),
    ],
)  # fmt: skip
def test_refused_json_says_what_where_and_what_to_do(text: str | bytes, line: int, column: int, says: str) -> None:
    first = problems(text, "json")[0]
    assert says in format_problem(first)
    assert (first.line, first.column) == (line, column)


def test_json_is_read_as_it_stands() -> None:
    text = '\ufeff{"a": [1, -0, 1.0, 1E2, "\\u00e9\\ud83d\\ude00\\n\\/", true, false, null, {}], "": {"b": []}}\r\n'
    assert read(text, "json").value == {
        "a": [1, 0, 1.0, 100.0, "é😀\n/", True, False, None, {}],
        "": {"b": []},
    }
    digits = "1234567890" * 430
    assert str(read(f'{{"n": {digits}}}', "json").value["n"]) == digits


def test_all_problems_that_do_not_break_the_syntax_come_at_once_in_the_order_of_the_text() -> None:
    text = "a: .inf\nb: !x y\na: 1\nc:\n  <<: z\n  1: q\n  1: r\n  d: *e\n"
    found = problems(text)
    assert [(problem.line, problem.path) for problem in found] == [
        (1, "a"), (2, "b"), (3, "a"), (5, "c"), (6, "c"), (7, "c"), (8, "c.d"),
    ]  # fmt: skip
    assert [problem.path for problem in problems('{"a": {"b": NaN, "b": 1}, "c d": [0, NaN]}', "json")] == [
        "a.b",
        "a.b",
        '["c d"][1]',
    ]


def test_syntax_errors_come_after_what_was_found_before() -> None:
    assert [problem.line for problem in problems("a: 1\na: 2\nb: [")] == [2, 3]


def test_reading_stops_after_a_hundred_problems() -> None:
    found = problems("a: .nan\n" * 5000)
    assert len(found) == 101
    assert "reading stopped" in found[-1].message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + "[" * 10_000, "nested more than 64 deep"),
        ("{a: " * 10_000, "nested more than 64 deep"),
        ("- " * 10_000, "nested more than 64 deep"),
        ("? " * 10_000, "nested more than 64 deep"),
        ("".join(" " * depth + "a:\n" for depth in range(700)), "nested more than 64 deep"),
        ("a: &a " + "[" * 40 + "]" * 40 + "\nb: " + "[" * 40 + "*a" + "]" * 40, "nested more than 64 deep"),
        ("a: [" + "1," * 60_000, "more than 50,000 keys and values"),
        ("a: &a 1\nb: [" + "*a," * 2_000, "more than 1,000 aliases"),
        (
            "a0: &a0 [" + "lol," * 9 + "]\n"
            + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 40)),
            "aliases written out",
        ),
        ("a: &a '" + "x" * 200_000 + "'\nb: [" + "*a," * 900 + "]", "characters, aliases written out"),
        ("a: &a {? '" + "x" * 200_000 + "' : 1}\nb: [" + "*a," * 900 + "]", "characters, aliases written out"),
        ("a: x" + " " * 262_144, "at most 262,144 are accepted"),
    ],
)  # fmt: skip
def test_hostile_yaml_is_refused_by_its_cost(text: str, says: str) -> None:
    assert says in problems(text)[0].message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a":' * 10_000, "nested more than 64 deep"),
        ('{"a":' + "[" * 200_000, "nested more than 64 deep"),
        ('{"a":[' + "1," * 60_000, "more than 50,000 keys and values"),
        (" " * 262_145, "at most 262,144 are accepted"),
    ],
)
def test_hostile_json_is_refused_by_its_cost(text: str, says: str) -> None:
    assert says in problems(text, "json")[0].message


def test_limits_can_be_set_and_a_document_at_the_limit_is_taken() -> None:
    text = b"a: [[b]]"
    tight = DocumentLimits(max_bytes=len(text), max_depth=3, max_values=5)
    assert parse_document(text, "yaml", tight).value == {"a": [["b"]]}
    assert parse_document(b'{"a":["b"]}', "json", DocumentLimits(max_depth=2, max_values=4)).value == {"a": ["b"]}
    for limits in (DocumentLimits(max_bytes=7), DocumentLimits(max_depth=2), DocumentLimits(max_values=4)):
        problems(text, "yaml", limits)


@pytest.mark.parametrize(
    "text",
    [
        "a: '" + " " * 262_000,
        'a: "' + "  \n" * 80_000 + '"',
        'a: "' + "\\ " * 120_000 + '"',
        "a: x" + "\n" * 262_000 + " y",
        "a: x" + " " * 262_000 + "y",
        "a: |\n" + " \n" * 130_000,
        "a: >\n" + "  x\n\n" * 50_000,
        "a: " + "${{ " * 60_000,
        "a: " + "'" * 262_000,
        "#" * 262_000,
        "&a " * 80_000,
        "a: 1e" + "9" * 262_000,
        "a: " + "9" * 262_000,
        "k" * 262_000 + ": 1",
        "\r" * 262_000,
        "---\n" * 65_000,
    ],
    ids=[str(number) for number in range(16)],
)
def test_long_texts_take_time_in_proportion_to_their_length(text: str) -> None:
    # Anything quadratic in these would take minutes: the test's own time limit is the check.
    for media in ("yaml", "json"):
        try:
            parse_document(text.encode(), "yaml" if media == "yaml" else "json")
        except InvalidDocument as refused:
            assert refused.problems


def test_the_source_is_the_text_as_given() -> None:
    text = "\ufeffa: b\r\nc: |\r\n  d\r\n"
    assert read(text).source == text
