"""The error tree. Every error a person can meet has a stable `code`; `contracts/errors.json` lists them all.

Two families: `TaskForgeError` is refused work (it becomes a problem answer or an exit code); `Failure` is plain data
about why a step or a run failed, stored with it and shown by the API.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from taskforge.core.problem import Problem
from taskforge.core.record import dataclass


class TaskForgeError(Exception):
    """Work that was refused. `status` is the HTTP status it answers with; nothing was changed."""

    code: ClassVar[str] = "INTERNAL"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, message: str, *, detail: dict[str, Any] | None = None, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail or {}
        self.problems = list(problems)


class NotFound(TaskForgeError):
    code, status, title = "NOT_FOUND", 404, "Not found"


class Conflict(TaskForgeError):
    """The state of the thing forbids the request."""

    code, status, title = "CONFLICT", 409, "Conflict"


class RunEnded(Conflict):
    """A terminal run cannot be cancelled; `detail.state` names the state."""

    code, title = "RUN_ENDED", "The run has ended"


class RunNotEnded(Conflict):
    """Only a run that has ended can be retried; `detail.state` names the state."""

    code, title = "RUN_NOT_ENDED", "The run has not ended"


class NothingToRetry(Conflict):
    code, title = "NOTHING_TO_RETRY", "Nothing to retry"


class RunUndone(Conflict):
    """The run's undo steps have run: it can only be replayed."""

    code, title = "UNDONE", "The run has been undone"


class StepUnknown(TaskForgeError):
    """The run has no such step that has begun."""

    code, status, title = "STEP_UNKNOWN", 422, "Unknown step"


class DeadLetterClosed(Conflict):
    """The dead letter was retried or discarded before; `detail.state` says which."""

    code, title = "DEAD_LETTER_CLOSED", "The dead letter is closed"


class WorkflowDisabled(Conflict):
    code, title = "WORKFLOW_DISABLED", "The workflow is disabled"


class WorkflowsMoved(Conflict):
    """A workflow has another version than was expected; `detail.moved` is a list of `{name, expected, version}`."""

    code, title = "WORKFLOWS_MOVED", "The workflows have changed meanwhile"

    @classmethod
    def of(cls, moved: Sequence[dict[str, Any]]) -> WorkflowsMoved:
        """The refusal, in words. A version 0 stands for a workflow that is not there."""
        words = [
            f"{each['name']} is {_found(each['version'])}, and was expected {_expected(each['expected'])}"
            for each in moved[:5]
        ]
        more = f", and {len(moved) - 5} more" if len(moved) > 5 else ""
        return cls(f"the server has changed meanwhile: {'; '.join(words)}{more}", detail={"moved": list(moved)})


def _found(version: int) -> str:
    return f"at version {version}" if version else "not there"


def _expected(version: int) -> str:
    return f"at version {version}" if version else "not to be there"


class StateConflict(Conflict):
    """A value of a workflow's state was not the expected one."""

    code, title = "STATE_CONFLICT", "The state has another value"


class ResumeLinkUsed(TaskForgeError):
    """The one-time link has been used, or the step that it resumes has ended."""

    code, status, title = "RESUME_LINK_USED", 410, "The link is used up"


class NameMismatch(TaskForgeError):
    code, status, title = "NAME_MISMATCH", 422, "The document has another name"


class IdempotencyMismatch(TaskForgeError):
    """The same Idempotency-Key came with another body."""

    code, status, title = "IDEMPOTENCY_MISMATCH", 422, "The Idempotency-Key was used with another body"


class InvalidRequest(TaskForgeError):
    """The request does not fit its schema; `problems` says where."""

    code, status, title = "INVALID_REQUEST", 422, "Invalid request"


class MalformedRequest(TaskForgeError):
    """The body or a parameter cannot be read at all."""

    code, status, title = "MALFORMED_REQUEST", 400, "Malformed request"


class InvalidDefinition(TaskForgeError):
    """The workflow document has errors; `problems` has all of them, each with its place."""

    code, status, title = "INVALID_DEFINITION", 422, "Invalid workflow document"


class InvalidInput(TaskForgeError):
    """The run's input does not fit the workflow's `inputs` schema."""

    code, status, title = "INVALID_INPUT", 422, "The input does not fit the workflow"


