"""`/docs`: the table of calls as one page. No script, nothing fetched from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

import taskforge
from taskforge.api.html_text import escape
from taskforge.api.route import JsonBody, Route

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
code { font: 0.9em ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: left; vertical-align: top; padding: 0.35rem 0.6rem; border-bottom: 1px solid #8884; }
td:first-child { white-space: nowrap; }
small { opacity: 0.75; }
"""


def docs_page(routes: Iterable[Route]) -> bytes:
    """The page as UTF-8."""
    groups: dict[str, list[Route]] = {}
    for route in routes:
        groups.setdefault(route.tag, []).append(route)
    tables = "".join(_table(tag, entries) for tag, entries in groups.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>TaskForge API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>TaskForge API <small>{escape(taskforge.__version__)}</small></h1>"
        "<p>Send <code>Authorization: Bearer &lt;token&gt;</code> with every call that names a scope. "
        "Errors are <code>application/problem+json</code> with a stable <code>code</code>. "
        'The same as data: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{tables}</body></html>\n"
    ).encode()


def _table(tag: str, routes: list[Route]) -> str:
    rows = "".join(_row(route) for route in routes)
    head = "<tr><th>call</th><th>scope</th><th>does</th><th>answers</th></tr>"
    return f"<h2>{escape(tag.capitalize())}</h2><table>{head}{rows}</table>"


def _row(route: Route) -> str:
    names = [param.name for param in route.query]
    notes = f"<br><small>query: {escape(', '.join(names))}</small>" if names else ""
    if isinstance(route.body, JsonBody) and route.body.fields:
        members = ", ".join(entry.name + ("" if entry.required else "?") for entry in route.body.fields)
        notes += f"<br><small>body: {escape('{' + members + '}')}</small>"
    scope = "public" if route.scope is None else route.scope.name.lower()
    answers = ", ".join(str(status) for status in (*route.answers, *sorted({kind.status for kind in route.refusals})))
    return (
        f"<tr><td><code>{route.method} {escape(route.path)}</code></td><td>{scope}</td>"
        f"<td>{escape(route.summary)}{notes}</td><td>{answers}</td></tr>"
    )
