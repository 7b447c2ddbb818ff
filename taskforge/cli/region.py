"""Lines at the bottom of a terminal that are drawn again in place: no oftener than is of use, and only when changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from taskforge.cli.render import Cell, Paint, Screen, width
from taskforge.cli.shown import escape

_PAUSE_S = 0.1
"""The shortest time between two drawings."""
_SHARE = 10
"""Drawing takes at most one part in so many of the time."""


class Region:
    """What is drawn. `monotonic` gives seconds."""

    def __init__(self, screen: Screen, monotonic: Callable[[], float]) -> None:
        self._screen = screen
        self._monotonic = monotonic
        self._drawn: list[list[Cell]] = []
        self._not_before = 0.0

    @property
    def is_due(self) -> bool:
        """May it be drawn again by now?"""
        return self._monotonic() >= self._not_before

    def draw(self, make: Callable[[int, int], list[list[Cell]]]) -> None:
        """Draw what `make(columns, rows)` gives, where it differs from what stands there."""
        began = self._monotonic()
        columns, rows = self._screen.size
        # The last column stays free: a full line would flow into the next when the terminal grows.
        lines = make(columns - 1, rows - 1)
        if lines != self._drawn:
            self._put(lines)
        took = self._monotonic() - began
        self._not_before = began + max(_PAUSE_S, took * _SHARE)

    def clear(self) -> None:
        """Take it away; what is printed next begins where it began."""
        if self._drawn:
            self._put([])

    def _put(self, lines: list[list[Cell]]) -> None:
        columns, rows = self._screen.size
        self._screen.redraw(lines, min(rows_of(self._drawn, columns), rows - 1))
        self._drawn = lines


def rows_of(lines: Sequence[Sequence[Cell]], columns: int) -> int:
    """How many rows lines take on a terminal that may have become narrower since they were drawn."""
    wide = (sum(width(escape(cell.text if isinstance(cell, Paint) else cell)) for cell in line) for line in lines)
    return sum(max(-(-each // max(columns, 1)), 1) for each in wide)
