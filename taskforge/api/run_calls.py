"""Runs: start, batch, list, show, cancel, retry, replay, signal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal

import orjson
from starlette.responses import Response, StreamingResponse

from taskforge.api.access import chosen_workflows
from taskforge.api.auth import CONFIG
from taskforge.api.call import Call, json_response
from taskforge.api.members import SIGNAL_NAME
from taskforge.api.paging import fetch_each, page
from taskforge.api.query import RUNS, STEPS, encode_cursor
from taskforge.api.schemas import run_shape, started_shape, steps_shape, with_pending
from taskforge.core.errors import InvalidRequest
from taskforge.core.problem import Problem, quoted
from taskforge.core.states import RUN_TERMINAL
from taskforge.engine.starting import StartRequest
from taskforge.store.protocol import RunFilter, RunRow, RunRows

STEPS_PAGE = 500
_LONGEST_KEY = 255


async def start_run(call: Call) -> Response:
    """Start a run. On a 2xx answer it is on disk and will end."""
    members = call.members
    key = _find_key(call)
    request = StartRequest(
        call.params["name"],
        members.get("input"),
        version=members.get("version"),
        delay_ms=members.get("delay"),
        priority=members.get("priority"),
        idempotency_key=key,
        request_hash=None if key is None else _hash_request(members),
        trigger=_trigger(call),
    )
    wait = call.asked.get("wait")
    if wait is None:
        started = await call.service.start_run(request)
        return json_response(started_shape(started), 202 if started.created else 200, f"/v1/runs/{started.id}")
    started, rows = await call.service.start_and_wait(request, wait, call.leaving)
    where = f"/v1/runs/{started.id}"
    if rows is None:
        return await _show(call, started.id, None, where)
    return json_response(_whole(rows), 200, where)


async def start_runs(call: Call) -> Response:
    """Start one run for each input, in one transaction: all or none. An Idempotency-Key stands for the whole batch."""
    members = call.members
    key = _find_key(call)
    request = StartRequest(
        call.params["name"],
        version=members.get("version"),
        priority=members.get("priority"),
        idempotency_key=key,
        request_hash=None if key is None else _hash_request(members),
        trigger=_trigger(call),
    )
    started = await call.service.start_runs(request, members["inputs"])
    created = not started or started[0].created
    return json_response({"ids": [one.id for one in started]}, 202 if created else 200)


async def list_runs(call: Call) -> Response:
    """Runs, newest first, without their steps."""
    asked, workflows = call.asked, chosen_workflows(call)

    async def fetch(cursor: Any, limit: int) -> list[RunRow]:
        chosen = RunFilter(
            states=asked.get("state", ()),
            trigger_type=asked.get("trigger"),
            since=asked.get("since"),
            until=asked.get("until"),
            cursor=cursor,
            limit=limit,
        )

        async def of(workflow: str | None) -> list[RunRow]:
            return await call.service.list_runs(replace(chosen, workflow=workflow))

        return await fetch_each(workflows, of, lambda row: row.key, limit)

    return await page(call, RUNS, fetch, lambda row: row.key, run_shape)


async def get_run(call: Call) -> Response:
    """A run by id or `name#number`, with its steps and their attempts."""
    wait = call.asked.get("wait")
    if wait is not None:
        await wait_for_end(call, call.params["run"], wait)
    return await _show(call, call.params["run"], call.asked.get("steps"), None)


async def cancel_run(call: Call) -> Response:
    """Ask a run to end. Attempts in flight are stopped."""
    row = await call.service.cancel_run(call.params["run"], call.members.get("reason"))
    return json_response(run_shape(row), 202)


async def retry_run(call: Call) -> Response:
    """Take a run up at the steps that failed, or at `from_step`; what came before is kept, and so are old attempts."""
    row = await call.service.retry_run(call.params["run"], call.members.get("from_step"))
    return json_response(run_shape(row), 202)


async def replay_run(call: Call) -> Response:
    """Start a new run with another one's input, or an edited one, on its version or any other."""
    members = call.members
    key = _find_key(call)
    started = await call.service.replay_run(
        call.params["run"],
        version=members.get("version"),
        input=members.get("input"),
        with_input="input" in members,
        key=None if key is None else (key, _hash_request(members)),
    )
    return json_response(started_shape(started), 202 if started.created else 200, f"/v1/runs/{started.id}")


