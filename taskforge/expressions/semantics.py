"""jq's operations on JSON values, as plain functions for `compiled`.

Every function gives exactly what jq 1.8 gives, or raises: EvaluationFailed where jq has an error, TooBig where the
answer is not certain to be jq's or would take long. jq keeps the digits of a number that is only passed through and
computes in doubles; integers beyond 2^53 and results that jq would write with an exponent are therefore left to it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from taskforge.core import jsontext
from taskforge.core.model import JSON
from taskforge.expressions.errors import EXPRESSION_ERROR, EvaluationFailed, TooBig

EXACT = 2**53
"""Integers up to here are doubles without loss."""

MAX_ITEMS = 10_000
"""Most elements that one evaluation touches in process."""

MAX_TEXT = 1_000_000
"""Longest string that is built in process, in characters."""

MAX_NODES = 50_000
"""Most values inside a result that is put together in process."""

_MAX_COMPARED = 2_000
_EXPONENT = re.compile(r"[0-9]e[+-]?[0-9]|\x7f")
_RANK = {type(None): 0, bool: 1, int: 3, float: 3, str: 4, list: 5, dict: 6}
_NAMES = {
    type(None): "null",
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def fail(message: str) -> EvaluationFailed:
    """An error as jq would raise it."""
    return EvaluationFailed(EXPRESSION_ERROR, message)


def kind(value: JSON) -> str:
    """jq's name of a value's type."""
    return _NAMES[type(value)]


def shown(value: JSON) -> str:
    """A value for a message: its type and its first characters."""
    text = jsontext.dumps(value) if not isinstance(value, (list, dict)) or len(value) < 20 else "…"
    return f"{kind(value)} ({text if len(text) <= 30 else text[:27] + '...'})"


def is_number(value: JSON) -> bool:
    """Whether a value is a JSON number; True and False are none."""
    return type(value) is int or type(value) is float


def settled(number: float) -> int | float:
    """A computed double as jq's text of it reads: whole numbers as int."""
    if number.is_integer() and -EXACT < number < EXACT:
        if number == 0.0 and math.copysign(1.0, number) < 0:
            raise TooBig  # jq says -0
        return int(number)
    if not math.isfinite(number) or abs(number) >= EXACT:
        raise TooBig
    return number


def double(value: int | float) -> float:
    """A number as a double, where that loses nothing."""
    if type(value) is int and not -EXACT <= value <= EXACT:
        raise TooBig
    return float(value)


# ---- order and equality


def compare(a: JSON, b: JSON, budget: list[int] | None = None) -> int:
    """-1, 0 or 1 in jq's order: null, false, true, numbers, strings, arrays, objects."""
    kind_a, kind_b = type(a), type(b)
    if kind_a is str and kind_b is str:
        return int(a > b) - int(a < b)
    rank = _RANK[kind_a] - _RANK[kind_b]
    if rank:
        return 1 if rank > 0 else -1
    if kind_a is bool:
        return int(a) - int(b)
    if a is None:
        return 0
    if kind_a is int and kind_b is int:
        return int(a > b) - int(a < b)
    if kind_a is float or kind_b is float:
        a, b = double(a), double(b)
        return int(a > b) - int(a < b)
    if a is b:
        return 0
    try:
        return _compare_containers(a, b, budget or [_MAX_COMPARED])
    except RecursionError:
        raise TooBig from None


def _compare_containers(a: JSON, b: JSON, budget: list[int]) -> int:
    budget[0] -= 1 + min(len(a), len(b))
    if budget[0] < 0:
        raise TooBig
    if isinstance(a, list):
        for one, other in zip(a, b, strict=False):
            result = compare(one, other, budget)
            if result:
                return result
        return int(len(a) > len(b)) - int(len(a) < len(b))
    keys, others = sorted(a), sorted(b)
    if keys != others:
        return 1 if keys > others else -1
    for key in keys:
        result = compare(a[key], b[key], budget)
        if result:
            return result
    return 0


