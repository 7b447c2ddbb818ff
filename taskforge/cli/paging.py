"""Lists that come in pages: `--limit`, `--cursor` and `--all`, the same for every list."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import click

from taskforge.cli.command import Session
from taskforge.cli.failure import CommandError, Exit
from taskforge.cli.render import Paint


class Paging(NamedTuple):
    """Which page is wanted; `everything`: all of them as one."""

    limit: int
    cursor: str | None
    everything: bool


def paged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a list; it gets them as one argument, `paging`."""

    @functools.wraps(function)
    def call(*args: Any, limit: int, cursor: str | None, everything: bool, **more: Any) -> Any:
        if everything and cursor:
            raise CommandError("--all starts at the beginning: leave --cursor away", code=Exit.USAGE)
        return function(*args, paging=Paging(limit, cursor, everything), **more)

    for option in (
        click.option("--all", "everything", is_flag=True, help="All pages."),
        click.option("--cursor", metavar="C", help="Go on after an earlier page."),
        click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many at most."),
    ):
        option(call)
    return call


def fetch_page(session: Session, *path: str, paging: Paging, **query: Any) -> dict[str, Any]:
    """One page as the API has it, or all of them as if they were one."""
    if paging.everything:
        return {"items": list(session.client.pages(*path, **query)), "next_cursor": None}
    page: dict[str, Any] = session.client.get(*path, **query, limit=paging.limit, cursor=paging.cursor)
    return page


def tell_more(session: Session, page: dict[str, Any]) -> None:
    """A remark, where there are more pages than this one."""
    if page.get("next_cursor") and not session.machine:
        session.screen.note(Paint(f"there are more: --cursor {page['next_cursor']}, or --all", "dim"))