async def send_signal(call: Call) -> Response:
    """Send a signal. A step that waits for it goes on; else it is kept until one does."""
    name = call.params["signal"]
    if not SIGNAL_NAME.fullmatch(name):
        message = "a signal's name has at most 128 characters, no spaces and no /, and does not begin with !"
        raise InvalidRequest(f"{quoted(name)} names no signal: {message}", problems=[Problem("signal", message)])
    row = await call.service.send_signal(call.params["run"], name, call.members.get("data"))
    return json_response(run_shape(row), 202)


# ---- one run


async def wait_for_end(call: Call, ref: str, timeout_ms: int) -> None:
    """Wait for the end of a run, or until the caller goes away or the server shuts down."""
    await call.service.wait_run(ref, timeout_ms, call.leaving)


def _whole(rows: RunRows) -> dict[str, Any]:
    """A run that has ended, with all its steps."""
    steps = steps_shape(rows.steps, rows.attempts)
    return run_shape(rows.run) | {"steps_total": len(steps), "steps": steps, "steps_cursor": None}


async def _show(call: Call, ref: str, chosen: str | None, location: str | None) -> Response:
    kind: Literal["none", "failed", "all"] = "all" if chosen is None else chosen  # type: ignore[assignment]
    after = call.asked.get("steps_cursor")
    limit = call.asked.get("limit", STEPS_PAGE)
    head, steps, following = await _steps(call, ref, kind, after, limit)
    if chosen is None or following is None or "limit" in call.asked:
        shape = head | {"steps": steps, "steps_cursor": following and encode_cursor(STEPS, following)}
        return json_response(shape, 200, location)
    headers = None if location is None else {"Location": location}
    return StreamingResponse(_every_step(call, head, steps, following, kind), 200, headers, "application/json")


async def _steps(
    call: Call,
    ref: str,
    kind: Literal["none", "failed", "all"],
    after: str | None,
    limit: int,
) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
    """The run, one page of its steps, and the path after which the next page begins."""
    rows, total, following = await call.service.get_run(ref, steps=kind, cursor=after, limit=limit)
    steps = steps_shape(rows.steps, rows.attempts)
    state = rows.run.record.state
    if kind == "all" and state not in RUN_TERMINAL:
        plan = await call.service.get_plan(rows.run.workflow, rows.run.version)
        steps = with_pending(steps, state, plan, after, following)
    return run_shape(rows.run) | {"steps_total": total}, steps, following


async def _every_step(
    call: Call,
    head: dict[str, Any],
    steps: list[dict[str, Any]],
    following: str,
    kind: Literal["none", "failed", "all"],
) -> AsyncIterator[bytes]:
    """The run with all its steps, page by page, so that memory stays flat."""
    yield orjson.dumps(head)[:-1] + b',"steps":['
    after: str | None = following
    separator = b""
    while True:
        if steps:
            yield separator + orjson.dumps(steps)[1:-1]
            separator = b","
        if after is None:
            break
        _, steps, after = await _steps(call, head["id"], kind, after, STEPS_PAGE)
    yield b'],"steps_cursor":null}'


def _trigger(call: Call) -> dict[str, str]:
    """Who has started a run: the token's name and id, unless it is the configuration's."""
    principal = call.principal
    if principal is None or principal.id == CONFIG:
        return {"type": "manual"}
    return {"type": "manual", "by": principal.name, "token": principal.id}


# ---- the Idempotency-Key


def _find_key(call: Call) -> str | None:
    raw = call.header(b"idempotency-key")
    if raw is None:
        return None
    key = raw.decode("latin-1").strip()
    if not 1 <= len(key) <= _LONGEST_KEY or not key.isascii() or not key.isprintable():
        message = f"it must have 1 to {_LONGEST_KEY} printable ASCII characters"
        raise InvalidRequest(
            f"the header Idempotency-Key is wrong: {message}", problems=[Problem("Idempotency-Key", message)]
        )
    return key


def _hash_request(members: dict[str, Any]) -> str:
    """The same for the same request, however its JSON was written."""
    said = {name: value for name, value in members.items() if value not in (None, {}) or name != "input"}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
