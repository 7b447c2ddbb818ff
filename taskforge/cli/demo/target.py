"""The demo's other side: a small HTTP service that is down at first, and slow when it matters."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

ORDERS: dict[str, list[dict[str, Any]]] = {
    "orders": [
        {"id": 12345678901234567890, "open": True, "total": 99.5},
        {"id": 12345678901234567891, "open": False, "total": 12},
        {"id": 12345678901234567892, "open": True, "total": 7},
    ]
}
_HELD_S = 30.0


class Seen(NamedTuple):
    """One request, as it came."""

    path: str
    key: str
    body: bytes


class Target:
    """Answers 503 to the first two requests for /orders. The third one, and the first to /notify, it holds: it keeps
    them waiting until `release`. `holds` becomes set when a request is being held.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.holds = threading.Event()
        self._released = threading.Event()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def release(self) -> None:
        """Let the held request go, and be ready to hold the next one."""
        self.holds.clear()
        self._released.set()
        self._released = threading.Event()

    def close(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def keys(self, path: str) -> list[str]:
        """The Idempotency-Key of every request to a path, in their order."""
        return [seen.key for seen in self.seen if seen.path == path]

    def _answer(self, seen: Seen) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.seen.append(seen)
            self._counts[seen.path] += 1
            count, released = self._counts[seen.path], self._released
        if seen.path == "/orders" and count <= 2:
            return 503, {"error": "still starting"}
        if (seen.path, count) in (("/orders", 3), ("/notify", 1)):
            self.holds.set()
            released.wait(_HELD_S)
        return 200, ORDERS if seen.path == "/orders" else {"accepted": True}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        target = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, value = target._answer(Seen(self.path, self.headers.get("idempotency-key", ""), body))
                content = json.dumps(value).encode()
                try:
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    self.close_connection = True  # who asked was killed meanwhile

            do_POST = do_GET

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """The demo tells its story itself."""

        return Handler
