"""Masks the values of secrets in whatever is to be stored, shown or logged.

Found in any mixture of spellings: plain, percent-encoded (wholly or in part), JSON-escaped (also twice), with HTML
entities, in hexadecimal, and in base64 at any offset (`user:secret` of HTTP Basic). A value shorter than four
characters is not masked: it would star out half of every text, and is no secret to anyone who can count.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

SHORTEST: Final = 4
"""Characters that a value needs to be masked."""

_FEWEST_BASE64 = 6
_LONGEST_LINE = 12
_UNITS = re.compile(r"\\+|[^\\]")
_PLAIN_RUN = re.compile(r"[A-Za-z0-9]+", re.ASCII)
_NUMBER = re.compile(r"[0-9.eE+-]+", re.ASCII)
_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot", "'": "apos"}
_SHORT_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


class _Form:
    """One text to look for. `anchor` stands unchanged in every spelling of it; empty when nothing does."""

    __slots__ = ("anchor", "mask", "pattern")

    def __init__(self, text: str, mask: str) -> None:
        self.mask = mask
        self.anchor = max(_PLAIN_RUN.findall(text), key=len, default="")
        units = _UNITS.findall(text)
        self.pattern = re.compile("".join(map(_spellings, units, ["", *units])))


class Masker:
    """Masks the values of secrets, given as (name, value); a value is shown as `[secret NAME]`. Immutable."""

    def __init__(self, secrets: Iterable[tuple[str, str]] = ()) -> None:
        found: dict[str, str] = {}
        numbers = False
        for name, value in secrets:
            mask = f"[secret {name}]"
            for text in _texts(value):
                found.setdefault(text, mask)
            numbers = numbers or (len(value) >= SHORTEST and _NUMBER.fullmatch(value) is not None)
        # A secret inside a longer one must not leave the rest of the longer one to be read.
        self._forms = [_Form(text, found[text]) for text in sorted(found, key=len, reverse=True)]
        self._numbers = numbers
        self.has_masks = bool(self._forms)

    def mask_text(self, text: str) -> str:
        """Return the text with every secret in it masked."""
        for form in self._forms:
            if form.anchor in text:
                text = form.pattern.sub(form.mask.replace("\\", r"\\"), text)
        return text

    def mask(self, value: Any) -> Any:
        """Return a JSON value with every secret masked, in keys and texts at any depth; numbers too, when a secret is
        one. The value itself where there is nothing to mask."""
        return self._mask(value) if self._forms else value

    def _mask(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.mask_text(value)
        if isinstance(value, dict):
            masked = {self.mask_text(key): self._mask(member) for key, member in value.items()}
            return value if all(map(_same, masked.items(), value.items())) and len(masked) == len(value) else masked
        if isinstance(value, list):
            items = [self._mask(item) for item in value]
            return value if all(new is old for new, old in zip(items, value, strict=True)) else items
        if self._numbers and isinstance(value, int | float) and not isinstance(value, bool):
            text = str(value)
            masked_text = self.mask_text(text)
            return value if masked_text == text else masked_text
        return value


def _same(new: tuple[str, Any], old: tuple[str, Any]) -> bool:
    return new[0] == old[0] and new[1] is old[1]


def _texts(value: str) -> Iterator[str]:
    """What would give the value away: the value, its longer lines, and these in base64 and hexadecimal."""
    if len(value) < SHORTEST:
        return
    lines = [line.strip() for line in value.splitlines()]
    parts = [line for line in lines if len(line) >= _LONGEST_LINE and not line.startswith("-----")]
    for text in dict.fromkeys((value, value.strip(), *parts)):
        if len(text) < SHORTEST:
            continue
        raw = text.encode("utf-8", "surrogatepass")
        yield text
        yield raw.hex()
        yield raw.hex().upper()
        # Alone, and inside something longer.
        whole = base64.b64encode(raw).decode().rstrip("=")
        yield whole
        yield whole.replace("+", "-").replace("/", "_")
        for before in range(3):
            core = _base64_core(raw, before)
            if len(core) >= _FEWEST_BASE64:
                yield core
                yield core.replace("+", "-").replace("/", "_")


def _base64_core(raw: bytes, before: int) -> str:
    """The characters of base64 that depend on `raw` alone, when `before` other bytes (modulo 3) stand before it."""
    encoded = base64.b64encode(bytes(before) + raw + b"\0\0\0").decode()
    return encoded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6]


def _spellings(character: str, before: str) -> str:
    """A pattern of all ways in which one character, or a run of backslashes, may be written behind what is `before`."""
    if character.isascii() and character.isalnum():
        return character
    if character[0] == "\\":
        # A run takes all backslashes there are, also those that escape what follows: one way to match, and no more.
        count = len(character)
        return rf"(?:\\{{{count},}}+|(?:%(?:25)?5[cC]|&#92;){{{count}}})"
    raw = character.encode("utf-8", "surrogatepass")
    # A run of backslashes has taken the one that begins an escape.
    fewest = 0 if before[:1] == "\\" else 1
    found = [
        "".join(f"%(?:25)?(?i:{byte:02x})" for byte in raw),
        "".join(rf"\\{{{fewest},4}}u(?i:{unit})" for unit in _utf16(character)),
        f"&#0*{ord(character)};",
        f"&#[xX]0*(?i:{ord(character):x});",
        # One backslash or three: JSON inside JSON.
        r"\\{0,4}+" + re.escape(character),
    ]
    if character in _SHORT_ESCAPES:
        found.append(rf"\\{{{fewest},4}}{_SHORT_ESCAPES[character]}")
    if character in _ENTITIES:
        found.append(f"&{_ENTITIES[character]};")
    if character == " ":
        found.append(r"\+")
    if character == "\n":
        found.append("\r\n")
    return f"(?:{'|'.join(found)})"


def _utf16(character: str) -> list[str]:
    raw = character.encode("utf-16-be", "surrogatepass")
    return [raw[at : at + 2].hex() for at in range(0, len(raw), 2)]
