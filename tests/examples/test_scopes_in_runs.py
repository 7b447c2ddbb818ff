"""What validation lets an expression see is what it gets when the run gets there."""

from __future__ import annotations

from typing import Any

from tests.examples.running import Stage, ended_well, states
from tests.support.target import Answer


def run_document(stage: Stage, document: str, **input: Any) -> dict[str, Any]:
    name = document.split("name: ", 1)[1].split("\n", 1)[0]
    status, answer = stage.server.call("PUT", f"/v1/workflows/{name}", document.encode())
    assert status in (200, 201), answer
    return stage.run(name, target=stage.target.url, **input)


def outputs(run: dict[str, Any]) -> dict[str, Any]:
    return {step["path"]: step["output"] for step in run["steps"]}


def test_loops_inside_loops_have_the_innermost_item_and_round(stage: Stage) -> None:
    run = run_document(
        stage,
        """
name: scopes-loops
steps:
  - id: outer
    foreach:
      items: [a, b]
      max_parallel: 2
      steps:
        - {id: name, transform: "${{ $item }}"}
        - id: inner
          foreach:
            items: [1, 2]
            steps: [{id: cell, transform: "${{ [$name, $item, $index] }}"}]
        - id: rounds
          repeat:
            until: ${{ $seen.round == $inner[1][2] }}
            max: 5
            steps: [{id: seen, transform: {round: "${{ $index }}", item: "${{ $item }}"}}]
        - {id: all, transform: {cells: "${{ $inner }}", last: "${{ $rounds }}"}}
output: ${{ $outer }}
""",
    )
    assert ended_well(run)
    assert run["output"] == [
        {"cells": [["a", 1, 0], ["a", 2, 1]], "last": {"round": 1, "item": "a"}},
        {"cells": [["b", 1, 0], ["b", 2, 1]], "last": {"round": 1, "item": "b"}},
    ]
    assert outputs(run)["outer[1].rounds[1].seen"] == {"round": 1, "item": "b"}


def test_handlers_see_the_error_their_item_and_null_for_what_did_not_run(stage: Stage) -> None:
    stage.target.answer("/2", Answer(404))
    run = run_document(
        stage,
        """
name: scopes-handlers
inputs: {type: object, properties: {target: {type: string}}}
steps:
  - id: each
    foreach:
      items: [1, 2]
      steps:
        - id: ask
          http: {url: "${{ $input.target }}/${{ $item }}"}
          catch:
            - {id: why, transform: "${{ [$error.code, $error.step, $item, $ask, $late] }}"}
          finally:
            - {id: cleaned, transform: ["${{ $error.code }}", "${{ $why }}"]}
        - {id: standing, transform: "${{ $steps.ask.state }}"}
  - {id: late, transform: 1}
output: ${{ $each }}
""",
    )
    assert ended_well(run) and run["output"] == ["SUCCEEDED", "FAILED"]
    found = outputs(run)
    why = ["STATUS_UNEXPECTED", "each[1].ask", 2, None, None]
    assert found["each[1].why"] == why
    assert found["each[1].cleaned"] == ["STATUS_UNEXPECTED", why]
    assert found["each[0].cleaned"] == [None, None]
    assert "each[0].why" not in found