class InvalidExpression(TaskForgeError):
    """An expression that cannot be evaluated: `problems` says where it is wrong."""

    code, status, title = "INVALID_EXPRESSION", 422, "Invalid expression"


class ExpressionFailed(TaskForgeError):
    """An expression that gave an error, or passed a limit; `reason` is the code that a step would have failed with."""

    code, status, title = "EXPRESSION_FAILED", 422, "The expression failed"


class TooLarge(TaskForgeError):
    code, status, title = "TOO_LARGE", 413, "Too large"


class Unauthorized(TaskForgeError):
    code, status, title = "UNAUTHORIZED", 401, "Unauthorized"


class Forbidden(TaskForgeError):
    code, status, title = "FORBIDDEN", 403, "Forbidden"


class MethodNotAllowed(TaskForgeError):
    code, status, title = "METHOD_NOT_ALLOWED", 405, "Method not allowed"


class RequestTimeout(TaskForgeError):
    """The body took too long to arrive; nothing was done."""

    code, status, title = "REQUEST_TIMEOUT", 408, "Request timeout"


class HeadTooLarge(TaskForgeError):
    """The request line and headers pass their limit."""

    code, status, title = "HEAD_TOO_LARGE", 431, "Request head too large"


class UnsupportedMediaType(TaskForgeError):
    code, status, title = "UNSUPPORTED_MEDIA_TYPE", 415, "Unsupported media type"


class MisdirectedHost(TaskForgeError):
    """The Host header names no address of this server (DNS rebinding)."""

    code, status, title = "HOST_REFUSED", 421, "Host refused"


class LoopRefused(TaskForgeError):
    """Too many runs have led to this one: workflows start one another in a circle."""

    code, status, title = "LOOP_REFUSED", 409, "Workflows start one another in a circle"


class DeliveryRefused(TaskForgeError):
    """The delivery is stored as FAILED, and no run was started; `detail.delivery` names it."""

    code, status, title = "DELIVERY_FAILED", 422, "The delivery could not be used"


class DeliveryGone(Conflict):
    """The delivery's body is not kept any more."""

    code, title = "DELIVERY_GONE", "The delivery's body is gone"


class RespondFailed(TaskForgeError):
    """The run that was to make the answer did not succeed, or its `respond` failed; `detail` names the run."""

    code, status, title = "RESPOND_FAILED", 500, "The run gave no answer"


class SignatureRefused(TaskForgeError):
    """The sender of a delivery is not known by its signature; the log says why."""

    code, status, title = "SIGNATURE_REFUSED", 401, "The signature is not valid"


class TooManyRequests(TaskForgeError):
    code, status, title = "TOO_MANY_REQUESTS", 429, "Too many requests"


class Unavailable(TaskForgeError):
    """The store cannot take writes now; nothing was accepted. Try again."""

    code, status, title = "UNAVAILABLE", 503, "Unavailable"


class StoreFull(Unavailable):
    """The disk is full: nothing is accepted until there is space again."""

    code, status, title = "STORE_FULL", 507, "The disk is full"


class HookBusy(Unavailable):
    """Deliveries are not taken now: the disk is nearly full, or too many runs wait. Nothing was stored."""

    code, title = "HOOK_BUSY", "Deliveries are not taken now"


class ShuttingDown(Unavailable):
    code, title = "SHUTTING_DOWN", "The server is shutting down"


class StartupError(TaskForgeError):
    """The program cannot start or go on; one clear line, exit 1."""

    code, title = "STARTUP", "Cannot start"


class LeaseLost(Exception):
    """The run moved or the attempt's lease is gone: the change was not applied. Reload and decide again."""


class ScheduleMoved(Exception):
    """The schedule was decided on by somebody else, or is not active any more: nothing was done. Read it anew."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step, an attempt or a run failed, as stored and shown: `{code, message, step?, attempt?, detail?}`."""

    code: str
    message: str
    step: str | None = None
    attempt: int | None = None
    detail: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.step is not None:
            found["step"] = self.step
        if self.attempt is not None:
            found["attempt"] = self.attempt
        if self.detail:
            found["detail"] = self.detail
        return found

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Failure:
        return cls(
            value["code"], value["message"], value.get("step"), value.get("attempt"), value.get("detail") or None
        )


