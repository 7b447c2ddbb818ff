"""`foreach`: its window, its failures, its output, and what survives a crash or is retried."""

from __future__ import annotations

from typing import Any

import pytest

from taskforge.core.errors import Failure
from taskforge.core.model import JSON
from tests.core.driven import Driven, act, give


def each(items: JSON, *steps: dict[str, Any], id: str = "each", **config: Any) -> dict[str, Any]:
    """A `foreach` step; fields of the step itself are given with `step_`."""
    own = {key[5:]: config.pop(key) for key in list(config) if key.startswith("step_")}
    return {"id": id, "foreach": {"items": items, "steps": list(steps), **config}, **own}


def test_the_output_is_the_list_of_each_items_last_output_in_item_order() -> None:
    run = Driven(each([10, 20, 30], act("ask"), give("sum", "${{ $item + $index + $ask }}"), max_parallel=3))
    assert run.running() == ["each[0].ask", "each[1].ask", "each[2].ask"]
    for index in (2, 0, 1):
        run.succeed(f"each[{index}].ask", 100)
    assert (run.state, run.output_of("each")) == ("SUCCEEDED", [110, 121, 132])


def test_an_empty_list_gives_an_empty_list() -> None:
    run = Driven(each([], act("ask")))
    assert (run.state, run.output_of("each")) == ("SUCCEEDED", [])


def test_one_item_is_under_way_unless_max_parallel_says_more() -> None:
    run = Driven(each([1, 2, 3], act("ask")))
    assert run.running() == ["each[0].ask"]
    run.succeed("each[0].ask")
    assert run.running() == ["each[1].ask"] and run.state_of("each[2].ask") is None


def test_max_parallel_items_are_under_way_and_the_next_begins_when_one_has_ended() -> None:
    run = Driven(each([1, 2, 3, 4], act("ask"), act("tell"), max_parallel="${{ 1 + 1 }}"))
    assert run.running() == ["each[0].ask", "each[1].ask"]
    run.succeed("each[1].ask")
    assert run.running() == ["each[0].ask", "each[1].tell"]
    run.succeed("each[1].tell")
    assert run.running() == ["each[0].ask", "each[2].ask"]


def test_items_without_a_slot_go_before_items_that_have_not_begun() -> None:
    run = Driven(each([1, 2, 3, 4, 5], act("ask"), max_parallel=4), slots=2)
    assert run.running() == ["each[0].ask", "each[1].ask"]
    run.succeed("each[0].ask")
    assert run.running() == ["each[1].ask", "each[2].ask"]
    run.succeed("each[1].ask")
    assert run.running() == ["each[2].ask", "each[3].ask"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (None, "foreach.items: must be a list, not null"),
        ({"a": 1}, "foreach.items: must be a list, not a mapping"),
        ("a,b", "foreach.items: must be a list, not text"),
    ],
)
def test_items_that_are_no_list_fail_the_step(items: JSON, message: str) -> None:
    run = Driven(give("list", items), each("${{ $list }}", act("ask")))
    assert run.error == Failure("INVALID_CONFIG", message, "each", None, {"path": "foreach.items"})


def test_more_items_than_the_limit_fail_the_step_before_any_begins() -> None:
    run = Driven(each([1, 2, 3], act("ask")), foreach_limit=2)
    assert run.error is not None and run.error.code == "TOO_MANY_ITEMS"
    assert "3 items; the limit is 2" in run.error.message
    assert run.states() == {"each": "FAILED"}


@pytest.mark.parametrize("width", [0, 1001, "2", 1.5])
def test_a_window_out_of_range_fails_the_step(width: JSON) -> None:
    run = Driven(give("n", width), each([1], act("ask"), max_parallel="${{ $n }}"))
    assert run.error is not None and run.error.code == "INVALID_CONFIG"
    assert run.error.detail == {"path": "foreach.max_parallel"}


def test_a_failed_item_fails_the_step_after_the_others_have_ended() -> None:
    run = Driven(each([1, 2, 3], act("ask"), max_parallel=2))
    run.fail("each[1].ask")
    assert run.state == "RUNNING" and run.running() == ["each[0].ask", "each[2].ask"]
    run.fail("each[0].ask")
    run.succeed("each[2].ask")
    assert run.state == "FAILED"
    # The first in item order, not in time: after a crash only that order is known.
    assert run.error == Failure("STATUS_UNEXPECTED", "wrong", "each[0].ask", 1, {"failed": 2, "index": 0})
    assert run.state_of("each") == "FAILED" and run.output_of("each") is None


def test_with_fail_fast_the_others_are_cancelled_and_the_rest_do_not_begin() -> None:
    run = Driven(each([1, 2, 3], act("ask"), max_parallel=2, fail_fast=True))
    run.fail("each[1].ask")
    assert run.state == "FAILED"
    assert run.states() == {"each": "FAILED", "each[0].ask": "CANCELLED", "each[1].ask": "FAILED"}
    assert run.error is not None and run.error.detail == {"failed": 1, "index": 1}


def test_continue_on_error_keeps_the_list_with_null_for_failed_items() -> None:
    run = Driven(
        each([1, 2, 3], act("ask"), max_parallel=3, step_continue_on_error=True), give("after", "${{ $each }}")
    )
    run.succeed("each[0].ask", "a")
    run.fail("each[1].ask")
    run.succeed("each[2].ask", "c")
    assert run.state == "SUCCEEDED" and run.state_of("each") == "FAILED"
    assert run.output_of("after") == ["a", None, "c"]
    assert not run.stored.dead_letters, "the block takes the failure"


