"""The inbox: deliveries are checked, stored as they came, and start runs, in one transaction, before they are answered.

Nothing about a hook is registered anywhere: which there are is looked up in the workflows. What is counted in memory
alone are rate limits, which a restart may forget.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from taskforge.core.clock import Clock
from taskforge.core.errors import (
    Conflict,
    DeliveryGone,
    DeliveryRefused,
    HookBusy,
    MethodNotAllowed,
    NotFound,
    SignatureRefused,
    StoreFull,
    TaskForgeError,
    TooManyRequests,
    Unavailable,
    WorkflowDisabled,
)
from taskforge.core.jsontext import dumps, loads
from taskforge.core.model import JSON, Evaluation, WebhookTrigger
from taskforge.core.record import dataclass
from taskforge.engine.evaluation import Expressions
from taskforge.engine.rates import Rates
from taskforge.engine.starting import Pending, Starts
from taskforge.engine.triggering import DEPTH_HEADER, TriggerStarts, check_depth, named
from taskforge.engine.values import StoredValues
from taskforge.expressions.errors import EvaluationFailed
from taskforge.observe.logs import get_logger
from taskforge.store.protocol import Store
from taskforge.store.triggered import Delivered, DeliveryRow, NewDelivery
from taskforge.triggers.signatures import sign, verify
from taskforge.triggers.webhook_body import gather, parse_body, raw_body

log = get_logger("webhooks")

REDACTED: Final = "[redacted]"
ALWAYS_REDACTED: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})
_LONGEST_KEY = 500
_LOOK_MS = 200
_PRUNE_BATCH = 200
_PRUNE_AFTER = 64 * 1024 * 1024

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request to a hook. Header names are in lower case; both lists are in the order in which they came."""

    method: str
    headers: Pairs
    query: Pairs
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a delivery: its row and run, or a challenge to answer. `respond_ms`: how long to wait for the
    run's end and answer with its result; 0: not at all."""

    delivered: Delivered | None
    challenge: bytes | None = None
    trigger: str = ""
    respond_ms: int = 0


@dataclass(frozen=True, slots=True)
class InboxLimits:
    """`free_bytes` is what must be free on the disk of `directory`, but no more than a fiftieth of it."""

    queued_runs: int
    free_bytes: int
    keep_ms: int
    keep_bytes: int
    directory: Path


