"""The pages behind a one-time link: what it resumes and a form for it, and what came of it. No script, nothing fetched.

A form is made of the signal's JSON Schema where that is an object with plain properties; what came back is read by the
same schema, since a form knows texts only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskforge.api.html_text import escape
from taskforge.core.jsontext import JsonError, dumps, loads
from taskforge.core.problem import Problem, format_problem

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 36rem; margin: 3rem auto; padding: 0 1rem; }
label { display: block; margin: 1rem 0; } span { display: block; font-weight: 600; }
small { display: block; opacity: 0.75; } .wrong { color: #c22; }
input, select, textarea, button { font: inherit; padding: 0.4rem 0.6rem; box-sizing: border-box; }
input[type=text], textarea { width: 100%; }
"""
_FIELD = "data"
"""The name of the one field of a form whose schema has no plain properties."""


def resume_page(
    run: str, step: str, schema: Any, wrong: Sequence[Problem] = (), given: Mapping[str, str] | None = None
) -> bytes:
    """The page that asks for confirmation; `wrong` says why what was `given` was refused."""
    fields = "".join(_field(name, rule, name in _required(schema), (given or {}).get(name))
                     for name, rule in form_properties(schema).items())  # fmt: skip
    faults = "".join(f'<p class="wrong">{escape(format_problem(problem))}</p>' for problem in wrong)
    body = (
        f"<h1>Resume {escape(step)}?</h1><p>The run {escape(run)} waits at its step {escape(step)}. "
        "This link can be used once.</p>"
        f'{faults}<form method="post">{fields}<button>Resume</button></form>'
    )
    return _page(f"Resume {step}", body)


def outcome_page(title: str, message: str) -> bytes:
    """What came of it."""
    return _page(title, f"<h1>{escape(title)}</h1><p>{escape(message)}</p>")


def _page(title: str, body: str) -> bytes:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex">'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    ).encode()


# ---- forms


def form_properties(schema: Any) -> dict[str, Any]:
    """The fields of a schema's form by name; one for the whole value where it is no object with properties."""
    if not isinstance(schema, dict):
        return {}
    properties = schema.get("properties")
    if isinstance(properties, dict) and properties and _types(schema) in ([], ["object"]):
        return {name: rule if isinstance(rule, dict) else {} for name, rule in properties.items()}
    return {_FIELD: schema}


def read_form(schema: Any, fields: Sequence[tuple[str, str]]) -> Any:
    """The value that a form's fields stand for. What does not fit its type stays text, for the schema to refuse."""
    properties = form_properties(schema)
    found: dict[str, Any] = {}
    for name, text in fields:
        rule = properties.get(name, {})
        if text == "" and name in properties and "string" not in _types(rule):
            continue
        value = _value(rule, text)
        if "array" in _types(rule) and not isinstance(value, list):
            value = [*found.get(name, []), value]
        found[name] = value
    if list(properties) == [_FIELD] and properties[_FIELD] is schema:
        return found.get(_FIELD)
    return found or None if schema is None else found


def _value(rule: Mapping[str, Any], text: str) -> Any:
    types = _types(rule)
    if "boolean" in types and text.lower() in _FLAGS:
        return _FLAGS[text.lower()]
    if not types or "string" in types:
        return _listed(rule, text)
    try:
        return loads(text)
    except JsonError:
        return text


_FLAGS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def _listed(rule: Mapping[str, Any], text: str) -> Any:
    """A choice of an `enum` of any type by its text; else the text."""
    choices = rule.get("enum")
    if isinstance(choices, list) and text not in choices:
        return next((choice for choice in choices if dumps(choice) == text), text)
    return text


def _types(rule: Mapping[str, Any]) -> list[str]:
    given = rule.get("type")
    return [given] if isinstance(given, str) else list(given) if isinstance(given, list) else []


def _required(schema: Any) -> list[Any]:
    wanted = schema.get("required") if isinstance(schema, dict) else None
    return wanted if isinstance(wanted, list) else []


def _field(name: str, rule: Mapping[str, Any], required: bool, given: str | None) -> str:
    label = escape(str(rule.get("title") or name))
    note = f"<small>{escape(str(rule['description']))}</small>" if rule.get("description") else ""
    mark = " required" if required else ""
    shown = given if given is not None else _text(rule.get("default"))
    return f"<label><span>{label}</span>{_control(escape(name), rule, mark, shown)}{note}</label>"


def _control(name: str, rule: Mapping[str, Any], mark: str, shown: str) -> str:
    types = _types(rule)
    choices = rule.get("enum") if isinstance(rule.get("enum"), list) else None
    if choices is None and "boolean" in types:
        choices = [True, False]
    if choices is not None:
        texts = ["" if mark == "" else None, *map(_text, choices)]
        options = "".join(
            f'<option value="{escape(text)}"{" selected" if text == shown else ""}>{escape(_said(text))}</option>'
            for text in texts
            if text is not None
        )
        return f'<select name="{name}"{mark}>{options}</select>'
    if "integer" in types or "number" in types:
        step = "1" if "number" not in types else "any"
        return f'<input type="number" step="{step}" name="{name}" value="{escape(shown)}"{mark}>'
    if "object" in types or "array" in types or rule.get("maxLength", 0) > 200:
        return f'<textarea name="{name}" rows="4"{mark}>{escape(shown)}</textarea>'
    return f'<input type="text" name="{name}" value="{escape(shown)}"{mark}>'


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else dumps(value)


def _said(text: str) -> str:
    return {"true": "yes", "false": "no"}.get(text, text)