def test_a_failure_that_is_taken_inside_the_item_gives_null() -> None:
    run = Driven(each([1, 2], act("ask", continue_on_error=True), max_parallel=2))
    run.fail("each[0].ask")
    run.succeed("each[1].ask", "b")
    assert (run.state, run.output_of("each")) == ("SUCCEEDED", [None, "b"])


def test_items_see_their_own_steps_and_the_loops_around_them() -> None:
    inner = each("${{ $item.list }}", give("sum", "${{ [$outer, $item, $index] }}"), id="inner")
    run = Driven(each([{"list": [1, 2]}, {"list": [3]}], give("outer", "${{ $index }}"), inner))
    assert run.output_of("each") == [[[0, 1, 0], [0, 2, 1]], [[1, 3, 0]]]


def test_after_a_crash_the_items_that_had_ended_are_kept_and_the_window_is_filled_again() -> None:
    run = Driven(each([1, 2, 3, 4], act("ask"), max_parallel=2))
    run.succeed("each[1].ask", "b")
    run.die()
    assert run.running() == ["each[0].ask", "each[2].ask"]
    run.succeed("each[0].ask", "a")
    run.succeed("each[2].ask", "c")
    run.succeed("each[3].ask", "d")
    assert (run.state, run.output_of("each")) == ("SUCCEEDED", ["a", "b", "c", "d"])


def test_after_a_crash_a_failed_item_still_fails_the_step() -> None:
    run = Driven(each([1, 2], act("ask"), max_parallel=2))
    run.fail("each[0].ask")
    run.die()
    run.succeed("each[1].ask")
    assert run.state == "FAILED" and run.error is not None and run.error.detail == {"failed": 1, "index": 0}


def test_a_retry_runs_only_failed_items_again_and_keeps_to_the_window() -> None:
    run = Driven(each([1, 2, 3, 4], act("ask"), act("tell"), max_parallel=4))
    for index in range(4):
        run.succeed(f"each[{index}].ask", index)
    run.succeed("each[1].tell", "kept")
    for index in (0, 2, 3):
        run.fail(f"each[{index}].tell")
    assert run.state == "FAILED"
    run.retry()
    assert run.running() == ["each[0].tell", "each[2].tell", "each[3].tell"]
    assert run.run.steps["each[1].tell"].generation == 1
    assert run.run.steps["each[2].tell"].generation == 2 and run.run.steps["each[2].ask"].generation == 1
    for index in (0, 2, 3):
        run.succeed(f"each[{index}].tell", index)
    assert (run.state, run.output_of("each")) == ("SUCCEEDED", [0, "kept", 2, 3])


def test_a_retry_takes_failed_items_up_one_after_the_other_even_across_a_crash() -> None:
    run = Driven(each([1, 2, 3], act("ask")))
    for index in range(3):
        run.fail(f"each[{index}].ask")
    run.retry()
    assert run.running() == ["each[0].ask"]
    run.die()
    assert run.running() == ["each[0].ask"], "the failures of the first generation count no more"
    run.succeed("each[0].ask", "a")
    run.die()
    assert run.running() == ["each[1].ask"]
    run.succeed("each[1].ask", "b")
    run.succeed("each[2].ask", "c")
    assert (run.state, run.output_of("each")) == ("SUCCEEDED", ["a", "b", "c"])


def test_a_retry_after_fail_fast_also_begins_what_had_not_begun() -> None:
    run = Driven(each([1, 2, 3], act("ask"), max_parallel=2, fail_fast=True))
    run.fail("each[1].ask")
    run.retry()
    assert run.running() == ["each[0].ask", "each[1].ask"]
    run.succeed("each[0].ask", "a")
    run.succeed("each[1].ask", "b")
    run.succeed("each[2].ask", "c")
    assert (run.state, run.output_of("each")) == ("SUCCEEDED", ["a", "b", "c"])


def test_a_retry_from_a_step_of_one_item_runs_that_item_on_and_leaves_the_others() -> None:
    run = Driven(each([1, 2, 3], act("ask"), act("tell"), max_parallel=3), act("after"))
    for index in range(3):
        run.succeed(f"each[{index}].ask", index)
        run.succeed(f"each[{index}].tell", f"old {index}")
    run.fail("after")
    run.retry("each[1].ask")
    assert run.running() == ["each[1].ask"] and run.state_of("each") == "RUNNING"
    run.succeed("each[1].ask")
    assert run.running() == ["each[1].tell"]
    run.die()
    run.succeed("each[1].tell", "new 1")
    assert run.output_of("each") == ["old 0", "new 1", "old 2"]
    assert run.running() == ["after"]
    run.succeed("after")
    assert run.state == "SUCCEEDED"


def test_a_list_above_the_output_limit_is_dropped_where_nothing_reads_it() -> None:
    big = [letter * 300 for letter in "abcd"]
    doubled = each("${{ $list + $list }}", give("out", "${{ $item }}"))
    unread = Driven(give("list", big[:3]), doubled, output_limit=1_000)
    assert unread.state == "SUCCEEDED" and unread.output_of("each") is None
    assert "OUTPUT_DROPPED" in unread.codes("each")
    read = Driven(give("list", big[:3]), doubled, give("after", "${{ $each | length }}"), output_limit=1_000)
    assert read.error is not None and read.error.code == "OUTPUT_TOO_LARGE"


def test_the_row_of_the_step_is_written_at_its_beginning_and_at_its_end_only() -> None:
    run = Driven(each(list(range(20)), act("ask"), max_parallel=4))
    for index in range(20):
        written = [row.path for row in run.succeed(f"each[{index}].ask").steps]
        assert ("each" in written) == (index == 19)