class Webhooks:
    """Takes deliveries."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        starts: Starts,
        trigger_starts: TriggerStarts,
        expressions: Expressions,
        values: StoredValues,
        limits: InboxLimits,
        spawn: Callable[[Any], Any],
    ) -> None:
        self._store = store
        self._clock = clock
        self._starts = starts
        self._trigger_starts = trigger_starts
        self._expressions = expressions
        self._values = values
        self._limits = limits
        self._spawn = spawn
        self._rates = Rates()
        self._looked_at = -_LOOK_MS
        self._busy: str | None = None
        self._taken = 0

    async def receive(self, workflow: str, name: str, arrival: Arrival) -> Received:
        """Take a delivery. On return it is on disk, and so is its run.

        Raises NotFound, MethodNotAllowed, TooManyRequests, SignatureRefused, LoopRefused, HookBusy, DeliveryRefused
        (the delivery is kept as FAILED), Unavailable.
        """
        version, trigger = await self._find(workflow, name)
        if arrival.method not in trigger.methods:
            allow = ", ".join(sorted(trigger.methods))
            raise MethodNotAllowed(f"this hook takes {allow}", detail={"allow": allow})
        given_id, challenge, redact = await self._verify(workflow, trigger, arrival)
        if challenge is not None:
            return Received(None, challenge)
        # Only who is verified counts: nobody else can use up a sender's places.
        self._check_rate(workflow, trigger)
        depth = _depth(arrival.header(DEPTH_HEADER))
        check_depth(depth)
        await self._check_busy()
        delivery = _Delivery(self._clock.new_id("dlv"), workflow, version, trigger, arrival, redact, depth)
        delivery.dedupe = given_id
        try:
            delivered = await self._accept(delivery)
        except StoreFull as error:
            raise HookBusy(f"{error.message}", detail={"retry_after_s": 10}) from None
        return Received(delivered, None, name, trigger.respond_ms if trigger.respond is not None else 0)

    async def send(self, workflow: str, name: str, arrival: Arrival, delivery_id: str | None) -> Received:
        """Sign a request as the trigger's sender would, with its newest secret, and take it like any other. For who may
        start runs anyway; the secret stays here. Raises as `receive` does, and Conflict when it cannot be signed."""
        try:
            _, trigger = await self._find(workflow, name)
        except NotFound:
            raise NotFound(f"workflow {workflow} has no webhook trigger {name!r} that is enabled") from None
        config = trigger.verify
        headers, query = list(arrival.headers), list(arrival.query)
        if config.scheme != "none":
            secrets = await self._values.obtain_secrets(config.secrets)
            if not secrets:
                raise Conflict(f"there is no secret {' or '.join(config.secrets)} to sign with; store it first")
            id = delivery_id or self._clock.new_id("msg")
            try:
                signed = sign(config, secrets[0], arrival.body, self._clock.wall(), id)
            except ValueError as error:
                raise Conflict(f"the delivery cannot be signed: {error}") from None
            headers += [(header.lower(), value) for header, value in signed]
            if config.parameter is not None:
                query.append((config.parameter, secrets[0].decode()))
        try:
            return await self.receive(workflow, name, replace(arrival, headers=headers, query=query))
        except SignatureRefused:
            raise Conflict("what the request brings along collides with its signature: leave that header out") from None

    async def replay(self, id: str, version: int | None) -> Delivered:
        """Take a stored delivery again, without verification and without its delivery id; on another version if asked.

        Raises NotFound, DeliveryGone, WorkflowDisabled, DeliveryRefused.
        """
        row = await self._store.get_delivery(id)
        body = await self._store.find_delivery_body(id)
        if body is None:
            raise DeliveryGone("the delivery's body is not kept any more; it cannot be replayed")
        version, plan = await self._starts.resolve(row.workflow, version)
        trigger = plan.triggers.get(row.trigger)
        if not isinstance(trigger, WebhookTrigger):
            raise NotFound(f"version {version} of workflow {row.workflow} has no webhook {row.trigger!r}")
        arrival = Arrival(row.method, _pairs(row.headers), _pairs(row.query), body)
        delivery = _Delivery(self._clock.new_id("dlv"), row.workflow, version, trigger, arrival, frozenset(), 0)
        delivery.replay_of = row.id
        return await self._accept(delivery)

    async def shown_body(self, row: DeliveryRow) -> bytes | None:
        """A delivery's body as people may see it: the values of secrets are masked."""
        body = await self._store.find_delivery_body(row.id)
        if body is None:
            return None
        try:
            text = body.decode()
        except UnicodeDecodeError:
            return body
        masked: str = self._values.mask(text)
        return body if masked == text else masked.encode()

    async def prune(self) -> None:
        """Let go of what is old, or more than is kept."""
        self._taken = 0
        before = self._clock.now() - self._limits.keep_ms
        while await self._store.prune_deliveries(before, self._limits.keep_bytes, _PRUNE_BATCH) >= _PRUNE_BATCH:
            pass

    # ---- who may

    async def _find(self, workflow: str, name: str) -> tuple[int, WebhookTrigger]:
        try:
            version, plan = await self._starts.resolve(workflow)
        except (NotFound, WorkflowDisabled):
            raise NotFound("there is nothing at this address") from None
        trigger = plan.triggers.get(name)
        if not isinstance(trigger, WebhookTrigger):
            raise NotFound("there is nothing at this address")
        return version, trigger

    def _check_rate(self, workflow: str, trigger: WebhookTrigger) -> None:
        if trigger.rate_limit is None:
            return
        wait_ms = self._rates.take(f"{workflow}/{trigger.name}", trigger.rate_limit, self._clock.now())
        if wait_ms > 0:
            raise TooManyRequests(
                f"this hook takes {trigger.rate_limit.max} deliveries in {trigger.rate_limit.per_ms / 1000:g} s",
                detail={"retry_after_s": max(1, -(-wait_ms // 1000))},
            )

    async def _verify(
        self, workflow: str, trigger: WebhookTrigger, arrival: Arrival
    ) -> tuple[str | None, bytes | None, frozenset[str]]:
        """Return the scheme's own delivery id, a challenge to answer, and what is not to be stored."""
        verdict = verify(
            trigger.verify,
            await self._values.obtain_secrets(trigger.verify.secrets),
            arrival.headers,
            arrival.body,
            dict(arrival.query),
            self._clock.wall(),
        )
        if not verdict.valid:
            log.warning(
                "delivery_refused", workflow=workflow, trigger=trigger.name, code=verdict.code, reason=verdict.reason
            )
            raise SignatureRefused("the delivery is not signed as this hook expects")
        return verdict.delivery_id, verdict.challenge, frozenset(verdict.redact)

    async def _check_busy(self) -> None:
        now = round(self._clock.monotonic() * 1000)
        if now - self._looked_at >= _LOOK_MS:
            self._looked_at = now
            self._busy = await self._why_busy()
        if self._busy is not None:
            raise HookBusy(self._busy, detail={"retry_after_s": 5})

    async def _why_busy(self) -> str | None:
        queued = await self._store.count_queued()
        if queued >= self._limits.queued_runs:
            return f"{queued} runs wait for their turn; deliveries are taken again when there are fewer"
        disk = shutil.disk_usage(self._limits.directory)
        if disk.free < min(self._limits.free_bytes, disk.total // 50):
            return "the disk is nearly full; deliveries are taken again when there is room"
        return None

    # ---- taking it in

    async def _accept(self, delivery: _Delivery) -> Delivered:
        error: JSON = None
        pending: Pending | None = None
        state = "ACCEPTED"
        try:
            seen = delivery.see()
            await self._find_keys(delivery, seen)
            if await self._admits(delivery, seen):
                pending = await self._prepare(delivery, seen)
            else:
                state = "FILTERED"
        except (Unavailable, NotFound, WorkflowDisabled):
            raise
        except (EvaluationFailed, TaskForgeError, ValueError) as failure:
            state = "FAILED"
            error = {"code": getattr(failure, "code", "BODY_INVALID"), "message": self._values.mask(_words(failure))}
        delivered = await self._store_delivery(delivery, state, pending, error)
        if delivered.state == "FAILED":
            raise DeliveryRefused(
                f"the delivery is kept, and started nothing: {error['message']}",
                detail={"delivery": delivered.id, "state": "FAILED", "reason": error["code"]},
            )
        return delivered

    async def _find_keys(self, delivery: _Delivery, seen: dict[str, Any]) -> None:
        """The delivery's id, and the key of its burst."""
        trigger = delivery.trigger
        if trigger.dedupe is not None and delivery.replay_of is None:
            delivery.dedupe = _key(await self._evaluate("dedupe", trigger.dedupe, seen))
        if trigger.debounce_ms:
            key = None if trigger.debounce is None else await self._evaluate("debounce.key", trigger.debounce, seen)
            delivery.debounce = _key(key) or ""

    async def _admits(self, delivery: _Delivery, seen: dict[str, Any]) -> bool:
        condition = delivery.trigger.condition
        return condition is None or await self._evaluate("if", condition, seen) is True

    async def _evaluate(self, setting: str, evaluation: Evaluation, seen: dict[str, Any]) -> JSON:
        with named(setting):
            return await self._expressions.evaluate_apart(evaluation, {"trigger": seen}, self._clock.now())

    async def _prepare(self, delivery: _Delivery, seen: dict[str, Any]) -> Pending:
        _, plan = await self._starts.resolve(delivery.workflow, delivery.version)
        if not plan.uses_raw_body:
            # What nobody looks at is not stored a second time; the delivery has it.
            seen = {name: value for name, value in seen.items() if name != "raw_body"}
        return await self._trigger_starts.prepare(
            delivery.workflow,
            delivery.version,
            delivery.trigger,
            "webhook",
            seen,
            self._clock.now(),
            delay_ms=delivery.trigger.debounce_ms or None,
        )

    async def _store_delivery(self, delivery: _Delivery, state: str, pending: Pending | None, error: JSON) -> Delivered:
        new = NewDelivery(
            id=delivery.id,
            workflow=delivery.workflow,
            trigger=delivery.trigger.name,
            version=delivery.version,
            state=state,
            received_at=self._clock.now(),
            method=delivery.arrival.method,
            query=dumps(self._values.mask(delivery.query)),
            headers=dumps(self._values.mask(delivery.headers)),
            body=delivery.arrival.body,
            dedupe=delivery.dedupe,
            debounce=delivery.debounce,
            replay_of=delivery.replay_of,
            error=None if error is None else dumps(error),
        )
        try:
            delivered = await self._store.accept_delivery(new, None if pending is None else pending.start)
        except BaseException as failure:
            if pending is not None:
                self._starts.not_stored(pending, failure)
            raise
        if pending is not None:
            self._starts.stored(pending, delivered.run)
        self._taken += len(new.body)
        if self._taken > _PRUNE_AFTER:
            self._taken = 0
            self._spawn(self._prune_quietly())
        return delivered

    async def _prune_quietly(self) -> None:
        try:
            await self.prune()
        except Unavailable as error:
            log.warning("deliveries_not_pruned", error=error.message)


@dataclass(slots=True)
class _Delivery:
    """A delivery on its way in."""

    id: str
    workflow: str
    version: int
    trigger: WebhookTrigger
    arrival: Arrival
    redact: frozenset[str]
    depth: int
    dedupe: str | None = None
    debounce: str | None = None
    replay_of: str | None = None

    @property
    def headers(self) -> list[list[str]]:
        """As they are stored."""
        secret = self.redact | ALWAYS_REDACTED
        return [[name, REDACTED if name in secret else value] for name, value in self.arrival.headers]

    @property
    def query(self) -> list[list[str]]:
        return [[name, REDACTED if name in self.redact else value] for name, value in self.arrival.query]

    def see(self) -> dict[str, Any]:
        """`$trigger`. Raises ValueError for a body that is not what its content type says."""
        arrival = self.arrival
        headers: dict[str, str] = {}
        for name, value in self.headers:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        seen: dict[str, Any] = {
            "type": "webhook",
            "name": self.trigger.name,
            "delivery": self.id,
            "method": arrival.method,
            "headers": headers,
            "query": gather((name, value) for name, value in self.query),
            "body": parse_body(arrival.header("content-type"), arrival.body),
            "raw_body": raw_body(arrival.body),
        }
        if self.depth:
            seen["depth"] = self.depth
        return seen


def _words(failure: Exception) -> str:
    message: str = getattr(failure, "message", str(failure))
    problems = failure.problems[:3] if isinstance(failure, TaskForgeError) else []
    return message + "".join(f"; {problem.path}: {problem.message}" for problem in problems)


def _key(value: JSON) -> str | None:
    """A key as text; what is null or empty is no key."""
    if value is None or value == "":
        return None
    text = value if isinstance(value, str) else dumps(value)
    if len(text) > _LONGEST_KEY:
        raise ValueError(f"the delivery's key has {len(text)} characters; at most {_LONGEST_KEY} are taken")
    return text


def _depth(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) <= 6 else 0


def _pairs(text: str) -> list[tuple[str, str]]:
    return [(name, value) for name, value in loads(text)]
