"""Puts the concrete parts together and runs them: the only module that knows them all.

`serve` is the whole life of a server process: lock the home, listen, open the store, take up what was left, answer,
and on SIGTERM let attempts end, release the rest, and leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import uvicorn

from taskforge import __version__
from taskforge.api.connection import GuardedProtocol
from taskforge.api.server import create_api
from taskforge.config import Settings, create_home, load_settings
from taskforge.config.home import DATABASE_FILE, LOG_FILE
from taskforge.config.lock import HomeLock
from taskforge.config.tls import check_tls
from taskforge.core.clock import SystemClock
from taskforge.core.definition import Definition, DefinitionLimits, load_plan, parse_definition
from taskforge.core.errors import StartupError, TaskForgeError
from taskforge.core.model import JSON, Plan
from taskforge.core.problem import Problem
from taskforge.engine.auditing import prune_audit
from taskforge.engine.children import Children
from taskforge.engine.drivers import Drivers
from taskforge.engine.evaluation import Expressions
from taskforge.engine.executor import Executor
from taskforge.engine.places import Places
from taskforge.engine.plans import Plans
from taskforge.engine.rotation import KeyRotation
from taskforge.engine.service import Service
from taskforge.engine.starting import Starts
from taskforge.engine.timers import Timers
from taskforge.engine.trials import Trials
from taskforge.engine.triggers import Triggers
from taskforge.engine.upkeep import RetentionLimits, Upkeep
from taskforge.engine.values import StoredValues
from taskforge.engine.webhooks import InboxLimits
from taskforge.engine.workflow_state import WorkflowState
from taskforge.expressions.evaluator import Evaluator, Limits
from taskforge.expressions.jq_check import jq_problems
from taskforge.expressions.template import parse_template
from taskforge.observe.log_file import keep_small
from taskforge.observe.logs import configure_logging, get_logger
from taskforge.security.egress import EgressPolicy, parse_networks
from taskforge.security.keys import KeyFile
from taskforge.security.providers import make_providers
from taskforge.security.resume_links import ResumeLinks
from taskforge.security.secrets import SecretBox
from taskforge.steps.http_client import HttpClient
from taskforge.steps.registry import load_kinds
from taskforge.store.protocol import Store
from taskforge.store.sqlite.store import SqliteStore
from taskforge.triggers.schedule import parse_schedule

log = get_logger("app")

_FORCED_EXIT = 130


def definition_limits(settings: Settings) -> DefinitionLimits:
    limits = settings.limits
    return DefinitionLimits(document_bytes=limits.document_bytes, steps=limits.steps, nesting=limits.nesting)


def inbox_limits(settings: Settings) -> InboxLimits:
    return InboxLimits(
        queued_runs=settings.limits.queued_runs,
        free_bytes=settings.limits.free_disk_mib * 1024 * 1024,
        keep_ms=_ms(settings.inbox.keep_days * 86_400),
        keep_bytes=settings.inbox.keep_mib * 1024 * 1024,
        directory=settings.home,
    )


def retention_limits(settings: Settings) -> RetentionLimits:
    """0 in the settings is no limit."""
    wanted = settings.retention
    return RetentionLimits(
        runs_ms=_ms(wanted.runs_days * 86_400) or None,
        runs=wanted.runs_count or None,
        home_bytes=wanted.home_mib * 1024 * 1024 or None,
        backups=wanted.backups or None,
    )


class Reader:
    """Reads and checks workflow documents with the real kinds and the real expression language."""

    def __init__(self, settings: Settings, evaluator: Evaluator | None = None) -> None:
        self._kinds = load_kinds()
        self._limits = definition_limits(settings)
        self._evaluator = evaluator

    def parse(self, source: bytes, media: Literal["yaml", "json"]) -> Definition:
        return parse_definition(source, media, self._kinds, parse_template, self._limits, parse_schedule)

    def load(self, document: JSON) -> Plan:
        return load_plan(document, self._kinds, parse_template, parse_schedule)

    async def check_syntax(self, definition: Definition) -> list[Problem]:
        return [] if self._evaluator is None else await jq_problems(self._evaluator, definition)


class _Engine(NamedTuple):
    """The parts that have to be started, stopped, or asked by the API."""

    service: Service
    timers: Timers
    triggers: Triggers
    executor: Executor
    drivers: Drivers
    children: Children
    places: Places


class Server:
    """The parts of one server process, started and stopped in order."""

    def __init__(self, settings: Settings, sock: socket.socket) -> None:
        self.settings = settings
        self.clock = SystemClock()
        self.node = self.clock.new_id("node")
        self.machine = False
        """Is the ready line for a program?"""
        self._sock = sock
        self._failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self, lock: HomeLock) -> int:
        """Serve until a signal or a failure; returns the exit code."""
        async with contextlib.AsyncExitStack() as stack:
            store = await self._open_store()
            stack.push_async_callback(store.close)
            store.on_failure = self._failed
            for notice in store.notices:
                print(f"taskforge: warning: {notice}", file=sys.stderr, flush=True)
            evaluator = self._evaluator()
            stack.push_async_callback(evaluator.close)
            http = self._http_client()
            await http.start()
            stack.push_async_callback(http.close)
            await self._serve(await self._assemble(store, evaluator, http), lock)
        if self._failure is not None:
            print(f"taskforge: the server stopped: {self._failure}", file=sys.stderr, flush=True)
            return 1
        return 0

    async def _assemble(self, store: Store, evaluator: Evaluator, http: HttpClient) -> _Engine:
        """Put the parts together; nothing of it runs yet."""
        settings = self.settings
        reader = Reader(settings, evaluator)
        plans = Plans(store, reader.load)
        state = WorkflowState(store, self.clock)
        values, links, keys = await self._load_values(store)
        expressions = Expressions(evaluator, state, values, links)
        executor = self._executor(expressions, state, http)
        lease_ms = _ms(settings.engine.lease_seconds)
        drivers = Drivers(
            store, self.clock, expressions, executor, plans, self.node, lease_ms, settings.limits.foreach_items
        )
        timers = Timers(
            store,
            self.clock,
            drivers,
            executor,
            node=self.node,
            lease_ms=lease_ms,
            poll_s=settings.engine.poll_seconds,
            retention_s=settings.retention.every_seconds,
        )
        starts = Starts(store, self.clock, drivers, plans, settings.limits.input_bytes)
        children = Children(store, self.clock, drivers, starts)
        executor.start_child = children.start_child
        triggers = Triggers(
            store,
            self.clock,
            drivers,
            starts,
            expressions,
            values,
            inbox_limits(settings),
            held=lambda: executor.held,
        )

        async def look_after() -> None:
            await children.catch_up()
            await triggers.run_ends.catch_up()

        async def retain() -> None:
            await triggers.prune()
            await prune_audit(store, self.clock, _ms(settings.audit.keep_days * 86_400))

        upkeep = Upkeep(store, self.clock, settings.home, retention_limits(settings), retain)
        timers.on_upkeep, timers.on_retention = look_after, upkeep.sweep
        drivers.on_failure = timers.on_failure = triggers.schedules.on_failure = self._failed
        places = Places(store, drivers)
        service = Service(
            store, self.clock, drivers, plans, reader, timers, starts=starts, children=children, places=places,
            links=links, values=values, triggers=triggers, trials=Trials(evaluator, expressions), keys=keys,
            upkeep=upkeep,
        )  # fmt: skip
        return _Engine(service, timers, triggers, executor, drivers, children, places)

    def _executor(self, expressions: Expressions, state: WorkflowState, http: HttpClient) -> Executor:
        settings = self.settings
        return Executor(
            self.clock,
            expressions,
            {
                "http": http,
                "http_timeout_ms": _ms(settings.http.default_timeout_seconds),
                "retry_after_cap_ms": _ms(settings.http.retry_after_cap_seconds),
            },
            state=state,
            limit=settings.engine.max_attempts_in_flight,
            default_timeout_ms=_ms(settings.http.default_timeout_seconds),
            output_limit=settings.limits.output_bytes,
        )

    async def _serve(self, engine: _Engine, lock: HomeLock) -> None:
        """Start everything, say so, and end it when it is time."""
        settings, drivers = self.settings, engine.drivers
        self._install_signals()
        await engine.timers.start()
        await engine.triggers.start()
        drivers.spawn(engine.children.catch_up())
        drivers.spawn(engine.places.catch_up())
        web = _Web(create_api(engine.service, settings, self.clock), settings)
        serving = asyncio.create_task(web.serve(sockets=[self._sock]), name="web")
        serving.add_done_callback(lambda task: self._web_ended(task, web))
        await asyncio.wait([serving, asyncio.create_task(web.ready.wait())], return_when=asyncio.FIRST_COMPLETED)
        url = _url(settings, self._sock)
        lock.announce(url, self.clock.wall())
        if not self._stop.is_set():
            print(_ready_line(url, settings.home, machine=self.machine), flush=True)
            log.info("ready", url=url, home=str(settings.home), pid=os.getpid(), node=self.node)
        _collect_less()
        await self._stop.wait()
        lock.announce_stop()
        await engine.triggers.stop()
        await self._shut_down(engine)
        web.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)

    async def _shut_down(self, engine: _Engine) -> None:
        """Take nothing any more, let attempts end for the grace time, release the rest."""
        executor, drivers = engine.executor, engine.drivers
        grace = self.settings.engine.grace_seconds
        log.info("stopping", attempts=executor.in_flight, grace_s=grace)
        engine.service.stop()
        executor.stopping = True  # at once: what is under way may end, but nothing more begins
        await engine.timers.stop()
        if self._failure is not None:
            drivers.giving_up = True
            grace = 0
        # A tenth of the grace (at most a second) is kept for storing what ended and what was released.
        kept = min(1.0, max(0.2, grace / 10))
        await executor.stop(max(0.0, grace - kept), kept)
        drivers.giving_up = True
        await drivers.drain(1.0)
        engine.timers.close()

    async def _open_store(self) -> Store:
        return await SqliteStore.open(self.settings.home / DATABASE_FILE, clock=self.clock)

    async def _load_values(self, store: Store) -> tuple[StoredValues, ResumeLinks, KeyRotation]:
        """What the home's key is for: values, one-time links, and the care of the key itself."""
        file = self._key_file()
        key = file.read().current
        wanted = self.settings.secrets
        providers = make_providers(wanted.providers, os.environ, self.settings.home, wanted.command_timeout_seconds)
        values = StoredValues(store, self.clock, SecretBox(key), providers, _ms(wanted.cache_seconds))
        links = ResumeLinks(key, self.settings.server.public_url or _public_url(self.settings, self._sock))
        keys = KeyRotation(file, values, links)
        await values.load()
        await keys.finish(self.clock.now())
        return values, links, keys

    def _key_file(self) -> KeyFile:
        return KeyFile(self.settings.home)

    def _evaluator(self) -> Evaluator:
        wanted = self.settings.expressions
        limits = Limits(
            seconds=wanted.timeout_seconds,
            memory_bytes=wanted.memory_mib * 1024 * 1024,
            result_bytes=self.settings.limits.output_bytes,
        )
        return Evaluator(None, limits, children=wanted.children)

    def _http_client(self) -> HttpClient:
        wanted, egress = self.settings.http, self.settings.egress
        policy = EgressPolicy(
            allow_loopback=egress.allow_loopback,
            allow_private=egress.allow_private,
            allow=parse_networks(egress.allow),
            deny=parse_networks(egress.deny),
            own_addresses=frozenset({self._sock.getsockname()[:2]}),
            allow_self=egress.allow_self,
        )
        return HttpClient(
            policy,
            connect_timeout_ms=_ms(wanted.connect_timeout_seconds),
            max_per_host=wanted.per_host_limit,
            max_connections=max(128, self.settings.engine.max_attempts_in_flight),
            max_redirects=wanted.max_redirects,
        )

    # ---- the end

    def _failed(self, error: BaseException) -> None:
        """A part of the server is broken: better to end with a message than to go on doing nothing."""
        if self._failure is None:
            self._failure = error
            log.error("failed", error=f"{type(error).__name__}: {error}")
        self._stop.set()

    def _web_ended(self, serving: asyncio.Task[None], web: _Web) -> None:
        error = None if serving.cancelled() else serving.exception()
        if error is not None or not web.should_exit:
            self._failed(error or RuntimeError("the API has ended by itself"))

    def _install_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                loop.add_signal_handler(number, self._signalled)
            except NotImplementedError:  # Windows has no signal handlers in the loop
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._signalled))

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            # Asked twice: end at once. What was in flight is taken up at the next start.
            os._exit(_FORCED_EXIT)
        self._stop.set()