FAILURE_CODES: dict[str, str] = {
    "EXPRESSION_ERROR": "an expression of the step gave an error, or not exactly one result",
    "EXPRESSION_TIMEOUT": "an expression ran longer than its time limit and was stopped",
    "EXPRESSION_MEMORY": "an expression passed its memory limit and was stopped",
    "EXPRESSION_TOO_LARGE": "an expression's result is larger than the limit",
    "SECRET_UNAVAILABLE": "a provider could not be asked for a secret, or gave what is no value",
    "INVALID_CONFIG": "the step's settings, once evaluated, do not fit the step",
    "OUTPUT_TOO_LARGE": "the step's output is larger than the limit",
    "STEP_FAILED": "a `fail` step ended the run",
    "STATUS_UNEXPECTED": "the HTTP status is not admitted by `expect`",
    "BODY_UNEXPECTED": "the HTTP body is not admitted by `expect`",
    "INVALID_BODY": "the HTTP body is not what its content type says",
    "DNS_FAILED": "the host name could not be resolved",
    "CONNECT_REFUSED": "the connection was refused",
    "CONNECT_FAILED": "the connection could not be made",
    "CONNECT_TIMEOUT": "the connection was not made in time",
    "READ_TIMEOUT": "the server was silent for longer than the read timeout",
    "TLS_FAILED": "the TLS handshake or certificate failed",
    "CONNECTION_RESET": "the connection broke before the answer was complete",
    "HALF_BODY": "the answer ended before its length",
    "BAD_RESPONSE": "the answer is not valid HTTP",
    "RESPONSE_TOO_LARGE": "the answer is larger than the limit",
    "INVALID_URL": "the URL cannot be requested",
    "INVALID_HEADER": "a header has a name or value that must not be sent",
    "EGRESS_DENIED": "the address is closed to steps",
    "TOO_MANY_REDIRECTS": "more redirects than the limit",
    "REDIRECT_REFUSED": "the answer redirects to where a step may not go",
    "ATTEMPT_TIMEOUT": "the attempt took longer than its time limit",
    "STEP_TIMEOUT": "the step, with its attempts and pauses, took longer than its time limit",
    "RUN_TIMEOUT": "the run took longer than its time limit",
    "LEASE_EXPIRED": "the attempt's lease lapsed before it ended",
    "PROCESS_DIED": "the server's process ended while the attempt ran",
    "RELEASED": "the server shut down before the attempt ended; it is tried again at once",
    "CRASH_LOOP": "the server died each time it ran this step, at last while nothing else ran",
    "CANCELLED": "the run was cancelled",
    "NEED_FAILED": "a step that this one needs failed",
    "TOO_MANY_ITEMS": "a `foreach` was given more items than the limit",
    "REPEAT_EXHAUSTED": "a `repeat` reached its `max` before its condition was true",
    "UNKNOWN_OUTCOME": "an attempt of an `effect: once` step may have taken effect, so it was not sent again",
    "WAIT_TIMEOUT": "the signal that the step waited for did not come in time",
    "CHILD_NOT_STARTED": "the child run could not be started",
    "CHILD_FAILED": "the child run FAILED",
    "CHILD_CANCELLED": "the child run was CANCELLED",
    "RECURSION_LIMIT": "too many runs are above this one",
    "CONCURRENCY_SKIPPED": "as many runs as `concurrency` allows were in progress, and `on_limit` is skip",
    "CONCURRENCY_REPLACED": "a newer run took this one's place: `on_limit` is cancel_oldest",
    "CONCURRENCY_DEADLOCK": "a run that waits for this one holds the place that it needs",
    "QUEUE_TIMEOUT": "the run was not begun within its `max_queue_time`",
    "STATE_CONFLICT": "the state's value was not the one that `set_state` expected",
    "INTERNAL": "the engine met a fault of its own in this run; the log has it",
    "STEP_CRASHED": "the step's own code raised an unexpected error",
}
"""Codes of failures of steps, attempts and runs, with their meaning."""


def refusal_codes() -> dict[str, dict[str, Any]]:
    """Return every refusal by code: `{status, title}`; found by walking the class tree. What only ends a program that
    starts is no refusal of a call, wherever it is declared."""
    found: dict[str, dict[str, Any]] = {}
    pending: list[type[TaskForgeError]] = [TaskForgeError]
    while pending:
        kind = pending.pop()
        found[kind.code] = {"status": kind.status, "title": kind.title}
        if kind is not StartupError:
            pending.extend(kind.__subclasses__())
    return dict(sorted(found.items()))
