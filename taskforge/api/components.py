"""The JSON Schemas of what goes over the wire, as components of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from taskforge.api.apply_members import APPLY_WORKFLOWS, PLAN_WORKFLOWS
from taskforge.api.expression_calls import EVALUATE_EXPRESSION, EVALUATE_IN_RUN
from taskforge.api.members import (
    CANCEL_RUN,
    CHANGE_WORKFLOW,
    CREATE_TOKEN,
    NOTHING,
    PREVIEW_SCHEDULE,
    PRUNE_RUNS,
    REPLAY_DELIVERY,
    REPLAY_RUN,
    RETRY_RUN,
    SEND_SIGNAL,
    SET_HOLD,
    SET_STATE,
    START_RUN,
    START_RUNS,
)
from taskforge.api.route import JsonBody, Schema
from taskforge.api.schemas import ATTEMPT_STATES, STEP_STATES
from taskforge.api.value_members import PUT_SECRET, PUT_VAR, ROTATE_KEY, SEND_WEBHOOK, VERIFY_WEBHOOK
from taskforge.core.states import DeadLetterState, RunState, StepState

_TEXT: Schema = {"type": "string"}
_WHOLE: Schema = {"type": "integer"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_FLAG: Schema = {"type": "boolean"}
_ANY: Schema = {}
_TIME: Schema = {"type": "string", "format": "date-time", "examples": ["2026-11-23T02:37:01.123Z"]}
_MAYBE_TEXT: Schema = {"type": ["string", "null"]}
_MAYBE_WHOLE: Schema = {"type": ["integer", "null"]}
_MAYBE_TIME: Schema = {"type": ["string", "null"], "format": "date-time"}


def _words(words: tuple[str, ...]) -> Schema:
    return {"type": "string", "enum": [str(word) for word in words]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _object(properties: dict[str, Schema], *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required}


def _page(name: str) -> Schema:
    return _object({"items": _list(_ref(name)), "next_cursor": _MAYBE_TEXT})


def _body(body: JsonBody) -> Schema:
    properties = {entry.name: {"description": entry.doc} | entry.schema for entry in body.fields}
    schema: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    required = [entry.name for entry in body.fields if entry.required]
    least: Schema = {"minProperties": 1} if body.at_least_one else {}
    return schema | least | ({"required": required} if required else {})


_PROBLEM_ITEM = _object({"file": _TEXT, "path": _TEXT, "line": _WHOLE, "column": _WHOLE, "message": _TEXT,
                         "hint": _TEXT}, "file", "line", "column", "hint")  # fmt: skip
_FAILURE = _object({"code": _TEXT, "message": _TEXT, "step": _TEXT, "attempt": _WHOLE, "detail": {"type": "object"}},
                   "step", "attempt", "detail")  # fmt: skip
_STARTED = {"id": _TEXT, "number": _WHOLE, "state": _words(tuple(RunState))}
_SUMMARY: dict[str, Schema] = {
    "id": _TEXT,
    "number": _WHOLE,
    "workflow": _TEXT,
    "version": _WHOLE,
    "state": _words(tuple(RunState)),
    "trigger": {"type": "object"},
    "input": _ANY,
    "output": _ANY,
    "error": _maybe(_ref("Failure")),
    "created_at": _TIME,
    "started_at": _MAYBE_TIME,
    "finished_at": _MAYBE_TIME,
    "generation": _WHOLE,
    "replay_of": _MAYBE_TEXT,
    "parent": _maybe(_object({"run": _TEXT, "step": _TEXT})),
}
_WORKFLOW: dict[str, Schema] = {
    "name": _TEXT,
    "version": _WHOLE,
    "enabled": _FLAG,
    "held": _FLAG,
    "description": _MAYBE_TEXT,
    "created_at": _TIME,
    "updated_at": _TIME,
}
_MEDIA = _words(("yaml", "json"))
_TOKEN: dict[str, Schema] = {
    "id": _TEXT,
    "name": _TEXT,
    "scopes": _list(_words(("read", "run", "write", "admin"))),
    "created_at": _TIME,
    "expires_at": _MAYBE_TIME,
}
_PAIRS = _list({"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2})
_DELIVERY: dict[str, Schema] = {
    "id": _TEXT,
    "workflow": _TEXT,
    "trigger": _TEXT,
    "version": _WHOLE,
    "state": _words(("ACCEPTED", "FILTERED", "DUPLICATE", "FAILED")),
    "received_at": _TIME,
    "method": _TEXT,
    "query": _PAIRS,
    "headers": _PAIRS,
    "body_bytes": _COUNT,
    "dedupe_key": _MAYBE_TEXT,
    "run": _maybe(_object({"id": _TEXT, "number": _WHOLE})),
    "duplicate_of": _MAYBE_TEXT,
    "replay_of": _MAYBE_TEXT,
    "error": _maybe(_object({"code": _TEXT, "message": _TEXT})),
}
_PLACE = _object({"block": _TEXT, "after": _MAYBE_TEXT})
_COUNTS: Schema = {"type": "object", "additionalProperties": _COUNT}


def components() -> dict[str, Any]:
    """Every named schema."""
    named: dict[str, Schema] = {
        "Problem": _object(
            {"type": _TEXT, "title": _TEXT, "status": _WHOLE, "code": _TEXT, "detail": _TEXT,
             "errors": _list(_ref("ProblemItem"))}, "errors")
        | {"description": "RFC 9457. `code` is stable; further members, such as `state`, say more."},
        "ProblemItem": _PROBLEM_ITEM,
        "Failure": _FAILURE,
        "Status": _object({"status": _TEXT, "held": _FLAG}, "held"),
        "Hold": _object({"held": _FLAG, "workflows": _list(_TEXT)}),
        "State": _object({"workflow": _TEXT, "state": {"type": "object"}}),
        "StateValue": _object({"key": _TEXT, "value": _ANY}),
        "Resumed": _object({"run": _TEXT, "step": _TEXT, "state": _words(tuple(RunState))}),
        "Decision": _object({"at": _TIME, "code": _TEXT, "message": _TEXT, "current": _FLAG, "step": _TEXT,
                             "attempt": _WHOLE, "generation": _WHOLE, "until": _TIME, "signal": _TEXT,
                             "holder": _TEXT, "error": _TEXT},
                            "step", "attempt", "generation", "until", "signal", "holder", "error"),
        "Why": _object(_STARTED | {"workflow": _TEXT, "items": _list(_ref("Decision")), "next_cursor": _MAYBE_TEXT}),
        "Document": {"type": "object"},
        "WorkflowDocument": {"description": "As contracts/workflow.schema.json has it; errors have their place."},
        "Stats": _object({
            "runs": _COUNTS | {"required": [str(state) for state in RunState]},
            "steps": _COUNTS | {"required": [str(state) for state in StepState]},
            "ready_steps": _COUNT,
            "oldest_ready_s": {"type": ["number", "null"]},
            "dead_letters": _COUNT,
            "schedules_overdue": _COUNT,
            "held": _FLAG,
            "held_workflows": _COUNT,
            "db_bytes": _COUNT,
            "wal_bytes": _COUNT,
            "retention": _object({"runs": _COUNT, "freed_bytes": _COUNT, "last_at": _MAYBE_TIME}),
        }),
        "Backup": _object({"file": _TEXT, "bytes": _COUNT, "taken_at": _TIME}),
        "Pruned": _object({"runs": _COUNT, "freed_bytes": _COUNT, "dry_run": _FLAG, "more": _FLAG}),
        "Vacuumed": _object({"before_bytes": _COUNT, "after_bytes": _COUNT, "free_bytes": _COUNT}),
        "Published": _object({"name": _TEXT, "version": _WHOLE, "changed": _FLAG,
                              "warnings": _list(_ref("ProblemItem"))}, "warnings"),
        "Validation": _object({"valid": _FLAG, "errors": _list(_ref("ProblemItem")),
                               "warnings": _list(_ref("ProblemItem"))}),
        "Applied": _object({
            "items": _list(_object({"name": _TEXT, "version": _WHOLE, "changed": _FLAG,
                                    "action": _words(("new", "changed", "unchanged"))})),
            "deleted": _list(_TEXT),
            "warnings": _list(_ref("ProblemItem")),
        }),
        "Plan": _object({
            "changes": _FLAG,
            "summary": _object({action: _COUNT for action in ("new", "changed", "unchanged", "deleted")}),
            "workflows": _list(_ref("WorkflowPlan")),
            "missing": _object({noun: _list(_object({"name": _TEXT, "workflows": _list(_TEXT)}))
                                for noun in ("secrets", "vars", "workflows")}),
            "hosts": _list(_object({"host": _TEXT, "workflows": _list(_TEXT)})),
            "computed_hosts": _list(_TEXT),
            "warnings": _list(_ref("ProblemItem")),
            "expected": _COUNTS,
        }),
        "WorkflowPlan": _object({
            "name": _TEXT,
            "action": _words(("new", "changed", "unchanged", "deleted")),
            "file": _MAYBE_TEXT,
            "version": _MAYBE_WHOLE,
            "new_version": _MAYBE_WHOLE,
            "enabled": _FLAG,
            "returns": _FLAG,
            "sha256": _MAYBE_TEXT,
            "differences": _list(_ref("Difference")),
            "triggers": _list(_object({"name": _TEXT, "change": _words(("added", "removed", "changed")),
                                       "settings": _ANY})),
            "firings": _list(_object({"trigger": _TEXT, "old": _maybe(_ref("Firing")), "new": _maybe(_ref("Firing"))})),
            "runs": _object({
                "total": _COUNT,
                "counts": _list(_object({"version": _WHOLE, "state": _words(tuple(RunState)), "runs": _COUNT})),
                "names": _list(_TEXT),
            }),
        }),
        "Difference": _object({"change": _words(("added", "removed", "moved", "changed")), "path": _TEXT,
                               "step": _TEXT, "kind": _TEXT, "old": _ANY, "new": _ANY,
                               "old_place": _PLACE, "new_place": _PLACE},
                              "step", "kind", "old", "new", "old_place", "new_place"),
        "Firing": _object({"at": _MAYBE_TIME, "local": _MAYBE_TEXT, "timezone": _TEXT, "schedule": _TEXT}),
        "Workflow": _object(_WORKFLOW),
        "WorkflowDetail": _object(_WORKFLOW | {"media": _MEDIA, "source": _TEXT}),
        "WorkflowPage": _page("Workflow"),
        "Version": _object({"workflow": _TEXT, "version": _WHOLE, "media": _MEDIA, "source": _TEXT,
                            "created_at": _TIME}),
        "VersionPage": _page("Version"),
        "Started": _object(dict(_STARTED)),
        "StartedMany": _object({"ids": _list(_TEXT)}),
        "StartedOrRun": {"anyOf": [_ref("Run"), _ref("Started")]},
        "RunSummary": _object(_SUMMARY),
        "RunPage": _page("RunSummary"),
        "Run": _object(_SUMMARY | {"steps_total": _COUNT, "steps": _list(_ref("Step")), "steps_cursor": _MAYBE_TEXT}),
        "Step": _object({"path": _TEXT, "id": _TEXT, "kind": _TEXT, "state": _words(STEP_STATES),
                         "generation": _WHOLE, "signal": _MAYBE_TEXT, "child": _MAYBE_TEXT, "output": _ANY,
                         "error": _maybe(_ref("Failure")), "available_at": _MAYBE_TIME, "started_at": _MAYBE_TIME,
                         "finished_at": _MAYBE_TIME, "attempts": _list(_ref("Attempt"))}),
        "Attempt": _object({"id": _TEXT, "generation": _WHOLE, "number": _WHOLE, "state": _words(ATTEMPT_STATES),
                            "started_at": _TIME, "finished_at": _MAYBE_TIME, "error": _maybe(_ref("Failure"))}),
        "LogLine": _object({"id": _TEXT, "at": _TIME, "level": _words(("info", "warning", "error")), "message": _TEXT,
                            "step": _TEXT, "attempt": _WHOLE}, "step", "attempt"),
        "LogPage": _page("LogLine"),
        "DeadLetter": _object({"id": _TEXT, "state": _words(tuple(DeadLetterState)), "run_id": _TEXT,
                               "run_number": _WHOLE, "workflow": _TEXT, "path": _TEXT, "generation": _WHOLE,
                               "input": _ANY, "error": _ref("Failure"), "created_at": _TIME,
                               "closed_at": _MAYBE_TIME}),
        "DeadLetterPage": _page("DeadLetter"),
        "Secret": _object({"name": _TEXT, "masked": _FLAG, "source": _TEXT, "created_at": _MAYBE_TIME,
                           "updated_at": _MAYBE_TIME}),
        "SecretPage": _page("Secret"),
        "Var": _object({"name": _TEXT, "value": _ANY, "created_at": _TIME, "updated_at": _TIME}),
        "VarPage": _page("Var"),
        "Verdict": _object({"valid": _FLAG, "code": _TEXT, "reason": _TEXT, "delivery_id": _MAYBE_TEXT}),
        "ScheduleSlot": _object({"at": _TIME, "local": _TEXT, "latest": _TIME, "note": _TEXT}, "latest", "note"),
        "SchedulePreview": _object({"items": _list(_ref("ScheduleSlot")), "remarks": _list(_TEXT)}),
        "Evaluated": _object({"results": {"type": "array"}}),
        "Delivery": _object(_DELIVERY),
        "DeliveryPage": _page("Delivery"),
        "DeliveryDetail": _object(_DELIVERY | {"body": _MAYBE_TEXT, "body_b64": _MAYBE_TEXT}),
        "Delivered": _object({"id": _TEXT, "number": _WHOLE, "delivery": _TEXT}),
        "Filtered": _object({"delivery": _TEXT, "state": _words(("FILTERED",))}),
        "Sent": _object({"status": _WHOLE, "body": {}}),
        "DuplicateOrFiltered": {"anyOf": [_ref("Delivered"), _ref("Filtered"), {}]},
        "Schedule": _object({
            "workflow": _TEXT, "trigger": _TEXT, "cron": _MAYBE_TEXT, "at": _MAYBE_TEXT, "timezone": _TEXT,
            "catch_up": _words(("latest", "all", "none")), "enabled": _FLAG, "held": _FLAG, "next_slot": _MAYBE_TIME,
            "next_at": _MAYBE_TIME, "last_slot": _MAYBE_TIME, "missed": _COUNT, "overdue": _FLAG,
            "overdue_s": {"type": "number"}, "decisions": _list(_ref("SlotDecision")),
        }),
        "SchedulePage": _page("Schedule"),
        "SlotDecision": _object({"slot": _TIME, "until": _TIME, "slots": _COUNT, "at_least": _FLAG, "code": _TEXT,
                                 "at": _TIME, "run": _MAYBE_TEXT,
                                 "error": _maybe(_object({"code": _TEXT, "message": _TEXT}))}),
        "KeyRotated": _object({"key_id": _TEXT, "previous_key_id": _TEXT, "resealed": _COUNT}),
        "AuditPage": _page("AuditEntry"),
        "AuditEntry": _object({"id": _WHOLE, "at": _TIME, "actor": _TEXT, "token": _MAYBE_TEXT, "action": _TEXT,
                               "target": _TEXT, "outcome": _TEXT, "address": _MAYBE_TEXT,
                               "detail": {"type": "object"}}),
        "Token": _object(_TOKEN),
        "TokenPage": _page("Token"),
        "NewToken": _object(_TOKEN | {"token": _TEXT}),
    }  # fmt: skip
    bodies = (START_RUN, START_RUNS, CHANGE_WORKFLOW, CANCEL_RUN, RETRY_RUN, REPLAY_RUN, REPLAY_DELIVERY, SEND_SIGNAL,
              SET_HOLD, PRUNE_RUNS, SET_STATE, NOTHING, CREATE_TOKEN, PUT_SECRET, PUT_VAR, ROTATE_KEY, SEND_WEBHOOK,
              VERIFY_WEBHOOK, PREVIEW_SCHEDULE, PLAN_WORKFLOWS, APPLY_WORKFLOWS, EVALUATE_EXPRESSION,
              EVALUATE_IN_RUN)  # fmt: skip
    for body in bodies:
        named[body.schema_name] = _body(body)
    return dict(sorted(named.items()))
