"""Content codings: gzip and deflate, decoded piece by piece, so that a bomb is stopped where it passes the limit."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from taskforge.steps.http_failure import Broken

PIECE: Final = 262_144
_MAX_MEMBERS: Final = 1_000
_CODINGS: Final = frozenset({"gzip", "x-gzip", "deflate"})
_UNREADABLE_CODINGS: Final = frozenset({"br", "compress", "x-compress", "dcb", "dcz", "zstd"})


class Inflater:
    """Decodes gzip (with several members) and deflate (with or without zlib's header), piece by piece."""

    def __init__(self, coding: str) -> None:
        self._gzip = coding != "deflate"
        self._decoder: zlib._Decompress | None = None
        self._members = 0

    @property
    def complete(self) -> bool:
        """Whether the last member has ended, or nothing came at all."""
        return self._decoder is None or self._decoder.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` decodes to, in pieces of at most 256 KiB. zlib.error for what is not valid."""
        while data:
            decoder = self._decoder
            if decoder is None or decoder.eof:
                if decoder is not None and not (self._gzip and data.lstrip(b"\0")):
                    return  # padding, or bytes behind the end, which everybody ignores
                decoder = self._decoder = self._new_decoder(data)
            piece = decoder.decompress(data, PIECE)
            data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if piece:
                yield piece
            while not decoder.eof and len(piece) == PIECE and not data:
                piece = decoder.decompress(b"", PIECE)
                if piece:
                    yield piece

    def _new_decoder(self, data: bytes) -> zlib._Decompress:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise zlib.error(f"more than {_MAX_MEMBERS} members")
        if self._gzip:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        has_header = data[0] & 0x0F == 8 and data[0] >> 4 <= 7
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def coding_of(header: str) -> str | None:
    """Read `Content-Encoding`: the coding to undo, None for none. Broken BAD_RESPONSE for one that cannot be undone."""
    words = [part.strip().lower() for part in header.split(",")]
    codings = [word for word in words if word in _CODINGS]
    if len(codings) > 1 or not _UNREADABLE_CODINGS.isdisjoint(words):
        raise Broken(
            "BAD_RESPONSE",
            f"the body is encoded as {header[:60]!r}, which was not asked for; "
            "leave out Accept-Encoding or set it to gzip, deflate or identity",
        )
    return codings[0] if codings else None
