"""Examples of waiting, of things that go wrong and of taking back, each run against a scripted target."""

from __future__ import annotations

from urllib.parse import urlsplit

from tests.examples.running import Stage, ended_well, states
from tests.support.target import Answer


def test_trip_booking_takes_everything_back_in_reverse_order(stage: Stage) -> None:
    stage.target.answer("/flights", Answer(body={"id": "f1"}))
    stage.target.answer("/hotels", Answer(body={"id": "h1"}))
    stage.target.answer("/hotels/h1", Answer(410))
    stage.target.answer("/cars", Answer(503))
    run = stage.run("trip-booking", trip="rome", api=stage.target.url)
    assert (run["state"], run["error"]["step"]) == ("FAILED", "car")
    assert stage.seen() == [
        "POST /flights",
        "POST /hotels",
        "POST /cars",
        "POST /cars",
        "DELETE /hotels/h1",
        "DELETE /flights/f1",
        "POST /messages",
    ]
    assert stage.bodies("/messages") == [{"trip": "rome", "text": "not booked: car said STATUS_UNEXPECTED"}]
    assert stage.server.call("POST", f"/v1/runs/{run['id']}/retry", {})[0] == 409


def test_trip_booking_books_all_three(stage: Stage) -> None:
    for path, id in (("/flights", "f"), ("/hotels", "h"), ("/cars", "c")):
        stage.target.answer(path, Answer(body={"id": id}))
    run = stage.run("trip-booking", trip="oslo", api=stage.target.url)
    assert ended_well(run) and run["output"] == {"flight": "f", "hotel": "h", "car": "c"}
    assert stage.seen() == ["POST /flights", "POST /hotels", "POST /cars"]


def test_pay_once_finds_a_payment_whose_answer_was_lost(stage: Stage) -> None:
    stage.target.answer("/payments", Answer(then="reset"), Answer(body=[{"id": "p1"}]))
    run = stage.run("pay-once", invoice="i1", amount=5, bank=stage.target.url)
    assert ended_well(run)
    assert run["output"] == {"payment": "p1", "found_by_probe": True}
    assert stage.seen() == ["POST /payments", "GET /payments?reference=i1"]


def test_pay_once_sends_again_what_had_not_arrived(stage: Stage) -> None:
    stage.target.answer("/payments", Answer(then="reset"), Answer(body=[]), Answer(body={"id": "p2"}))
    run = stage.run("pay-once", invoice="i2", amount=5, bank=stage.target.url)
    assert ended_well(run)
    assert run["output"]["payment"] == "p2"
    assert stage.seen() == ["POST /payments", "GET /payments?reference=i2", "POST /payments"]
    first, _, second = stage.target.requests()
    assert first.key == second.key == f"{run['id']}/pay"


def test_pay_once_leaves_the_probe_alone_when_the_answer_came(stage: Stage) -> None:
    stage.target.answer("/payments", Answer(body={"id": "p3"}))
    run = stage.run("pay-once", invoice="i3", amount=5, bank=stage.target.url)
    assert ended_well(run) and run["output"] == {"payment": "p3", "found_by_probe": False}
    assert stage.seen() == ["POST /payments"]


def test_import_with_alarm_takes_the_mirror_and_cleans_up(stage: Stage) -> None:
    stage.target.answer("/files/a", Answer(404))
    stage.target.answer("/mirror/a", Answer(body={"rows": [1, 2]}))
    run = stage.run("import-with-alarm", file="a", api=stage.target.url, alarm_url=f"{stage.target.url}/alarm")
    assert ended_well(run)
    assert run["output"] == {"rows": 2, "note": "mirror used: STATUS_UNEXPECTED in attempt 1"}
    assert stage.seen() == [
        "POST /lock",
        "GET /files/a",
        "GET /mirror/a",
        "DELETE /lock",
        "POST /rows",
        f"DELETE /tmp/{run['number']}",
        "POST /alarm",
    ]
    (alarm,) = stage.bodies("/alarm")
    assert alarm == {
        "workflow": "import-with-alarm",
        "version": 1,
        "run": run["id"],
        "number": run["number"],
        "state": "SUCCEEDED",
        "error": None,
        "text": f"import-with-alarm#{run['number']} succeeded",
    }


