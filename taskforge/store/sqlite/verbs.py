"""What all verbs of the store share: the writer, the readers, and the large values of a decision."""

from __future__ import annotations

import asyncio

from taskforge.store.sqlite.large import Encoded, Values, encode
from taskforge.store.sqlite.readers import Readers
from taskforge.store.sqlite.writer import Writer

_ENCODE_HERE = 32_768
"""Characters of large values up to which they are compressed on the event loop; more go to a reader's thread."""

SHORT = 64
"""Most steps in a decision that is stored on the event loop."""

SHORT_BATCH = 4_096
"""The same for a batch of new runs, which share their statements: some 15 ms. In the thread it takes several times as
long while the loop is busy."""


class Verbs:
    """Base of the classes that `SqliteStore` is made of."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def _encode(self, values: Values) -> Encoded | None:
        if not values:
            return None
        if sum(len(text) for _, _, text in values) <= _ENCODE_HERE:
            return encode(values)
        return await asyncio.to_thread(encode, values)
