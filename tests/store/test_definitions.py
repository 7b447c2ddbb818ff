"""Workflows and their versions: publishing, enabling, deleting, listing."""

from __future__ import annotations

import asyncio

import pytest

from taskforge.core.errors import NotFound
from taskforge.store.protocol import Published, WorkflowRow
from tests.store.backends import Backend
from tests.store.desk import Desk
from tests.support.plans import ONE_CALL


async def publish(desk: Desk, name: str, document: str, description: str | None = None) -> Published:
    return await desk.store.publish_workflow(name, document, f"# {document}", "yaml", description, desk.clock.now())


async def test_a_new_workflow_is_enabled_and_has_version_one(desk: Desk) -> None:
    assert await publish(desk, "w", "{}", "what") == Published("w", 1, changed=True, created=True)
    now = desk.clock.now()
    assert await desk.store.get_workflow("w") == WorkflowRow("w", 1, True, False, "what", now, now)


async def test_an_unchanged_document_makes_no_version(desk: Desk, backend: Backend) -> None:
    await publish(desk, "w", "{}")
    before = backend.dump()
    desk.clock.advance(5)
    assert await publish(desk, "w", "{}") == Published("w", 1, changed=False, created=False)
    assert backend.dump() == before


async def test_a_changed_document_makes_the_next_version_and_the_old_one_stays(desk: Desk) -> None:
    for version, document in enumerate(["{}", "[1]", "{}", "[2]"], 1):
        assert (await publish(desk, "w", document)).version == version
    assert [row.document for row in await desk.store.list_versions("w", None, 10)] == ["[2]", "{}", "[1]", "{}"]
    row = await desk.store.get_version("w", 2)
    assert (row.workflow, row.version, row.document, row.source, row.media) == ("w", 2, "[1]", "# [1]", "yaml")


async def test_versions_come_in_pages_newest_first(desk: Desk) -> None:
    for i in range(7):
        await publish(desk, "w", str(i))
    first = await desk.store.list_versions("w", None, 4)
    rest = await desk.store.list_versions("w", first[-1].version, 4)
    assert [row.version for row in first + rest] == [7, 6, 5, 4, 3, 2, 1]
    assert await desk.store.list_versions("nowhere", None, 4) == []


async def test_a_version_that_is_not_there_is_not_found(desk: Desk) -> None:
    await publish(desk, "w", "{}")
    for name, version in [("w", 0), ("w", 2), ("nowhere", 1)]:
        with pytest.raises(NotFound):
            await desk.store.get_version(name, version)


async def test_disabling_and_enabling_answer_with_the_workflow_as_it_is_then(desk: Desk) -> None:
    await publish(desk, "w", "{}")
    desk.clock.advance(5)
    for enabled in (False, False, True):
        row = await desk.store.set_enabled("w", enabled, desk.clock.now())
        assert row.enabled is enabled and row.updated_at == desk.clock.now()
        assert await desk.store.get_workflow("w") == row


async def test_a_new_version_leaves_a_disabled_workflow_disabled(desk: Desk) -> None:
    await publish(desk, "w", "{}")
    await desk.store.set_enabled("w", False, desk.clock.now())
    await publish(desk, "w", "[]")
    assert not (await desk.store.get_workflow("w")).enabled


async def test_a_deleted_workflow_is_hidden_and_its_versions_and_runs_stay(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await desk.store.delete_workflow("flow", desk.clock.now())
    with pytest.raises(NotFound):
        await desk.store.get_workflow("flow")
    assert await desk.store.list_workflows(None, 10) == []
    assert (await desk.store.get_version("flow", 1)).version == 1
    await desk.succeed(run)
    assert (await desk.store.get_run("flow#1")).record.state == "SUCCEEDED"


async def test_what_is_unknown_or_deleted_is_refused_and_nothing_changes(desk: Desk, backend: Backend) -> None:
    await publish(desk, "gone", "{}")
    await desk.store.delete_workflow("gone", desk.clock.now())
    before = backend.dump()
    for name in ("gone", "nowhere"):
        with pytest.raises(NotFound):
            await desk.store.delete_workflow(name, desk.clock.now())
        with pytest.raises(NotFound):
            await desk.store.set_enabled(name, True, desk.clock.now())
    assert backend.dump() == before


@pytest.mark.parametrize("document", ['{"name":"flow"}', "{}"])
async def test_a_deleted_workflow_comes_back_enabled_with_its_numbers_going_on(desk: Desk, document: str) -> None:
    await desk.start()
    await desk.store.set_enabled("flow", False, desk.clock.now())
    await desk.store.delete_workflow("flow", desk.clock.now())
    published = await publish(desk, "flow", document)
    assert published.changed and published.created
    assert published.version == (1 if document == '{"name":"flow"}' else 2)
    assert (await desk.store.get_workflow("flow")).enabled
    assert (await desk.start()).number == 2


async def test_workflows_are_listed_by_name_in_pages(desk: Desk) -> None:
    for name in ("c", "a", "e", "b", "d"):
        await publish(desk, name, "{}")
    first = await desk.store.list_workflows(None, 3)
    rest = await desk.store.list_workflows(first[-1].name, 30)
    assert [row.name for row in first + rest] == ["a", "b", "c", "d", "e", "flow"]


async def test_many_who_publish_at_once_get_consecutive_versions(desk: Desk) -> None:
    answers = await asyncio.gather(*(publish(desk, "w", str(i)) for i in range(30)))
    assert sorted(answer.version for answer in answers) == list(range(1, 31))
    assert sum(answer.created for answer in answers) == 1


async def test_a_run_finishes_on_its_version_after_the_workflow_has_changed(desk: Desk) -> None:
    run = await desk.start(ONE_CALL)
    await publish(desk, "flow", "{}")
    await desk.succeed(run)
    assert (await desk.store.get_run(run.id)).version == 1
