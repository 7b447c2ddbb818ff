"""Text inside HTML pages, of which most servers never make one: `html` is imported when it is needed."""

from __future__ import annotations


def escape(text: str) -> str:
    """The text with `& < > " '` as references."""
    from html import escape as escaped

    return escaped(text)