class _Web(uvicorn.Server):
    """uvicorn without its own signal handlers: `Server` decides when to leave."""

    def __init__(self, app: Any, settings: Settings) -> None:
        tls: dict[str, Any] = {}
        if settings.server.tls_cert:
            tls = {
                "ssl_certfile": settings.home / settings.server.tls_cert,
                "ssl_keyfile": settings.home / settings.server.tls_key,
            }
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                http=GuardedProtocol,
                ws="none",
                lifespan="off",
                server_header=False,
                proxy_headers=bool(settings.server.trusted_proxies),
                forwarded_allow_ips=list(settings.server.trusted_proxies) or None,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=75,
                h11_max_incomplete_event_size=64 * 1024,
                **tls,
            )
        )

        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(home: Path, flags: Mapping[str, str | int], make: type[Server] = Server, *, machine: bool = False) -> int:
    """Run the server in the foreground until it ends. Returns 0, or 1 after one clear line on stderr.

    `machine`: the ready line is a JSON object.

    `make` puts the parts together: a test gives one that wraps them.
    """
    try:
        create_home(home)
        settings = load_settings(home, os.environ, dict(flags))
        configure_logging(settings.log.level, settings.log.format)
        keep_small(home / LOG_FILE, settings.log.file_mib * 1024 * 1024)
        lock = HomeLock(home)
        try:
            check_tls(settings)
            sock = _listen(settings)
            _warn(settings)
            return _run(make, settings, sock, lock, machine)
        finally:
            lock.release()
    except TaskForgeError as error:
        for line in error.message.splitlines():
            print(f"taskforge: {line}", file=sys.stderr)
        return 1


