"""The database itself: a backup, letting go of old runs, giving space back to the disk."""

from __future__ import annotations

from starlette.responses import Response

from taskforge.api.call import Call, json_response
from taskforge.core.clock import to_rfc3339


async def make_backup(call: Call) -> Response:
    """Copy the database into `backups/` of the server's home, beside everything that goes on."""
    made = await call.service.back_up()
    return json_response({"file": str(made.path), "bytes": made.size, "taken_at": to_rfc3339(made.taken_at)}, 201)


async def prune_runs(call: Call) -> Response:
    """Delete runs that ended longer ago than `older_than`, with all that belongs to them; or only count them.

    For at most 20 s; `more`: there is some left for another call."""
    dry_run = call.members.get("dry_run", False)
    done = await call.service.prune(call.members["older_than"], dry_run)
    return json_response({"runs": done.runs, "freed_bytes": done.freed_bytes, "dry_run": dry_run, "more": done.more})


async def vacuum_database(call: Call) -> Response:
    """Give free space of the database back to the disk, for at most 20 s; `free_bytes` is left for another call."""
    done = await call.service.vacuum()
    return json_response(
        {"before_bytes": done.before_bytes, "after_bytes": done.after_bytes, "free_bytes": done.free_bytes}
    )
