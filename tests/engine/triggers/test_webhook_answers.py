"""Hooks: what the run answers, and deliveries that are taken again."""

from __future__ import annotations

from tests.api.asgi import request
from tests.engine.triggers.engine import ADMIN, Engine, github_signature
from tests.engine.triggers.hooks import deliveries, document

# ---- the answer of the run


async def test_a_run_answers_its_delivery_and_each_retry_of_it(engine: Engine) -> None:
    await engine.apply(
        document(
            "verify: none, dedupe: '${{ $trigger.body.id }}', "
            "respond: {status: '${{ $a.status }}', headers: {x-run: '${{ $run.id }}'}, body: {got: '${{ $a.v }}'}}"
        )
    )
    for _ in range(2):
        reply = await engine.post("/hooks/w/hook", {"id": 1, "status": 207, "v": 12345678901234567890})
        assert (reply.status, reply.body) == (207, b'{"got":12345678901234567890}')
        assert reply.header("content-type") == "application/json"
    (run,) = await engine.runs()
    assert reply.header("x-run") == run["id"]


async def test_an_answer_of_text_is_text_and_one_without_a_body_is_the_output(engine: Engine) -> None:
    await engine.apply(document("verify: none, respond: {body: 'hello ${{ $trigger.body }}'}"))
    reply = await engine.post("/hooks/w/hook", {"n": 1})
    assert (reply.body, reply.header("content-type")) == (b'hello {"n":1}', "text/plain; charset=utf-8")
    await engine.apply(document("verify: none, respond: {}"))
    assert (await engine.post("/hooks/w/hook", {"n": 1})).body == b'{"n":1}'


async def test_a_run_that_takes_longer_answers_202_with_its_place(engine: Engine) -> None:
    trigger = "triggers: {hook: {webhook: {verify: none, respond: {wait: 50ms}}}}"
    await engine.apply(f"name: w\n{trigger}\nsteps: [{{id: a, wait: {{for: 1h}}}}]\n")
    reply = await engine.post("/hooks/w/hook")
    assert reply.status == 202 and reply.header("location") == f"/v1/runs/{reply.json()['id']}"


async def test_a_run_that_fails_or_an_answer_that_cannot_be_made_is_a_500_that_names_the_run(engine: Engine) -> None:
    await engine.apply(
        "name: w\ntriggers: {hook: {webhook: {verify: none, respond: {}}}}\n"
        "steps: [{id: a, fail: {message: secret plans}}]\n"
    )
    reply = await engine.post("/hooks/w/hook")
    assert (reply.status, reply.code, reply.json()["state"]) == (500, "RESPOND_FAILED", "FAILED")
    assert b"secret plans" not in reply.body
    for respond in ("{status: '${{ $a }}'}", "{headers: {content-length: '1'}}", "{body: '${{ $a | error }}'}"):
        await engine.apply(document(f"verify: none, respond: {respond}", step="x"))
        assert (await engine.post("/hooks/w/hook")).code == "RESPOND_FAILED"


# ---- replay


async def test_a_delivery_is_replayed_without_verification_as_a_new_run(engine: Engine) -> None:
    await engine.values.put_secret("GH", "github secret value")
    await engine.apply(document("verify: {scheme: github, secret: GH}", step="one"))
    body = b'{"a":1}'
    signed = {"x_hub_signature_256": github_signature("github secret value", body), "x_github_delivery": "d1"}
    first = (await engine.post("/hooks/w/hook", body, content_type="application/json", **signed)).json()
    await engine.apply(document("verify: {scheme: github, secret: GH}", step="two"))
    path = f"/v1/deliveries/{first['delivery']}/replay"
    status, newest = await engine.call("POST", path)
    assert status == 202 and newest["id"] != first["id"]
    assert (await engine.call("POST", path, {"version": 1}))[0] == 202
    assert [run["output"] for run in await engine.runs()] == ["one", "two", "one"]
    shown = await deliveries(engine)
    assert [row["replay_of"] for row in shown] == [first["delivery"]] * 2 + [None]
    assert (await engine.call("POST", path, {"version": 9}))[0] == 404
    assert (await engine.call("POST", "/v1/deliveries/dlv_x/replay"))[0] == 404


async def test_a_filtered_delivery_is_replayed_through_the_new_filter(engine: Engine) -> None:
    await engine.apply(document("verify: none, if: false"))
    kept = (await engine.post("/hooks/w/hook", {"n": 1})).json()["delivery"]
    assert (await engine.call("POST", f"/v1/deliveries/{kept}/replay"))[0] == 200
    await engine.apply(document("verify: none, if: '${{ $trigger.body.n == 1 }}'"))
    assert (await engine.call("POST", f"/v1/deliveries/{kept}/replay"))[0] == 202


async def test_a_delivery_without_its_body_cannot_be_replayed(engine: Engine) -> None:
    await engine.apply(document())
    kept = (await engine.post("/hooks/w/hook", b"x" * 100)).json()["delivery"]
    await engine.store.prune_deliveries(0, 0, 10)
    _, shown = await engine.call("GET", f"/v1/deliveries/{kept}")
    assert (shown["body"], shown["body_b64"], shown["body_bytes"]) == (None, None, 100)
    status, problem = await engine.call("POST", f"/v1/deliveries/{kept}/replay")
    assert (status, problem["code"]) == (409, "DELIVERY_GONE")


async def test_deliveries_are_searched_and_paged(engine: Engine) -> None:
    await engine.apply(document())
    for number in range(5):
        await engine.post("/hooks/w/hook", {"order": f"A-{number}"})
    _, page = await engine.call("GET", "/v1/deliveries?search=a-3")
    assert [row["body_bytes"] for row in page["items"]] == [15] and page["next_cursor"] is None
    _, page = await engine.call("GET", "/v1/deliveries?limit=3")
    _, rest = await engine.call("GET", f"/v1/deliveries?limit=3&cursor={page['next_cursor']}")
    assert (len(page["items"]), len(rest["items"]), rest["next_cursor"]) == (3, 2, None)
    reply = await request(engine.api, "GET", "/v1/deliveries", token=None)
    assert reply.status == 401
    assert (await request(engine.api, "GET", "/v1/deliveries", token=ADMIN)).status == 200
