"""jq's own functions, as far as `compiled` answers them in process.

The same rules as in `semantics`: exactly jq's result, EvaluationFailed where jq has an error, TooBig where in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from taskforge.core.model import JSON
from taskforge.expressions import semantics
from taskforge.expressions.errors import TooBig
from taskforge.expressions.semantics import MAX_ITEMS, MAX_TEXT, fail, is_number, kind, shown

_UPPER = str.maketrans({chr(code): chr(code - 32) for code in range(97, 123)})
_LOWER = str.maketrans({chr(code): chr(code + 32) for code in range(65, 91)})


def length(value: JSON) -> JSON:
    """`length`: of text in code points, of a number its absolute value."""
    if isinstance(value, (str, list, dict)):
        return len(value)
    if value is None:
        return 0
    if isinstance(value, bool):
        raise fail(f"{shown(value)} has no length")
    return abs(value)


def keys(value: JSON) -> JSON:
    """`keys`: sorted by code point."""
    if isinstance(value, dict):
        return sorted(_few(value))
    return keys_unsorted(value)


def keys_unsorted(value: JSON) -> JSON:
    """`keys_unsorted`"""
    if isinstance(value, dict):
        return list(_few(value))
    if isinstance(value, list):
        return list(range(len(_few(value))))
    raise fail(f"{shown(value)} has no keys")


def has(value: JSON, key: JSON) -> JSON:
    """`has(key)`"""
    if value is None:
        return False
    if isinstance(value, dict) and type(key) is str:
        return key in value
    if isinstance(value, list) and is_number(key):
        return key >= 0 and int(semantics.double(key)) < len(value)
    raise fail(f"Cannot check whether {kind(value)} has a {kind(key)} key")


def total(values: Sequence[JSON]) -> JSON:
    """`add` of these values."""
    if values and all(type(value) is str for value in values):
        if sum(map(len, values)) > MAX_TEXT:
            raise TooBig
        return "".join(values)
    size = 0
    sum_so_far: JSON = None
    for value in values:
        sum_so_far = semantics.add(sum_so_far, value)
        size += len(sum_so_far) if isinstance(sum_so_far, (list, dict, str)) else 1
        if size > 20 * MAX_ITEMS:
            raise TooBig
    return sum_so_far


def add(value: JSON) -> JSON:
    """`add`"""
    return total(_few(semantics.items(value)))


def first(value: JSON) -> JSON:
    """`first`"""
    return semantics.index(value, 0)


def last(value: JSON) -> JSON:
    """`last`"""
    return semantics.index(value, -1)


def to_entries(value: JSON) -> JSON:
    """`to_entries`"""
    return [{"key": key, "value": semantics.index(value, key)} for key in keys_unsorted(value)]


def ascii_downcase(value: JSON) -> JSON:
    """`ascii_downcase`"""
    return _text(value).translate(_LOWER)


def ascii_upcase(value: JSON) -> JSON:
    """`ascii_upcase`"""
    return _text(value).translate(_UPPER)


def floor(value: JSON) -> JSON:
    """`floor`"""
    if not is_number(value):
        raise fail(f"{shown(value)} number required")
    return semantics.settled(float(math.floor(semantics.double(value)))) if value else _zero(value)


def tonumber(value: JSON) -> JSON:
    """`tonumber`: only what is certain; jq reads more forms."""
    if is_number(value):
        return value
    if type(value) is not str:
        raise fail(f"{shown(value)} cannot be parsed as a number")
    digits = value[1:] if value.startswith("-") else value
    if not (digits.isascii() and digits.isdigit() and len(digits) < 16 and (digits == "0" or digits[0] != "0")):
        raise TooBig
    return int(value) if digits != "0" else _zero(value)


def absolute(value: JSON) -> JSON:
    """`abs`"""
    if not is_number(value):
        raise TooBig
    return semantics.negate(value) if value < 0 else value


def reverse(value: JSON) -> JSON:
    """`reverse`, of lists only."""
    if not isinstance(value, list):
        raise TooBig
    return _few(value)[::-1]


def join(value: JSON, separator: JSON) -> JSON:
    """`join(separator)`"""
    parts = []
    for item in _few(semantics.items(value)):
        if isinstance(item, (list, dict)):
            raise TooBig
        parts.append("" if item is None else semantics.text(item))
    if type(separator) is not str or sum(map(len, parts)) + len(separator) * len(parts) > MAX_TEXT:
        raise TooBig
    return separator.join(parts)


def startswith(value: JSON, start: JSON) -> JSON:
    """`startswith(start)`"""
    if type(value) is not str or type(start) is not str:
        raise fail("startswith() requires string inputs")
    return value.startswith(start)


def endswith(value: JSON, end: JSON) -> JSON:
    """`endswith(end)`"""
    if type(value) is not str or type(end) is not str:
        raise fail("endswith() requires string inputs")
    return value.endswith(end)


def ltrimstr(value: JSON, start: JSON) -> JSON:
    """`ltrimstr(start)`"""
    return value[len(start) :] if startswith(value, start) else value


def rtrimstr(value: JSON, end: JSON) -> JSON:
    """`rtrimstr(end)`"""
    return value[: len(value) - len(end)] if endswith(value, end) else value


def index(value: JSON, wanted: JSON) -> JSON:
    """`index(wanted)`: of text in text, of an element in a list."""
    if value is None and type(wanted) is str:
        return None
    if type(value) is str and type(wanted) is str and wanted:
        position = value.find(wanted)
        return None if position < 0 else position
    if isinstance(value, list) and not isinstance(wanted, list):
        budget = [MAX_ITEMS]
        for position, item in enumerate(_few(value)):
            if semantics.equal(item, wanted, budget):
                return position
        return None
    raise TooBig


def contains(value: JSON, part: JSON) -> JSON:
    """`contains(part)`, of text only."""
    if type(value) is not str or type(part) is not str or "\0" in part:
        raise TooBig
    return part in value


def sort(value: JSON) -> JSON:
    """`sort`"""
    return sorted_by(value, value if isinstance(value, list) else [])


def unique(value: JSON) -> JSON:
    """`unique`"""
    return unique_by(value, value if isinstance(value, list) else [])


def least(value: JSON) -> JSON:
    """`min`"""
    return least_by(value, value if isinstance(value, list) else [])


def greatest(value: JSON) -> JSON:
    """`max`"""
    return greatest_by(value, value if isinstance(value, list) else [])


def sorted_by(value: JSON, by: list[JSON]) -> JSON:
    """`sort_by`: stable."""
    return [value[position] for position in _positions(value, by)]


def grouped_by(value: JSON, by: list[JSON]) -> JSON:
    """`group_by`"""
    groups: list[list[JSON]] = []
    previous: JSON = None
    budget = [MAX_ITEMS]
    for position in _positions(value, by):
        if groups and semantics.equal(previous, by[position], budget):
            groups[-1].append(value[position])
        else:
            groups.append([value[position]])
            previous = by[position]
    return groups


def unique_by(value: JSON, by: list[JSON]) -> JSON:
    """`unique_by`: the first of each."""
    return [group[0] for group in grouped_by(value, by)]


def least_by(value: JSON, by: list[JSON]) -> JSON:
    """`min_by`: the first of the least."""
    positions = _positions(value, by)
    return value[positions[0]] if positions else None


def greatest_by(value: JSON, by: list[JSON]) -> JSON:
    """`max_by`: the last of the greatest."""
    positions = _positions(value, by)
    return value[positions[-1]] if positions else None


def _positions(value: JSON, by: list[JSON]) -> list[int]:
    if not isinstance(value, list):
        raise TooBig
    return sorted(range(len(_few(value))), key=semantics.sort_keys(by)) if value else []


def _few(value: JSON) -> JSON:
    if len(value) > MAX_ITEMS:
        raise TooBig
    return value


def _text(value: JSON) -> str:
    if type(value) is not str:
        raise fail("explode input must be a string")
    if len(value) > MAX_TEXT:
        raise TooBig
    return value


def _zero(value: JSON) -> int:
    if str(value).startswith("-"):
        raise TooBig
    return 0


def _any(value: JSON) -> JSON:
    return any(item is not None and item is not False for item in _few(semantics.items(value)))


def _all(value: JSON) -> JSON:
    return all(item is not None and item is not False for item in _few(semantics.items(value)))


def _error(value: JSON, message: JSON) -> JSON:
    if type(message) is not str:
        raise TooBig
    raise fail(message)


OF_DOT: dict[str, Callable[[JSON], JSON]] = {
    "abs": absolute,
    "add": add,
    "all": _all,
    "any": _any,
    "ascii_downcase": ascii_downcase,
    "ascii_upcase": ascii_upcase,
    "first": first,
    "floor": floor,
    "keys": keys,
    "keys_unsorted": keys_unsorted,
    "last": last,
    "length": length,
    "max": greatest,
    "min": least,
    "not": lambda value: value is None or value is False,
    "reverse": reverse,
    "sort": sort,
    "to_entries": to_entries,
    "tojson": semantics.json_text,
    "tonumber": tonumber,
    "tostring": semantics.text,
    "type": kind,
    "unique": unique,
}
"""Functions of `.` alone that give one result."""

OF_VALUES: dict[tuple[str, int], Callable[[JSON, JSON], JSON]] = {
    ("contains", 1): contains,
    ("endswith", 1): endswith,
    ("error", 1): _error,
    ("has", 1): has,
    ("index", 1): index,
    ("join", 1): join,
    ("ltrimstr", 1): ltrimstr,
    ("rtrimstr", 1): rtrimstr,
    ("split", 1): semantics.split,
    ("startswith", 1): startswith,
}
"""Functions of `.` and the value of one argument."""

SELECTIONS: dict[tuple[str, int], frozenset[str]] = {
    ("arrays", 0): frozenset({"array"}),
    ("booleans", 0): frozenset({"boolean"}),
    ("iterables", 0): frozenset({"array", "object"}),
    ("nulls", 0): frozenset({"null"}),
    ("numbers", 0): frozenset({"number"}),
    ("objects", 0): frozenset({"object"}),
    ("scalars", 0): frozenset({"null", "boolean", "number", "string"}),
    ("strings", 0): frozenset({"string"}),
    ("values", 0): frozenset({"boolean", "number", "string", "array", "object"}),
}
"""Functions that let `.` through by its type."""
