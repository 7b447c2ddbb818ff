"""`runs timeline` and `graph`: files that stand alone, text that is always the same, names that cannot break out."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskforge.cli.chart import Chart, Row, Segment
from taskforge.cli.chart_file import html_text, svg_text
from taskforge.cli.graph_model import graph_of, states_of
from taskforge.cli.graph_text import dot_text, mermaid_text
from taskforge.core.document import parse_document
from tests.support.server import ServerProcess, clean_environ, run_cli

EVERY_KIND = """\
name: all
triggers:
  nightly: {cron: "0 9 * * MON-FRI"}
  hook: {webhook: {verify: none}}
steps:
  - id: end
    http: {method: GET, url: 'https://api.example.com/"x"<b>/${{ $run.id }}'}
    catch: [{id: caught, transform: 1}]
    undo: [{id: undone, transform: 1}]
  - id: route
    switch:
      - when: '${{ $end == "a\\"b" }}'
        steps: [{id: page, transform: 1}]
      - when: '${{ true }}'
        steps: [{id: stop, fail: {message: "no"}}]
  - id: each
    foreach:
      items: [1, 2]
      steps:
        - {id: post, transform: 1}
        - {id: in, repeat: {until: '${{ true }}', max: 2, steps: [{id: poll, transform: 2}]}}
  - id: both
    parallel:
      - {id: c, needs: [a, b], transform: 1}
      - {id: a, transform: 1}
      - {id: b, transform: 1}
  - {id: cool, wait: {signal: approved, timeout: 1h, on_timeout: [{id: late, transform: 1}]}}
  - {id: child, workflow: {name: other}}
  - {id: done, if: '${{ $both == null }}', succeed: {output: 1}}
  - {id: st, set_state: {key: k, value: 1}}
on_failure: [{id: tell, transform: 1}]
finally: [{id: tidy, transform: 1}]
notify: [{on: [FAILED], slack: {url_secret: SLACK_URL}}]
"""
DOCUMENT: Any = parse_document(EVERY_KIND.encode(), "yaml").value
NASTY = st.text(st.characters(codec=None), max_size=40)


class Page(HTMLParser):
    """Collects the elements and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "xlink:href")]


# ---- pictures of a run


def test_the_terminal_shows_attempts_and_the_pause_between(server: ServerProcess) -> None:
    name = server.run_cli("run", "refused", "--wait", "-q").stdout.strip()
    shown = server.run_cli("runs", "timeline", name)
    assert shown.returncode == 0
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("  call")]
    assert re.search(r"▒·*▒", line)
    assert "failed" in shown.stdout.splitlines()[-1]
    assert server.run_cli("runs", "timeline", name, "-q").stdout.strip() == name
    assert json.loads(server.run_cli("runs", "timeline", name, "-o", "json").stdout)["number"]
    assert server.run_cli("runs", "timeline", name, PYTHONIOENCODING="ascii").stdout.isascii()


def test_files_stand_alone(server: ServerProcess, tmp_path: Path) -> None:
    name = server.run_cli("run", "break", "--wait", "-q").stdout.strip()
    svg, html = tmp_path / "run.svg", tmp_path / "run.html"
    done = server.run_cli("runs", "timeline", name, "--svg", str(svg), "--html", str(html))
    assert (done.returncode, done.stdout) == (0, "")
    root = ElementTree.fromstring(svg.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    page = Page()
    page.feed(html.read_text())
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert page.addresses == []
    assert "\\u001b[31mway" in html.read_text()
    assert server.run_cli("runs", "timeline", name, "--svg", "-").stdout == svg.read_text()
    missing = server.run_cli("runs", "timeline", name, "--svg", str(tmp_path / "no" / "run.svg"))
    assert missing.returncode == 1
    assert "no such file or directory" in missing.stderr
    assert server.run_cli("runs", "timeline", name, "--svg", "-", "--html", "-").returncode == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(NASTY, min_size=1, max_size=4), st.integers(0, 10**9))
def test_no_name_breaks_out_of_a_file(names: list[str], took: int) -> None:
    rows = tuple(
        Row(name, at, name, "FAILED", (Segment(0, took, "wrong", name), Segment(took, took, "pause", name)), name)
        for at, name in enumerate(names)
    )
    run = {"workflow": names[0], "number": 1, "state": "FAILED", "created_at": names[0], "input": names,
           "error": {"code": names[0], "message": names[-1]}}  # fmt: skip
    chart = Chart(0, took + 1, rows)
    ElementTree.fromstring(svg_text(chart, run))
    page = Page()
    page.feed(html_text(chart, run))
    assert page.tags <= {"html", "head", "meta", "title", "style", "body", "h1", "svg", "rect", "text", "line", "table",
                         "tr", "th", "td", "br"}  # fmt: skip


# ---- graphs


def test_every_kind_branch_and_handler_is_in_the_graph() -> None:
    found = graph_of(DOCUMENT)
    edges = {(edge.source, edge.target): edge.label for edge in found.edges}
    assert edges[("(trigger nightly)", "(start)")] == ""
    assert edges[("(start)", "end")] == ""
    assert edges[("end", "caught")] == "catch"
    assert edges[("caught", "route")] == ""
    assert edges[("route", "page")] == '$end == "a\\"b"'
    assert edges[("route", "each")] == "none of them"
    assert ("stop", "each") not in edges
    assert edges[("each", "post")] == "each item"
    assert edges[("poll", "in")] == "again"
    assert {source for source, target in edges if target == "c"} == {"a", "b"}
    assert {target for source, target in edges if source == "both"} == {"a", "b"}
    assert edges[("cool", "late")] == "timeout"
    assert edges[("done", "st")] == "if not"
    assert ("done", "(end)") not in edges
    assert edges[("(end)", "tidy")] == "always"
    assert edges[("(end)", "(notify 0)")] == "FAILED"
    assert {node.group for node in found.nodes.values()} == {"", "each", "in", "both", "(on_failure)", "(finally)"}