def equal(a: JSON, b: JSON, budget: list[int] | None = None) -> bool:
    """Whether jq finds two values equal."""
    if type(a) is str or type(b) is str:
        return type(a) is type(b) and bool(a == b)
    return compare(a, b, budget) == 0


def sort_keys(values: Sequence[JSON]) -> Callable[[int], Any]:
    """How to sort the positions of `values`: natively where all are strings or small integers."""
    kinds = set(map(type, values))
    if kinds == {str} or (kinds == {int} and max(map(abs, values)) <= EXACT):
        return values.__getitem__
    if len(values) > 500:
        raise TooBig
    budget = [MAX_ITEMS]
    order = functools.cmp_to_key(lambda a, b: compare(a, b, budget))
    keys = [order(value) for value in values]
    return keys.__getitem__


# ---- arithmetic


def add(a: JSON, b: JSON) -> JSON:
    """`a + b`"""
    if type(a) is int and type(b) is int and -EXACT < a < EXACT and -EXACT < b < EXACT:
        total = a + b
        if -EXACT < total < EXACT:
            return total
        raise TooBig
    if type(a) is str and type(b) is str:
        if len(a) + len(b) > MAX_TEXT:
            raise TooBig
        return a + b
    if a is None:
        return b
    if b is None:
        return a
    if is_number(a) and is_number(b):
        return settled(double(a) + double(b))
    if type(a) is type(b) and isinstance(a, (list, dict)):
        if len(a) + len(b) > MAX_ITEMS:
            raise TooBig
        return a + b if isinstance(a, list) else {**a, **b}
    raise fail(f"{shown(a)} and {shown(b)} cannot be added")


def subtract(a: JSON, b: JSON) -> JSON:
    """`a - b`"""
    if is_number(a) and is_number(b):
        return settled(double(a) - double(b))
    if isinstance(a, list) and isinstance(b, list):
        if len(a) * len(b) > MAX_ITEMS:
            raise TooBig
        budget = [MAX_ITEMS]
        return [item for item in a if not any(equal(item, other, budget) for other in b)]
    raise fail(f"{shown(a)} and {shown(b)} cannot be subtracted")


def multiply(a: JSON, b: JSON) -> JSON:
    """`a * b`"""
    if is_number(a) and is_number(b):
        return settled(double(a) * double(b))
    if (type(a) is str and is_number(b)) or (is_number(a) and type(b) is str):
        text, times = (a, b) if type(a) is str else (b, a)
        if times < 0:
            return None
        if len(text) * times > 100_000:
            raise TooBig
        return text * int(times)
    if isinstance(a, dict) and isinstance(b, dict):
        try:
            return _merge(a, b, [MAX_ITEMS])
        except RecursionError:
            raise TooBig from None
    raise fail(f"{shown(a)} and {shown(b)} cannot be multiplied")


def _merge(a: dict[str, JSON], b: dict[str, JSON], budget: list[int]) -> dict[str, JSON]:
    budget[0] -= len(a) + len(b) + 1
    if budget[0] < 0:
        raise TooBig
    merged = dict(a)
    for key, value in b.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            value = _merge(before, value, budget)
        merged[key] = value
    return merged


def divide(a: JSON, b: JSON) -> JSON:
    """`a / b`"""
    if is_number(a) and is_number(b):
        divisor = double(b)
        if divisor == 0.0:
            raise fail(f"{shown(a)} and {shown(b)} cannot be divided because the divisor is zero")
        return settled(double(a) / divisor)
    if type(a) is str and type(b) is str:
        return split(a, b)
    raise fail(f"{shown(a)} and {shown(b)} cannot be divided")


