"""Is it alive, is it ready, how much is there; and what the API says of itself."""

from __future__ import annotations

from starlette.responses import Response

from taskforge.api.call import Call, JsonResponse, json_response
from taskforge.api.docs_page import docs_page
from taskforge.api.openapi import openapi_bytes
from taskforge.api.schemas import EVERYTHING, stats_shape
from taskforge.core.errors import Unavailable

_PAGE_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


async def healthz(call: Call) -> Response:
    """Alive: the loop turns and no task of the engine has died."""
    reason = call.service.liveness()
    if reason is not None:
        raise Unavailable(reason)
    return json_response({"status": "ok"})


async def readyz(call: Call) -> Response:
    """Ready: the store answers and the engine's loop is turning."""
    reason = await call.service.readiness()
    if reason is not None:
        raise Unavailable(reason)
    return json_response({"status": "ready", "held": EVERYTHING in call.service.held})


async def stats(call: Call) -> Response:
    """Counts, exact at the time of the call."""
    return json_response(stats_shape(await call.service.stats(), call.service.held))


async def metrics(call: Call) -> Response:
    """The same counts, as Prometheus reads them."""
    # Only here: the library costs time and memory at import, and few servers are scraped.
    from taskforge.api.metrics import MEDIA_TYPE, metrics_text

    return Response(metrics_text(await call.service.stats(), call.service.in_flight), 200, None, MEDIA_TYPE)


async def openapi(call: Call) -> Response:
    """This API as an OpenAPI 3.1 document."""
    pages = call.context.pages
    if "openapi" not in pages:
        pages["openapi"] = openapi_bytes(call.context.routes)
    return JsonResponse(pages["openapi"], 200)


async def docs(call: Call) -> Response:
    """This API as a page for people."""
    pages = call.context.pages
    if "docs" not in pages:
        pages["docs"] = docs_page(call.context.routes)
    return Response(pages["docs"], 200, dict(_PAGE_POLICY), "text/html; charset=utf-8")