def test_undo_goes_backwards_through_items_and_branches_and_sees_each_ones_output(stage: Stage) -> None:
    stage.target.answer("/make", *[Answer(body={"id": n}) for n in (1, 2, 3)])
    run = run_document(
        stage,
        """
name: scopes-undo
inputs: {type: object, properties: {target: {type: string}}}
defaults: {retry: {max_attempts: 1}}
steps:
  - id: each
    foreach:
      items: [a, b]
      steps:
        - id: make
          http: {method: POST, url: "${{ $input.target }}/make"}
          undo: [{id: unmake, http: {method: DELETE, url: "${{ $input.target }}/${{ $item }}/${{ $make.body.id }}"}}]
  - id: route
    switch:
      - when: true
        steps:
          - id: more
            http: {method: POST, url: "${{ $input.target }}/make"}
            undo:
              - id: less
                http: {method: DELETE, url: "${{ $input.target }}/${{ $more.body.id }}/${{ $error.code }}"}
  - {id: stop, fail: {message: enough, code: ENOUGH}}
on_failure:
  - {id: told, transform: ["${{ $error.step }}", "${{ $steps.less.state }}", "${{ $more.body.id }}"]}
""",
    )
    assert (run["state"], run["error"]["code"]) == ("FAILED", "ENOUGH")
    assert stage.seen() == ["POST /make"] * 3 + ["DELETE /3/ENOUGH", "DELETE /b/2", "DELETE /a/1"]
    assert outputs(run)["told"] == ["stop", "SUCCEEDED", 3]
    assert states(run)["each[1].unmake"] == "SUCCEEDED"


def test_a_condition_of_retry_that_is_no_condition_fails_the_step(stage: Stage) -> None:
    stage.target.answer("/x", Answer(500))
    run = run_document(
        stage,
        """
name: scopes-retry
inputs: {type: object, properties: {target: {type: string}}}
steps:
  - {id: ask, http: {url: "${{ $input.target }}/x"}, retry: {when: "${{ $error.message }}"}}
""",
    )
    assert (run["state"], run["error"]["code"]) == ("FAILED", "EXPRESSION_ERROR")
    assert stage.seen() == ["GET /x"]


def test_a_default_message_to_slack_is_escaped_and_to_discord_bounded(stage: Stage) -> None:
    run = run_document(
        stage,
        """
name: scopes-notify
inputs: {type: object, properties: {target: {type: string}}}
steps:
  - {id: stop, fail: {message: "<!channel> & ${{ \\"x\\" * 3000 }}"}}
notify:
  - {slack: {url: "${{ $input.target }}/slack"}}
  - {discord: {url: "${{ $input.target }}/discord"}}
  - {on: [SUCCEEDED], webhook: {url: "${{ $input.target }}/never"}}
""",
    )
    assert run["state"] == "FAILED"
    assert stage.seen() == ["POST /slack", "POST /discord"]
    assert stage.bodies("/slack")[0]["text"].startswith(
        f"scopes-notify#{run['number']} failed at stop: &lt;!channel&gt; &amp; xxx"
    )
    assert len(stage.bodies("/discord")[0]["content"]) == 2000
    assert states(run) == {"stop": "FAILED", "notify_1": "SUCCEEDED", "notify_2": "SUCCEEDED"}


def test_a_message_that_cannot_be_delivered_changes_nothing_about_the_run(stage: Stage) -> None:
    stage.target.answer("/hook", Answer(400))
    run = run_document(
        stage,
        """
name: scopes-undelivered
inputs: {type: object, properties: {target: {type: string}}}
steps: [{id: one, transform: 1}]
output: ${{ $one }}
notify: [{on: [SUCCEEDED], webhook: {url: "${{ $input.target }}/hook"}}]
""",
    )
    assert ended_well(run) and run["output"] == 1
    assert states(run)["notify_1"] == "FAILED"


def test_steps_that_run_together_see_what_they_need_through_others(stage: Stage) -> None:
    run = run_document(
        stage,
        """
name: scopes-parallel
steps:
  - id: all
    parallel:
      - {id: d, needs: [c], transform: "${{ [$a, $b, $c] }}"}
      - {id: b, needs: [a], switch: [{when: "${{ $a == 1 }}", steps: [{id: inner, transform: 2}]}]}
      - {id: c, needs: [b], if: "${{ $inner == 3 }}", transform: 3}
      - {id: a, transform: 1}
output: ${{ $all }}
""",
    )
    assert ended_well(run)
    assert run["output"] == {"d": [1, 2, None], "b": 2, "c": None, "a": 1}
    assert states(run)["c"] == "SKIPPED"
