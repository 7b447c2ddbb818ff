"""The one table of calls. Dispatch, scopes, query checks, bodies, `/docs` and OpenAPI are all made from it."""

from __future__ import annotations

from typing import Final

from taskforge.api import members, query
from taskforge.api.apply_calls import apply_workflows, plan_workflows
from taskforge.api.apply_members import APPLY_WORKFLOWS, PLAN_WORKFLOWS
from taskforge.api.audit_calls import list_audit
from taskforge.api.data_calls import make_backup, prune_runs, vacuum_database
from taskforge.api.delivery_calls import get_delivery, list_deliveries, list_schedules, replay_delivery
from taskforge.api.events import list_logs, stream_events, stream_run_events
from taskforge.api.expression_calls import (
    EVALUATE_EXPRESSION,
    EVALUATE_IN_RUN,
    evaluate_expression,
    evaluate_in_run,
)
from taskforge.api.health_calls import docs, healthz, metrics, openapi, readyz, stats
from taskforge.api.hold_calls import get_hold, set_hold
from taskforge.api.hook_calls import receive_delivery, send_delivery
from taskforge.api.letter_calls import discard_dead_letter, get_dead_letter, list_dead_letters, retry_dead_letter
from taskforge.api.preview_calls import preview_schedule
from taskforge.api.resume_calls import get_resume_page, use_resume_link
from taskforge.api.route import Answer, DataBody, DocumentBody, RawBody, Route, Scope
from taskforge.api.run_calls import (
    cancel_run,
    get_run,
    list_runs,
    replay_run,
    retry_run,
    send_signal,
    start_run,
    start_runs,
)
from taskforge.api.state_calls import delete_state, get_state, set_state
from taskforge.api.token_calls import create_token, list_tokens, revoke_token
from taskforge.api.value_calls import (
    delete_secret,
    delete_var,
    list_secrets,
    list_vars,
    put_secret,
    put_var,
    rotate_key,
    verify_webhook,
)
from taskforge.api.value_members import PUT_SECRET, PUT_VAR, ROTATE_KEY, SEND_WEBHOOK, VERIFY_WEBHOOK
from taskforge.api.why_calls import explain_run
from taskforge.api.workflow_calls import (
    change_workflow,
    delete_workflow,
    get_version,
    get_workflow,
    list_versions,
    list_workflows,
    publish_workflow,
    validate_workflow,
)
from taskforge.core.errors import (
    Conflict,
    DeadLetterClosed,
    DeliveryGone,
    DeliveryRefused,
    ExpressionFailed,
    HookBusy,
    IdempotencyMismatch,
    InvalidDefinition,
    InvalidExpression,
    InvalidInput,
    LoopRefused,
    MethodNotAllowed,
    NameMismatch,
    NotFound,
    NothingToRetry,
    RequestTimeout,
    RespondFailed,
    ResumeLinkUsed,
    RunEnded,
    RunNotEnded,
    RunUndone,
    ShuttingDown,
    SignatureRefused,
    StateConflict,
    StepUnknown,
    StoreFull,
    TooLarge,
    TooManyRequests,
    Unavailable,
    UnsupportedMediaType,
    WorkflowDisabled,
    WorkflowsMoved,
)

READ, RUN, WRITE, ADMIN = Scope.READ, Scope.RUN, Scope.WRITE, Scope.ADMIN