def _run(make: type[Server], settings: Settings, sock: socket.socket, lock: HomeLock, machine: bool) -> int:
    async def main() -> int:
        server = make(settings, sock)
        server.machine = machine
        return await server.run(lock)

    if sys.platform != "win32" and sys.implementation.name == "cpython":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main())
    return asyncio.run(main())


def _ready_line(url: str, home: Path, *, machine: bool) -> str:
    if machine:
        return json.dumps({"server": url, "pid": os.getpid(), "home": str(home), "version": __version__})
    return f"taskforge {__version__} is ready at {url} (home {home})"


def _collect_less() -> None:
    """Leave what the start has made out of every garbage collection, and collect more rarely: a run makes hundreds of
    short-lived objects and hardly any cycle (docs/performance.md)."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
        sock.setblocking(False)
        sock.set_inheritable(False)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "stop what listens there, or choose another with --port or [server] port"
        raise StartupError(f"cannot listen on {host} port {port}: {reason.lower()}; {hint}") from None
    return sock


def _warn(settings: Settings) -> None:
    for warning in settings.warnings:
        print(f"taskforge: warning: {warning}", file=sys.stderr)
    host = settings.server.host
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not loopback and not settings.server.tls_cert and not settings.server.trusted_proxies:
        print(
            f"taskforge: warning: listening on {host} without TLS: tokens and data cross the network in the clear. "
            "Set [server] tls_cert and tls_key, or put a proxy in front and name it in trusted_proxies",
            file=sys.stderr,
        )


def _url(settings: Settings, sock: socket.socket) -> str:
    scheme = "https" if settings.server.tls_cert else "http"
    host = settings.server.host
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{sock.getsockname()[1]}"


def _public_url(settings: Settings, sock: socket.socket) -> str:
    """The address in links where no other is set: one that at least this machine reaches."""
    url = _url(settings, sock)
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
