"""A plan in words, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from taskforge.cli.render import Paint, Screen
from taskforge.cli.shown import encode
from taskforge.core.problem import format_path

_SIGNS = {"new": Paint("+", "green"), "changed": Paint("~", "yellow"), "deleted": Paint("-", "red")}
_CHANGES = {
    "added": Paint("+", "green"),
    "removed": Paint("-", "red"),
    "changed": Paint("~", "yellow"),
    "moved": Paint(">", "blue"),
}
_WIDEST = 120
_CONTEXT = 20
_NOUNS = (("secrets", "secret"), ("vars", "var"), ("workflows", "workflow"))

Plan = dict[str, Any]


def tell_plan(screen: Screen, plan: Plan) -> None:
    """Every workflow that changes, then what all of them need, then the count."""
    for one in plan["workflows"]:
        if one["action"] != "unchanged":
            _tell_workflow(screen, one)
    _tell_needs(screen, plan)
    if plan["changes"]:
        screen.line("")
    counts = plan["summary"]
    if not plan["changes"]:
        workflows = f"{counts['unchanged']} workflow{'' if counts['unchanged'] == 1 else 's'}"
        screen.line(f"No changes: the server has {workflows} as given.")
        return
    told = ", ".join(f"{counts[action]} {action}" for action in ("new", "changed", "deleted", "unchanged"))
    screen.line(Paint("Plan:", "bold"), f" {told}.")


def _tell_workflow(screen: Screen, one: Plan) -> None:
    screen.paragraph(_SIGNS[one["action"]], " ", Paint(one["name"], "bold"), f"  {_fate(one)}", hang=4)
    for sign, text in _lines(one):
        screen.paragraph("    ", sign, " ", text, hang=8)


def _fate(one: Plan) -> str:
    """What becomes of the workflow as a whole."""
    file = f"  ({one['file']})" if one["file"] else ""
    if one["action"] == "deleted":
        return f"deleted at version {one['version']}; it comes back when it is applied again"
    if one["action"] == "new":
        back = "comes back as" if one["returns"] else "new,"
        return f"{back} version {one['new_version']}{file}"
    off = "  disabled: it starts no run until it is enabled" if not one["enabled"] else ""
    return f"version {one['version']} → {one['new_version']}{file}{off}"


def _lines(one: Plan) -> Iterator[tuple[Paint, str]]:
    whole = [trigger for trigger in one["triggers"] if trigger["change"] != "changed"]
    told = {"triggers", *(format_path(("triggers", trigger["name"])) for trigger in whole)}
    for trigger in whole:
        yield _CHANGES[trigger["change"]], f"trigger {trigger['name']}: {_trigger(one['name'], trigger)}"
    for each in one["differences"]:
        if "step" in each or each["path"] not in told:
            yield _CHANGES[each["change"]], _difference(each)
    for move in one["firings"]:
        yield Paint("·", "cyan"), _firing(move)
    if one["runs"]["total"]:
        yield Paint("·", "cyan"), _runs(one)


def _difference(each: Plan) -> str:
    step = each.get("step")
    if step is None:
        return f"{each['path']}: {_values(each)}"
    if each["path"]:
        return f"step {step}: {each['path']}: {_values(each)}"
    if each["change"] == "moved":
        return f"step {step} moves from {_place(each['old_place'])} to {_place(each['new_place'])}"
    place = each.get("new_place") or each["old_place"]
    return f"step {step} ({each['kind']}) {_place(place)}"


def _place(place: Plan) -> str:
    inside = "" if place["block"] == "steps" else f" in {place['block']}"
    return f"after {place['after']}{inside}" if place["after"] else f"first{inside or ' of all'}"


def _values(each: Plan) -> str:
    if "old" in each and "new" in each:
        return " → ".join(_apart(encode(each["old"], None), encode(each["new"], None)))
    return _short(encode(each.get("old", each.get("new")), None))


def _apart(old: str, new: str) -> tuple[str, str]:
    """Two texts, cut so that what is different is seen."""
    if max(len(old), len(new)) <= _WIDEST:
        return old, new
    same = next((at for at, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
    begin = max(0, same - _CONTEXT)
    lead = "…" if begin else ""
    return lead + _short(old[begin:]), lead + _short(new[begin:])


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _trigger(workflow: str, trigger: Plan) -> str:
    settings = trigger["settings"] or {}
    if "webhook" in settings:
        return f"webhook at /hooks/{workflow}/{trigger['name']}"
    if "on_run" in settings:
        return f"when a run of {settings['on_run']['workflow']} ends"
    if "manual" in settings:
        return "by hand"
    return f"{settings.get('cron') or settings.get('at')} ({settings.get('timezone') or 'UTC'})"


def _firing(move: Plan) -> str:
    old, new = move["old"], move["new"]
    if old is None:
        return f"{move['trigger']} fires first: {_moment(new)}"
    if new is None:
        return f"{move['trigger']} would have fired next: {_moment(old)}; it fires no more"
    return f"{move['trigger']} fires next: {_moment(old)} → {_moment(new)}"


def _moment(firing: Plan) -> str:
    if firing["local"] is None:
        return "never"
    day, _, time = firing["local"].partition("T")
    shown = time[:5] if time[5:8] == ":00" else time[:8]
    return f"{day} {shown} {firing['timezone']}"


def _runs(one: Plan) -> str:
    runs = one["runs"]
    versions = sorted({each["version"] for each in runs["counts"]})
    states: dict[str, int] = {}
    for each in runs["counts"]:
        states[each["state"]] = states.get(each["state"], 0) + each["runs"]
    count = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
    named = ", ".join(runs["names"]) + (", …" if runs["total"] > len(runs["names"]) else "")
    if one["action"] != "changed":
        return f"runs that go on to their ends: {count} ({named})"
    return f"runs that stay on version {', '.join(map(str, versions))}: {count} ({named})"


def _tell_needs(screen: Screen, plan: Plan) -> None:
    missing = [(word, item) for noun, word in _NOUNS for item in plan["missing"][noun]]
    if missing:
        screen.line("")
        screen.line(Paint("Missing on the server:", "yellow"))
        for word, item in missing:
            name = f"{word} {item['name']}"
            screen.paragraph("    ", Paint(name, "bold"), f"  for {_listed(item['workflows'])}", hang=8)
    if plan["hosts"] or plan["computed_hosts"]:
        screen.line("")
        screen.line(Paint("Called for the first time:", "cyan"))
        for item in plan["hosts"]:
            screen.paragraph("    ", Paint(item["host"], "bold"), f"  by {_listed(item['workflows'])}", hang=8)
        if plan["computed_hosts"]:
            screen.paragraph("    ", f"computed hosts (known when they run): {_listed(plan['computed_hosts'])}", hang=8)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f", and {len(names) - 10} more" if len(names) > 10 else "")
