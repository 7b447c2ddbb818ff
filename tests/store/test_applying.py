"""Many definitions in one transaction."""

from __future__ import annotations

import pytest

from taskforge.core.errors import NotFound, WorkflowsMoved
from taskforge.store.protocol import LiveRuns, NewVersion, Published
from taskforge.store.triggered import TriggerSpec
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import ONE_CALL

HOURLY = TriggerSpec("hourly", "cron", config='{"cron":"0 * * * *"}', cursor=5, next_at=3_600_000)


def new(name: str, document: str = "{}", *triggers: TriggerSpec) -> NewVersion:
    return NewVersion(name, document, f"# {document}", "yaml", None, triggers)


async def test_all_are_stored_with_their_triggers_and_others_deleted(desk: Desk) -> None:
    await desk.store.apply_workflows([new("gone", "{}", HOURLY)], [], {}, desk.clock.now())
    found = await desk.store.apply_workflows(
        [new("a", "1", HOURLY), new("flow", "2"), new("a-b", "{}")], ["gone", "never-there"], {}, desk.clock.now()
    )
    assert found.deleted == ["gone"]
    assert found.published == [
        Published("a", 1, changed=True, created=True),
        Published("flow", 2, changed=True, created=False),
        Published("a-b", 1, changed=True, created=True),
    ]
    with pytest.raises(NotFound):
        await desk.store.get_workflow("gone")
    rows = await desk.store.list_schedules(None, 0, 10)
    assert [(row.workflow, row.active) for row in rows] == [("a", True)]
    newest = await desk.store.list_newest_versions(None, 10)
    assert [(row.workflow, row.version, row.document) for row in newest] == [
        ("a", 1, "1"),
        ("a-b", 1, "{}"),
        ("flow", 2, "2"),
    ]
    assert [row.workflow for row in await desk.store.list_newest_versions("a", 1)] == ["a-b"]


async def test_a_second_time_nothing_changes(desk: Desk, backend: Backend) -> None:
    versions = [new("a", "1", HOURLY), new("b", "2")]
    await desk.store.apply_workflows(versions, [], {}, desk.clock.now())
    before = backend.dump()
    desk.clock.advance(5)
    found = await desk.store.apply_workflows(versions, ["gone"], {"a": 1, "c": 0}, desk.clock.now())
    assert [one.changed for one in found.published] == [False, False]
    assert backend.dump() == before


async def test_a_version_that_moved_refuses_all_of_it(desk: Desk, backend: Backend) -> None:
    await desk.store.apply_workflows([new("a", "1"), new("b", "2")], [], {}, desk.clock.now())
    await desk.store.apply_workflows([new("a", "3")], [], {}, desk.clock.now())
    before = backend.dump()
    with pytest.raises(WorkflowsMoved) as refused:
        expected = {"a": 1, "b": 1, "c": 3, "flow": 0}
        await desk.store.apply_workflows([new("x"), new("b", "9")], ["a"], expected, desk.clock.now())
    assert refused.value.detail == {
        "moved": [
            {"name": "a", "expected": 1, "version": 2},
            {"name": "c", "expected": 3, "version": 0},
            {"name": "flow", "expected": 0, "version": 1},
        ]
    }
    assert "c is not there, and was expected at version 3" in refused.value.message
    assert backend.dump() == before


async def test_a_deleted_workflow_is_not_there_and_comes_back(desk: Desk) -> None:
    await desk.store.apply_workflows([], ["flow"], {"flow": 1}, desk.clock.now())
    found = await desk.store.apply_workflows([new("flow", "7")], [], {"flow": 0}, desk.clock.now())
    assert found.published == [Published("flow", 2, changed=True, created=True)]


async def test_live_runs_are_counted_by_version_and_state(desk: Desk) -> None:
    assert await desk.store.count_live_runs() == []
    for _ in range(3):
        await desk.start(ONE_CALL)
    await desk.store.delete_workflow("flow", desk.clock.now())
    assert await desk.store.count_live_runs() == [LiveRuns("flow", 1, "RUNNING", 3)]
