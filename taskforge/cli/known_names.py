"""Names for completion that a server or the home knows: which parameter means which names, and where they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import click

from taskforge.cli.command import Session
from taskforge.cli.completing import Candidate

_MOST = 200
_UNFINISHED = "QUEUED,RUNNING,WAITING"
# Where a command is for some runs only: their states.
_STATES: Mapping[tuple[str, ...], str] = {
    ("runs", "cancel"): _UNFINISHED,
    ("runs", "signal"): _UNFINISHED,
    ("runs", "retry"): "FAILED,CANCELLED",
}


class Asked(NamedTuple):
    """What is being completed: the command's path, its arguments so far, and the unfinished word."""

    session: Session
    path: tuple[str, ...]
    words: tuple[str, ...]
    unfinished: str


Source = Callable[[Asked], Iterable[Candidate]]


def source_of(path: tuple[str, ...], param: click.Parameter) -> Source | None:
    """Where the values of this parameter are known; None where they are not."""
    name, group = param.name or "", path[0] if path else ""
    metavar = (param.metavar or name).strip("[].").upper()
    if isinstance(param, click.Option):
        if path[:2] == ("trigger",) or (name == "trigger" and group == "runs"):
            return None
        return _OPTIONS.get(name)
    if metavar in ("RUN", "RUNS") or name in ("run", "reference", "references"):
        return list_runs
    if metavar in ("WORKFLOW", "WORKFLOWS") or name == "workflow" or group == "workflow":
        return list_workflows
    if metavar == "WORKFLOW/TRIGGER":
        return list_triggers
    if metavar in ("STEP", "PATH"):
        return list_steps
    if metavar in ("KEY", "KEYS") and group == "state":
        return list_state_keys
    return _GROUPS.get(group) if metavar in ("ID", "IDS", "NAME", "NAMES", "IDENTIFIER", "IDENTIFIERS") else None


def list_workflows(asked: Asked) -> Iterable[Candidate]:
    for item in asked.session.client.get("workflows", limit=_MOST)["items"]:
        yield Candidate(item["name"], item.get("description") or f"version {item['version']}")


def list_runs(asked: Asked) -> Iterable[Candidate]:
    workflow, hash_, _ = asked.unfinished.partition("#")
    states = _STATES.get(asked.path[:2])
    found = asked.session.client.get("runs", workflow=workflow if hash_ else None, state=states, limit=_MOST)
    for run in found["items"]:
        yield Candidate(f"{run['workflow']}#{run['number']}", run["state"])


def list_steps(asked: Asked) -> Iterable[Candidate]:
    if asked.words:
        run = asked.session.client.get("runs", asked.words[0], steps="all")
        for step in run["steps"]:
            yield Candidate(step["path"], step["state"])


def list_triggers(asked: Asked) -> Iterable[Candidate]:
    workflow, slash, _ = asked.unfinished.partition("/")
    if not slash:
        for found in list_workflows(asked):
            yield Candidate(f"{found.text}/", found.about, "open")
        return
    from taskforge.core.document import parse_document

    found = asked.session.client.get("workflows", workflow)
    triggers = parse_document(found["source"].encode(), found["media"]).value.get("triggers") or {}
    for name, trigger in triggers.items():
        if isinstance(trigger, dict) and trigger.get("webhook"):
            yield Candidate(f"{workflow}/{name}")


def list_state_keys(asked: Asked) -> Iterable[Candidate]:
    if asked.words:
        for key in asked.session.client.get("workflows", asked.words[0], "state")["state"]:
            yield Candidate(key)


def list_versions(asked: Asked) -> Iterable[Candidate]:
    if asked.words:
        name = asked.words[0].partition("#")[0]
        for item in asked.session.client.get("workflows", name, "versions", limit=_MOST)["items"]:
            yield Candidate(str(item["version"]), item["created_at"])


def list_profiles(asked: Asked) -> Iterable[Candidate]:
    """Of this machine: no server is asked."""
    from taskforge.config.profiles import load_profiles

    for name, profile in sorted(load_profiles(asked.session.screen.environ).known.items()):
        yield Candidate(name, profile.server)


def _listed(kind: str, key: str, *about: str, **query: Any) -> Source:
    def find(asked: Asked) -> Iterable[Candidate]:
        limit = {} if kind in ("secrets", "vars", "tokens") else {"limit": _MOST}
        for item in asked.session.client.get(kind, **limit, **query)["items"]:
            words = [str(item.get(name) or "") for name in about]
            yield Candidate(str(item[key]), " ".join(filter(None, words)))

    return find


_GROUPS: Mapping[str, Source] = {
    "secret": _listed("secrets", "name"),
    "var": _listed("vars", "name"),
    "token": _listed("tokens", "id", "name"),
    "profile": list_profiles,
    "dead": _listed("dead-letters", "id", "workflow", "path", state="OPEN"),
    "deliveries": _listed("deliveries", "id", "workflow", "state"),
}
_OPTIONS: Mapping[str, Source] = {
    "workflow": list_workflows,
    "number": list_versions,
    "version": list_versions,
    "from_step": list_steps,
    "profile": list_profiles,
}