_STORES = (Unavailable, StoreFull)
_STARTS = (NotFound, WorkflowDisabled, InvalidInput, ShuttingDown, *_STORES)
_PUBLISHES = (InvalidDefinition, *_STORES)
_RETRIES = (NotFound, RunNotEnded, NothingToRetry, RunUndone, ShuttingDown, *_STORES)
_SIGNALS = (NotFound, InvalidInput, TooLarge, Conflict, *_STORES)
_EVALUATES = (InvalidExpression, ExpressionFailed, TooManyRequests)
_PAGED = (query.LIMIT,)
_DOCUMENT = DocumentBody()
_PUBLISHED = {
    200: Answer("A new version of a known workflow, or nothing has changed.", "Published"),
    201: Answer("A new workflow.", "Published", headers={"Location": "Where the workflow is."}),
}
_RUN_ANSWER = Answer("The run.", "Run")
_ASKED = Answer("What was asked for is stored; the run as it is now.", "RunSummary")
_GONE = Answer("Done; there is nothing to say.")
_EVENTS = Answer("Server-sent events: run, step and attempt, each with an id; end when the run has ended.", None)
_STREAM = {200: Answer(_EVENTS.doc, None, "text/event-stream")}
_LAST_EVENT = {
    "Last-Event-ID": ("The id of the last event seen; the stream goes on after it.", r"^[0-9]{1,18}(\.[0-9]{1,18})?$")
}
_IDEMPOTENCY = {
    "Idempotency-Key": (
        "The same key starts one run, however often it is sent; kept for 7 days.",
        "^[!-~]([ -~]{0,253}[!-~])?$",
    )
}

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""What hooks take, unless the trigger says less."""

_HOOK = (NotFound, MethodNotAllowed, TooLarge, UnsupportedMediaType, RequestTimeout, TooManyRequests, SignatureRefused,
         LoopRefused, DeliveryRefused, RespondFailed, HookBusy, ShuttingDown, *_STORES)  # fmt: skip
_DELIVERED = {
    202: Answer("The delivery and its run are on disk.", "Delivered", headers={"Location": "Where the run is."}),
    200: Answer(
        "A duplicate, with the first one's run; or a delivery that was filtered out; or what `respond` says.",
        "DuplicateOrFiltered",
    ),
}

ROUTES: Final[tuple[Route, ...]] = (
    # ---- public: exactly these, and /hooks/
    Route("GET", "/healthz", None, healthz, "Is the server alive?", {200: Answer("Alive.", "Status")},
          refusals=(Unavailable,), tag="server"),
    Route("GET", "/readyz", None, readyz, "Can the server take work?", {200: Answer("Ready.", "Status")},
          refusals=(Unavailable,), tag="server"),
    Route("GET", "/openapi.json", None, openapi, "This API as OpenAPI 3.1.", {200: Answer("The document.", "Document")},
          tag="server"),
    Route("GET", "/docs", None, docs, "This API as a page.", {200: Answer("The page.", None, "text/html")},
          tag="server"),
    Route("GET", "/hooks/-/resume/{token}", None, get_resume_page, "Show what a one-time link resumes.",
          {200: Answer("A page that asks for confirmation.", None, "text/html")},
          refusals=(NotFound, ResumeLinkUsed), tag="hooks"),
    Route("POST", "/hooks/-/resume/{token}", None, use_resume_link, "Resume the waiting step of a one-time link.",
          {202: Answer("The step goes on.", "Resumed")}, body=DataBody(), refusals=(ResumeLinkUsed, *_SIGNALS),
          tag="hooks"),
    *(Route(method, "/hooks/{workflow}/{trigger}", None, receive_delivery, "Start a run by a webhook.", _DELIVERED,
            body=RawBody(), refusals=_HOOK, tag="hooks") for method in METHODS),
    # ---- the server
    Route("GET", "/metrics", READ, metrics, "Counts for Prometheus.", {200: Answer("Metrics.", None, "text/plain")},
          refusals=(Unavailable,), tag="server"),
    Route("GET", "/v1/stats", READ, stats, "Counts, exact at the time of the call.",
          {200: Answer("The counts.", "Stats")}, refusals=(Unavailable,), tag="server"),
    Route("GET", "/v1/hold", READ, get_hold, "Show what is held back.", {200: Answer("What is held.", "Hold")},
          refusals=_STORES, tag="server"),
    Route("PUT", "/v1/hold", ADMIN, set_hold, "Hold everything back, or let it go on.",
          {200: Answer("What is held.", "Hold")}, body=members.SET_HOLD, refusals=_STORES, tag="server"),
    Route("POST", "/v1/db:backup", ADMIN, make_backup, "Copy the database into the home's backups.",
          {201: Answer("The copy is on disk.", "Backup")}, refusals=(Conflict, *_STORES), tag="server"),
    Route("POST", "/v1/db:prune", ADMIN, prune_runs, "Delete runs that ended long ago.",
          {200: Answer("What was deleted.", "Pruned")}, body=members.PRUNE_RUNS, refusals=_STORES, tag="server"),
    Route("POST", "/v1/db:vacuum", ADMIN, vacuum_database, "Give free space of the database back to the disk.",
          {200: Answer("The sizes.", "Vacuumed")}, refusals=_STORES, tag="server"),
    # ---- workflows
    Route("PUT", "/v1/workflows/{name}", WRITE, publish_workflow, "Store a version of a workflow.", _PUBLISHED,
          body=_DOCUMENT, refusals=(NameMismatch, *_PUBLISHES), tag="workflows"),
    Route("POST", "/v1/workflows", WRITE, publish_workflow, "Store a version; the name is the document's.", _PUBLISHED,
          body=_DOCUMENT, refusals=_PUBLISHES, tag="workflows"),
    Route("POST", "/v1/workflows:validate", READ, validate_workflow, "Check a document; nothing is stored.",
          {200: Answer("What was found.", "Validation")}, body=_DOCUMENT, tag="workflows"),
    Route("POST", "/v1/workflows:plan", READ, plan_workflows, "Say what applying documents would change.",
          {200: Answer("What would change, and what follows.", "Plan")}, body=PLAN_WORKFLOWS,
          refusals=(InvalidDefinition, *_STORES), tag="workflows"),
    Route("POST", "/v1/workflows:apply", WRITE, apply_workflows, "Store many workflows: all or none.",
          {200: Answer("What is stored now.", "Applied")}, body=APPLY_WORKFLOWS,
          refusals=(WorkflowsMoved, *_PUBLISHES), tag="workflows"),
    Route("GET", "/v1/workflows", READ, list_workflows, "List workflows by name.",
          {200: Answer("A page of workflows.", "WorkflowPage")},
          query=(*_PAGED, query.cursor_param(query.WORKFLOWS)), tag="workflows"),
    Route("GET", "/v1/workflows/{name}", READ, get_workflow, "Show a workflow.",
          {200: Answer("The workflow and its newest text.", "WorkflowDetail")}, refusals=(NotFound,), tag="workflows"),
    Route("PATCH", "/v1/workflows/{name}", WRITE, change_workflow, "Enable, disable or hold a workflow.",
          {200: Answer("The workflow.", "Workflow")}, body=members.CHANGE_WORKFLOW, refusals=(NotFound, *_STORES),
          tag="workflows"),
    Route("DELETE", "/v1/workflows/{name}", WRITE, delete_workflow, "Delete a workflow; its runs stay readable.",
          {204: _GONE}, refusals=(NotFound, *_STORES), tag="workflows"),
    Route("GET", "/v1/workflows/{name}/versions", READ, list_versions, "List the versions, newest first.",
          {200: Answer("A page of versions.", "VersionPage")},
          query=(*_PAGED, query.cursor_param(query.VERSIONS)), refusals=(NotFound,), tag="workflows"),
    Route("GET", "/v1/workflows/{name}/versions/{n}", READ, get_version, "Show a version.",
          {200: Answer("The version.", "Version")}, refusals=(NotFound,), tag="workflows"),
    Route("GET", "/v1/workflows/{name}/state", READ, get_state, "Show a workflow's state.",
          {200: Answer("All values by key.", "State")}, refusals=(NotFound,), tag="workflows"),
    Route("PUT", "/v1/workflows/{name}/state/{key}", WRITE, set_state, "Store a value of a workflow's state.",
          {200: Answer("The value.", "StateValue")}, body=members.SET_STATE,
          refusals=(NotFound, StateConflict, *_STORES), tag="workflows"),
    Route("DELETE", "/v1/workflows/{name}/state/{key}", WRITE, delete_state, "Remove a value of a workflow's state.",
          {204: _GONE}, refusals=(NotFound, *_STORES), tag="workflows"),
    # ---- runs
    Route("POST", "/v1/workflows/{name}/runs", RUN, start_run, "Start a run.",
          {202: Answer("The run is on disk and will end.", "Started", headers={"Location": "Where the run is."}),
           200: Answer("With wait: the run. With an Idempotency-Key that was used before: the first run.",
                       "StartedOrRun", headers={"Location": "Where the run is."})},
          query=(query.WAIT,), body=members.START_RUN, tag="runs",
          headers=_IDEMPOTENCY,
          refusals=(IdempotencyMismatch, *_STARTS)),
    Route("POST", "/v1/workflows/{name}/runs:batch", RUN, start_runs, "Start up to 1,000 runs: all or none.",
          {202: Answer("All runs are on disk.", "StartedMany"),
           200: Answer("The Idempotency-Key was used before: the first batch's runs.", "StartedMany")},
          body=members.START_RUNS, headers=_IDEMPOTENCY, refusals=(IdempotencyMismatch, *_STARTS), tag="runs"),
    Route("GET", "/v1/runs", READ, list_runs, "List runs, newest first.", {200: Answer("A page of runs.", "RunPage")},
          query=(query.WORKFLOW, query.RUN_STATE, query.TRIGGER, query.SINCE, query.UNTIL, *_PAGED,
                 query.cursor_param(query.RUNS)), tag="runs"),
    Route("GET", "/v1/runs/{run}", READ, get_run, "Show a run by id or name#number.", {200: _RUN_ANSWER},
          query=(query.CHOSEN_STEPS, query.cursor_param(query.STEPS, "steps_cursor"), *_PAGED, query.WAIT),
          refusals=(NotFound,), tag="runs"),
    Route("POST", "/v1/runs/{run}/cancel", RUN, cancel_run, "Cancel a run.", {202: _ASKED},
          body=members.CANCEL_RUN, refusals=(NotFound, RunEnded, *_STORES), tag="runs"),
    Route("POST", "/v1/runs/{run}/retry", RUN, retry_run, "Take a run up where it failed, or at a step.",
          {202: _ASKED}, body=members.RETRY_RUN, refusals=(StepUnknown, *_RETRIES), tag="runs"),
    Route("POST", "/v1/runs/{run}/replay", RUN, replay_run, "Start a new run with a run's input.",
          {202: Answer("The new run is on disk and will end.", "Started", headers={"Location": "Where the run is."}),
           200: Answer("The Idempotency-Key was used before: the first replay's run.", "Started")},
          body=members.REPLAY_RUN, headers=_IDEMPOTENCY, refusals=(IdempotencyMismatch, TooLarge, *_STARTS),
          tag="runs"),
    Route("POST", "/v1/runs/{run}/signals/{signal}", RUN, send_signal, "Send a signal to a run.", {202: _ASKED},
          body=members.SEND_SIGNAL, refusals=(RunEnded, *_SIGNALS), tag="runs"),
    Route("GET", "/v1/runs/{run}/why", READ, explain_run, "Explain a run: why it waits, was skipped, was retried.",
          {200: Answer("The decisions, oldest first; what holds now at the end.", "Why")},
          query=(query.STEP, *_PAGED, query.cursor_param(query.WHY)), refusals=(NotFound,), tag="runs"),
    Route("GET", "/v1/runs/{run}/logs", READ, list_logs, "List what happened in a run, oldest first.",
          {200: Answer("A page of lines.", "LogPage")}, query=(*_PAGED, query.cursor_param(query.LOGS)),
          refusals=(NotFound,), tag="runs"),
    Route("GET", "/v1/runs/{run}/events", READ, stream_run_events, "Follow a run.", _STREAM,
          headers=_LAST_EVENT, refusals=(NotFound,), tag="events"),
    Route("GET", "/v1/events", READ, stream_events, "Follow all runs.", _STREAM, headers=_LAST_EVENT,
          tag="events"),
    # ---- expressions: who may read a run may compute with what is shown of it
    Route("POST", "/v1/expressions:evaluate", READ, evaluate_expression, "Try an expression; nothing is stored.",
          {200: Answer("Every result.", "Evaluated")}, body=EVALUATE_EXPRESSION, refusals=_EVALUATES,
          tag="expressions"),
    Route("POST", "/v1/runs/{run}/evaluate", READ, evaluate_in_run, "Try an expression against what a run saw.",
          {200: Answer("Every result; secrets are masked.", "Evaluated")}, body=EVALUATE_IN_RUN,
          refusals=(NotFound, StepUnknown, *_EVALUATES), tag="expressions"),
    # ---- dead letters
    Route("GET", "/v1/dead-letters", READ, list_dead_letters, "List dead letters, newest first.",
          {200: Answer("A page of dead letters.", "DeadLetterPage")},
          query=(query.WORKFLOW, query.DEAD_STATE, *_PAGED, query.cursor_param(query.DEAD_LETTERS)),
          tag="dead letters"),
    Route("GET", "/v1/dead-letters/{id}", READ, get_dead_letter, "Show a dead letter.",
          {200: Answer("The dead letter.", "DeadLetter")}, refusals=(NotFound,), tag="dead letters"),
    Route("POST", "/v1/dead-letters/{id}/retry", RUN, retry_dead_letter, "Retry the dead letter's run.", {202: _ASKED},
          body=members.NOTHING, refusals=(DeadLetterClosed, *_RETRIES), tag="dead letters"),
    Route("DELETE", "/v1/dead-letters/{id}", RUN, discard_dead_letter, "Discard a dead letter; the row stays.",
          {200: Answer("The dead letter, DISCARDED.", "DeadLetter")}, refusals=(NotFound, DeadLetterClosed, *_STORES),
          tag="dead letters"),
    # ---- secrets and variables
    Route("GET", "/v1/secrets", READ, list_secrets, "List secrets, without their values.",
          {200: Answer("All secrets.", "SecretPage")}, tag="secrets and variables"),
    Route("PUT", "/v1/secrets/{name}", WRITE, put_secret, "Store a secret.",
          {200: Answer("The secret, without its value.", "Secret")}, body=PUT_SECRET, refusals=_STORES,
          tag="secrets and variables"),
    Route("DELETE", "/v1/secrets/{name}", WRITE, delete_secret, "Delete a secret.", {204: _GONE},
          refusals=(NotFound, *_STORES), tag="secrets and variables"),
    Route("POST", "/v1/secrets:rotate-key", ADMIN, rotate_key, "Change the home's key; every secret is sealed anew.",
          {200: Answer("The new key's id.", "KeyRotated")}, body=ROTATE_KEY, refusals=_STORES,
          tag="secrets and variables"),
    Route("GET", "/v1/vars", READ, list_vars, "List variables.", {200: Answer("All variables.", "VarPage")},
          tag="secrets and variables"),
    Route("PUT", "/v1/vars/{name}", WRITE, put_var, "Store a variable.", {200: Answer("The variable.", "Var")},
          body=PUT_VAR, refusals=_STORES, tag="secrets and variables"),
    Route("DELETE", "/v1/vars/{name}", WRITE, delete_var, "Delete a variable.", {204: _GONE},
          refusals=(NotFound, *_STORES), tag="secrets and variables"),
    Route("POST", "/v1/webhooks:verify", READ, verify_webhook, "Check a webhook's signature: why does it fail?",
          {200: Answer("Whether it fits, and why not.", "Verdict")}, body=VERIFY_WEBHOOK, tag="webhooks"),
    Route("POST", "/v1/webhooks:send", RUN, send_delivery, "Send a delivery to a trigger, signed as its sender would.",
          {200: Answer("What the sender would have been answered: status and body.", "Sent")}, body=SEND_WEBHOOK,
          refusals=(NotFound, MethodNotAllowed, TooLarge, Conflict, LoopRefused, DeliveryRefused, TooManyRequests,
                    HookBusy, ShuttingDown, *_STORES), tag="webhooks"),
    # ---- deliveries
    Route("GET", "/v1/deliveries", READ, list_deliveries, "List webhook deliveries, newest first.",
          {200: Answer("A page of deliveries.", "DeliveryPage")},
          query=(query.WORKFLOW, query.TRIGGER_NAME, query.DELIVERY_STATE, query.SEARCH, *_PAGED,
                 query.cursor_param(query.DELIVERIES)), tag="webhooks"),
    Route("GET", "/v1/deliveries/{id}", READ, get_delivery, "Show a delivery with its body.",
          {200: Answer("The delivery.", "DeliveryDetail")}, refusals=(NotFound,), tag="webhooks"),
    Route("POST", "/v1/deliveries/{id}/replay", RUN, replay_delivery, "Take a delivery again, as a new run.",
          {202: Answer("The new run is on disk and will end.", "Delivered",
                       headers={"Location": "Where the run is."}),
           200: Answer("The delivery was filtered out.", "Filtered")},
          body=members.REPLAY_DELIVERY, refusals=(DeliveryGone, DeliveryRefused, *_STARTS), tag="webhooks"),
    # ---- schedules
    Route("GET", "/v1/schedules", READ, list_schedules, "List schedules: next and last slot, missed, decisions.",
          {200: Answer("A page of schedules.", "SchedulePage")},
          query=(query.WORKFLOW, *_PAGED, query.cursor_param(query.SCHEDULES)), tag="schedules"),
    Route("POST", "/v1/schedules:preview", READ, preview_schedule, "Show the next times of a cron expression.",
          {200: Answer("The times, rising.", "SchedulePreview")}, body=members.PREVIEW_SCHEDULE, tag="schedules"),
    # ---- the audit log
    Route("GET", "/v1/audit", ADMIN, list_audit, "List changes made through the API, newest first.",
          {200: Answer("A page of changes.", "AuditPage")},
          query=(query.HAPPENED_SINCE, query.HAPPENED_UNTIL, query.ACTOR, query.ACTION, query.TARGET, *_PAGED,
                 query.cursor_param(query.AUDIT)), tag="server"),
    # ---- tokens
    Route("GET", "/v1/tokens", ADMIN, list_tokens, "List tokens, without their values.",
          {200: Answer("All tokens.", "TokenPage")}, tag="tokens"),
    Route("POST", "/v1/tokens", ADMIN, create_token, "Make a token; its value is shown once.",
          {201: Answer("The token.", "NewToken", headers={"Location": "Where the token is."})},
          body=members.CREATE_TOKEN, refusals=_STORES, tag="tokens"),
    Route("DELETE", "/v1/tokens/{id}", ADMIN, revoke_token, "Revoke a token.", {204: _GONE},
          refusals=(NotFound, *_STORES), tag="tokens"),
)  # fmt: skip