def test_mermaid_and_dot_are_the_same_every_time_and_balanced() -> None:
    for write in (mermaid_text, dot_text):
        text = write(graph_of(DOCUMENT))
        assert text == write(graph_of(parse_document(EVERY_KIND.encode(), "yaml").value))
    mermaid = mermaid_text(graph_of(DOCUMENT)).splitlines()
    assert mermaid[0] == "flowchart TD"
    assert sum(line.strip().startswith("subgraph") for line in mermaid) == mermaid.count("  end") + mermaid.count(
        "    end"
    )


@settings(max_examples=60, deadline=None)
@given(NASTY, NASTY)
def test_no_text_breaks_out_of_its_quotes(first: str, second: str) -> None:
    document = {
        "name": first,
        "steps": [
            {"id": "a", "if": first, "http": {"method": first, "url": second}},
            {"id": "b", "switch": [{"when": second, "steps": [{"id": "c", "wait": {"signal": first}}]}]},
        ],
    }
    line = re.compile(
        r'  (n\d+\W{1,2}"[^"]*"\W{1,2}|n\d+ -\.?->(\|"[^"]*"\|)? n\d+|%% [\w .-]*'
        r"|classDef \w+ [\w:#,]+|class [\w,]+ \w+)"
    )
    for text in mermaid_text(graph_of(document, {"a": "FAILED"})).splitlines()[1:]:
        assert line.fullmatch(text), text
    string = r'"(?:[^"\\]|\\.)*"'
    facts = rf"label={string}(, shape=\w+)?(, style=\w+)?(, fillcolor={string})?"
    for text in dot_text(graph_of(document)).splitlines()[3:-1]:
        assert re.fullmatch(rf"  {string}( -> {string})?( \[({facts}|style=dashed)\])?;", text), text


def test_of_a_step_that_ran_often_the_state_that_tells_is_shown() -> None:
    steps = [{"id": "post", "state": state} for state in ("SUCCEEDED", "FAILED", "SKIPPED")]
    assert states_of(steps) == {"post": "FAILED"}


def test_a_file_is_drawn_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(EVERY_KIND)
    environ = clean_environ(tmp_path / "home") | {"TASKFORGE_SERVER": "http://127.0.0.1:9"}
    shown = run_cli("graph", str(tmp_path / "all.yaml"), environ=environ)
    assert shown.returncode == 0, shown.stderr
    assert [name for name in ("route", "poll", "caught", "late", "tidy", "nightly") if name not in shown.stdout] == []
    piped = run_cli("graph", "-", "--format", "mermaid", environ=environ, stdin=EVERY_KIND)
    assert piped.stdout == mermaid_text(graph_of(DOCUMENT))
    data = json.loads(run_cli("graph", str(tmp_path / "all.yaml"), "-o", "json", environ=environ).stdout)
    assert {"id": "in", "label": "in", "kind": "repeat", "detail": ["until true"], "group": "each"} in data["nodes"]
    (tmp_path / "wrong.yaml").write_text("name: x\nsteps: [{id: a, transfrom: 1}]\n")
    wrong = run_cli("graph", str(tmp_path / "wrong.yaml"), environ=environ)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert re.search(r"wrong\.yaml:2:\d+: ", wrong.stderr)
    assert run_cli("graph", str(tmp_path / "none.yaml"), environ=environ).returncode == 2


def test_a_run_colours_its_workflow(server: ServerProcess) -> None:
    name = server.run_cli("run", "greet", "--wait", "-q").stdout.strip()
    assert "✔ one" in server.run_cli("graph", name).stdout
    mermaid = server.run_cli("graph", name, "--format", "mermaid").stdout
    assert "classDef SUCCEEDED" in mermaid
    assert "fillcolor" in server.run_cli("graph", name, "--format", "dot").stdout
    assert "✔" not in server.run_cli("graph", "greet").stdout
    assert server.run_cli("graph", "greet", "--version", "1").returncode == 0
    assert server.run_cli("graph", "nothing").returncode == 4
    assert server.run_cli("graph", "greet#99999").returncode == 4


# ---- why, of many


@pytest.mark.parametrize("arguments", [[], ["-q"]])
def test_why_folds_what_is_the_same_for_many_items(server: ServerProcess, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "skips.yaml").write_text(
        "name: skips\nsteps:\n  - id: each\n    foreach:\n      items: '${{ [range(20)] }}'\n"
        "      steps: [{id: one, if: '${{ $index == 3 }}', transform: 1}]\n"
    )
    assert server.run_cli("apply", str(tmp_path / "skips.yaml")).returncode == 0
    name = server.run_cli("run", "skips", "--wait", "-q").stdout.strip()
    told = server.run_cli("why", name, *arguments).stdout
    assert told.count("IF_FALSE") == 1
    if not arguments:
        assert "and for 18 more items" in told
        asked = server.run_cli("why", name, "each[4].one")
        assert "$index == 3" in asked.stderr
        assert "--step 'each[4].one'" in asked.stderr
