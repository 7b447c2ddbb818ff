"""What work leaves to the garbage collector: objects that refer to themselves in a circle."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def circles() -> Iterator[Counter[str]]:
    """Count, by the names of their types, what the body leaves in circles. The counts are there when it has ended."""
    found: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield found
        gc.collect()
        found.update(type(left).__name__ for left in gc.garbage)
    finally:
        gc.garbage.clear()
        gc.set_debug(0)
        gc.enable()