def modulo(a: JSON, b: JSON) -> JSON:
    """`a % b`, on the whole parts, with the sign of `a`."""
    if is_number(a) and is_number(b):
        dividend, divisor = double(a), double(b)
        if abs(dividend) >= EXACT or abs(divisor) >= EXACT:
            raise TooBig
        whole, by = int(dividend), int(divisor)
        if by == 0:
            raise fail(f"{shown(a)} and {shown(b)} cannot be divided (remainder) because the divisor is zero")
        rest = abs(whole) % abs(by)
        return -rest if whole < 0 else rest
    raise fail(f"{shown(a)} and {shown(b)} cannot be divided (remainder)")


def negate(value: JSON) -> JSON:
    """`-value`; jq keeps the digits of a literal here too."""
    if not is_number(value):
        raise fail(f"{shown(value)} cannot be negated")
    if value == 0:
        raise TooBig  # jq may say -0
    return -value


# ---- parts of values


def index(target: JSON, key: JSON) -> JSON:
    """`target[key]`"""
    if type(key) is str:
        if isinstance(target, dict):
            return target.get(key)
    elif is_number(key):
        if isinstance(target, list):
            if abs(key) > EXACT:
                raise TooBig
            position = int(key)
            size = len(target)
            return target[position] if -size <= position < size else None
    elif isinstance(key, (list, dict)) and isinstance(target, (list, str, type(None))):
        raise TooBig  # indices of a sublist, and slices as objects
    if target is None and (type(key) is str or is_number(key)):
        return None
    raise fail(f"Cannot index {kind(target)} with {shown(key)}")


def slice_of(target: JSON, start: JSON, end: JSON) -> JSON:
    """`target[start:end]`; None stands for a side that is not written. Rounds outwards, as jq does."""
    if target is None:
        return None
    if not isinstance(target, (list, str)):
        raise fail(f"Cannot index {kind(target)} with object")
    for side in (start, end):
        if side is not None and not is_number(side):
            raise fail("Array/string slice indices must be integers")
    size = len(target)
    first = 0.0 if start is None else double(start)
    if first < 0:
        first += size
    first = min(max(first, 0.0), size)
    begin = int(first)
    last = float(size) if end is None else double(end)
    if last < 0:
        last += size
    if last < 0:
        last = begin
    stop = min(int(min(last, 2**31 - 1)), size)
    if stop < size and stop < last:
        stop += 1
    return target[begin : max(stop, begin)]


def items(value: JSON) -> Sequence[JSON]:
    """What `.[]` gives."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return list(value.values())
    raise fail(f"Cannot iterate over {shown(value)}")


# ---- size


def check_size(value: JSON) -> JSON:
    """The value itself, where written out it stays of moderate size. Raises TooBig otherwise.

    Values share their parts: `[., .] | [., .] | …` is small in memory and endless when it is written.
    """
    if type(value) is str and len(value) <= MAX_TEXT:
        return value
    stack: list[JSON] = [[value]]
    nodes_left, text_left = MAX_NODES, 2 * MAX_TEXT
    while stack:
        container = stack.pop()
        nodes_left -= len(container)
        for item in container.values() if type(container) is dict else container:
            if type(item) is str:
                text_left -= len(item)
            elif type(item) is list or type(item) is dict:
                stack.append(item)
        if nodes_left < 0 or text_left < 0:
            raise TooBig
    return value


# ---- text


def text(value: JSON) -> str:
    """`tostring`"""
    return value if type(value) is str else json_text(value)


def json_text(value: JSON) -> str:
    """`tojson`"""
    check_size(value)
    written = jsontext.dumps(value)
    if len(written) > MAX_TEXT or _EXPONENT.search(written):
        raise TooBig  # jq writes exponents in its own way, and escapes DEL
    return written


def split(value: JSON, separator: JSON) -> JSON:
    """`split(separator)`, `value / separator`"""
    if type(value) is not str or type(separator) is not str:
        raise fail("split input and separator must be strings")
    if len(value) > MAX_TEXT:
        raise TooBig
    if not value:
        return []
    parts = value.split(separator) if separator else list(value)
    if len(parts) > MAX_ITEMS:
        raise TooBig
    return parts