def test_import_with_alarm_tells_what_failed(stage: Stage) -> None:
    stage.target.answer("/files/b", Answer(body={"rows": [1]}))
    stage.target.answer("/rows", Answer(422))
    run = stage.run("import-with-alarm", file="b", api=stage.target.url, alarm_url=f"{stage.target.url}/alarm")
    assert (run["state"], run["error"]["step"]) == ("FAILED", "load")
    assert stage.seen()[-4:] == ["POST /rows", "POST /quarantine", f"DELETE /tmp/{run['number']}", "POST /alarm"]
    assert stage.bodies("/quarantine") == [{"file": "b", "step": "load", "rows": [1]}]
    (alarm,) = stage.bodies("/alarm")
    assert (alarm["state"], alarm["error"]["code"]) == ("FAILED", "STATUS_UNEXPECTED")
    assert alarm["text"].startswith(f"import-with-alarm#{run['number']} failed at load: ")


def test_approval_goes_on_with_the_answer_of_a_person(stage: Stage) -> None:
    started = stage.start("approval", request="more coffee", chat=f"{stage.target.url}/chat")
    (ask,) = stage.target.await_requests(1, "/chat")
    assert ask.json["text"] == "Please decide: more coffee"
    assert stage.signal(started["id"], "decision", {"approve": "yes"}) == 422
    assert stage.signal(started["id"], "decision", {"approve": True, "by": "ada"}) == 202
    run = stage.await_end(started["id"])
    assert ended_well(run) and run["output"] == {"approved": True, "by": "ada"}
    assert stage.bodies("/chat")[1:] == [{"text": "granted"}]


def test_approval_takes_the_answer_of_who_has_the_link(stage: Stage) -> None:
    started = stage.start("approval", request="more tea", chat=f"{stage.target.url}/chat")
    (ask,) = stage.target.await_requests(1, "/chat")
    link = urlsplit(ask.json["link"])
    where = link.path + (f"?{link.query}" if link.query else "")
    answer = {"approve": False, "by": "bob"}
    assert stage.server.call("POST", where, answer, {"Authorization": ""})[0] in (200, 202)
    run = stage.await_end(started["id"])
    assert (run["state"], run["error"]["code"]) == ("FAILED", "REFUSED")
    assert run["error"]["message"] == "refused by bob"
    assert stage.server.call("POST", where, answer, {"Authorization": ""})[0] >= 400


def test_approval_escalates_when_nobody_answers(stage: Stage) -> None:
    run = stage.run("approval", request="less noise", chat=f"{stage.target.url}/chat", patience="50ms")
    assert ended_well(run) and run["output"] == {"approved": False, "by": "nobody"}
    assert [body["text"] for body in stage.bodies("/chat")] == [
        "Please decide: less noise",
        "nobody decided: less noise",
    ]


def test_trial_reminder_waits_looks_again_and_reminds(stage: Stage) -> None:
    stage.target.answer("/users/ada", Answer(body={"plan": "trial", "mail": "ada@example.com"}))
    run = stage.run("trial-reminder", user="ada", trial_ends_at="2020-01-03T00:00:00Z", api=stage.target.url)
    assert ended_well(run) and run["output"] == {"reminded": True}
    assert [body["template"] for body in stage.bodies("/mails")] == ["trial-ends", "discount"]


def test_trial_reminder_leaves_alone_who_has_paid(stage: Stage) -> None:
    stage.target.answer("/users/bob", Answer(body={"plan": "pro"}))
    run = stage.run("trial-reminder", user="bob", trial_ends_at="2020-01-03T00:00:00Z", api=stage.target.url)
    assert ended_well(run) and run["output"] == {"reminded": False}
    assert stage.seen() == ["GET /users/bob"]
    assert "remind" not in states(run) or states(run)["remind"] == "PENDING"
