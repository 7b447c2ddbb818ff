"""Reading cron expressions: five fields, each checked, each error with its field, its column and the fix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from taskforge.core.problem import quoted, suggest
from taskforge.core.record import dataclass

MAX_TEXT: Final = 200
"""Characters of an expression; nothing sensible is longer."""

ALIASES: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIVE = 'five are needed: minute hour day month weekday, such as "0 9 * * MON-FRI"'
_TOKEN = re.compile(r"[^ \t]+")
_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
_DAY_FORMS = "a day is a number from 1 to 31, or L for the month's last day, or LW for its last Monday to Friday"


class CronError(ValueError):
    """A schedule that cannot be taken. `str()` is the whole sentence.

    `key` is the setting that is wrong (`cron`, `timezone`, `start` …), `field` the cron field (`minute` … `weekday`) or
    the key itself, `column` counts characters of that setting's text from 1; `hint` says what to write instead.
    """

    def __init__(
        self,
        message: str,
        field: str = "cron",
        column: int | None = None,
        *,
        hint: str | None = None,
        key: str = "cron",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.column = column
        self.hint = hint
        self.key = key


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    first: int = 0

    @property
    def accepted(self) -> str:
        more = f", or {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"accepted: {self.low} to {self.high}{more}"


_KINDS = (
    _Kind("minute", 0, 59),
    _Kind("hour", 0, 23),
    _Kind("day", 1, 31),
    _Kind("month", 1, 12, _MONTHS, 1),
    _Kind("weekday", 0, 7, _DAYS, 0),
)


@dataclass(frozen=True, slots=True)
class Fields:
    """A checked expression. `days` is what cronsim gets: day, month and weekday, in its own words.

    `rhythm`: minute or hour starts with `*`, so times follow real time over changes of the clock. `columns` are where
    the five fields begin. `remarks` are warnings: valid, but perhaps not what was meant.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[str, str, str]
    rhythm: bool
    columns: tuple[int, ...]
    remarks: tuple[str, ...]


def read_fields(text: str) -> Fields:
    """Read five fields, or an alias such as `@daily`. Raises CronError. Does not ask whether such a day exists."""
    if len(text) > MAX_TEXT:
        raise CronError(f"the cron expression is longer than {MAX_TEXT} characters", column=MAX_TEXT + 1)
    for at, char in enumerate(text):
        if not " " <= char <= "~" and char != "\t":
            raise CronError(f"the character {quoted(char)} has no place in a cron expression", column=at + 1)
    tokens = [(match[0], match.start() + 1) for match in _TOKEN.finditer(text)]
    if not tokens:
        raise CronError("the cron expression is empty", column=1, hint=_FIVE)
    if tokens[0][0].startswith("@"):
        expanded = _alias(tokens)
        tokens = [(token, tokens[0][1]) for token in expanded.split()]
    _check_count(text, tokens)
    remarks: list[str] = []
    read = [_read_field(kind, token, at, remarks) for kind, (token, at) in zip(_KINDS, tokens, strict=True)]
    return Fields(
        minutes=tuple(sorted(read[0][0])),
        hours=tuple(sorted(read[1][0])),
        days=(read[2][1], read[3][1], read[4][1]),
        rhythm=tokens[0][0].startswith("*") or tokens[1][0].startswith("*"),
        columns=tuple(at for _, at in tokens),
        remarks=tuple(remarks),
    )


def _alias(tokens: Sequence[tuple[str, int]]) -> str:
    word, column = tokens[0][0].lower(), tokens[0][1]
    if word in ALIASES:
        if len(tokens) > 1:
            raise CronError(f"nothing may follow {word}", column=tokens[1][1], hint=f'write only "{word}"')
        return ALIASES[word]
    if word == "@reboot":
        hint = 'a server\'s start is no time; write when, such as "@daily", or how often, such as "@every 10m"'
        raise CronError("@reboot is not supported", column=column, hint=hint)
    known = (*ALIASES, "@every")
    near = suggest(word, known)
    hint = f'{near + " " if near else ""}There are {", ".join(ALIASES)} and "@every 90s"'
    raise CronError(f"{quoted(tokens[0][0])} is not known", column=column, hint=hint)


def _check_count(text: str, tokens: Sequence[tuple[str, int]]) -> None:
    count = len(tokens)
    first, column = tokens[0]
    if "=" in first:
        raise CronError(
            f"{quoted(first)} is no cron field",
            column=column,
            hint="the time zone is a setting of its own: `timezone:`",
        )
    if count < len(_KINDS):
        missing = " and ".join(kind.name for kind in _KINDS[count:])
        number = "there is 1 field" if count == 1 else f"there are {count} fields"
        where = _KINDS[count].name
        raise CronError(f"{number}; {missing} missing", where, len(text.rstrip()) + 1, hint=_FIVE)
    if count > len(_KINDS):
        hint = _FIVE + "; there is no field for seconds or years (for seconds: `@every 30s`)"
        if count == len(_KINDS) + 1 and all(_looks_like_field(token) for token, _ in tokens):
            without = " ".join(token for token, _ in tokens[1:])
            hint = f'there is no field for seconds; without it: "{without}"; more often than each minute: "@every 30s"'
        raise CronError(f"there are {count} fields, and only five are accepted", "cron", tokens[5][1], hint=hint)


def _looks_like_field(token: str) -> bool:
    return re.fullmatch(r"[0-9A-Za-z*,/#?-]+", token) is not None


def _read_field(kind: _Kind, text: str, column: int, remarks: list[str]) -> tuple[set[int], str]:
    """The values of a field (days that depend on the month aside), and its text for cronsim."""
    values: set[int] = set()
    words: list[str] = []
    at = column
    for item in text.split(","):
        if not item:
            hint = f'write it without the extra comma: "{",".join(part for part in text.split(",") if part) or "*"}"'
            raise CronError(f"the {kind.name} has an empty place in its list {quoted(text)}", kind.name, at, hint=hint)
        found, word = _read_item(kind, item, at, remarks)
        values |= found
        words.append(word)
        at += len(item) + 1
    return values, ",".join(words)


def _read_item(kind: _Kind, item: str, column: int, remarks: list[str]) -> tuple[set[int], str]:
    special = _special(kind, item, column)
    if special is not None:
        return set(), special
    base, slash, step_text = item.partition("/")
    step = _step(kind, item, step_text, column + len(base) + 1) if slash else 1
    if base == "*":
        low, high = kind.low, kind.high
    elif "-" in base:
        low, high = _range(kind, base, column)
    else:
        low = _value(kind, base, column, item)
        if slash:
            hint = f'write the range: "{base}-{kind.high}/{step}", or "*/{step}" from the start'
            raise CronError(
                f"the {kind.name} {quoted(item)} has a step after a single number", kind.name, column, hint=hint
            )
        high = low
    if slash and step > high - low and base == "*":
        # Cron takes it, and it is nearly always a mistake: `*/90` is not every 90 minutes.
        often = {"minute": f'; every {step} minutes is "@every {step}m"', "hour": f'; or "@every {step}h"'}
        remarks.append(f'the {kind.name} "{item}" matches only {low}{often.get(kind.name, "")}')
    values = set(range(low, high + 1, step))
    # For cronsim a range is spelt out; the * stays, as day fields that begin with it must both match.
    return values, item if base == "*" else ",".join(map(str, sorted(values)))


def _special(kind: _Kind, item: str, column: int) -> str | None:
    """What is no set of numbers: `L` and `LW` of days, `5L` and `MON#2` of weekdays, in cronsim's words."""
    upper = item.upper()
    if item == "?":
        raise CronError(f'the {kind.name} is "?"', kind.name, column, hint='write "*" for every one')
    if kind.name == "day":
        if upper in ("L", "LW"):
            return upper
        if re.fullmatch(r"L-[0-9]+|[0-9]+W", upper):
            raise CronError(f"the day {quoted(item)} is not supported", kind.name, column, hint=_DAY_FORMS)
    if kind.name == "weekday":
        if upper == "L":
            hint = 'name the day: "5L" or "FRIL" is the month\'s last Friday'
            raise CronError('the weekday "L" names no day', kind.name, column, hint=hint)
        last = re.fullmatch(r"([0-9]+|[A-Z]{3})L", upper)
        if last is not None:
            return f"{_value(kind, item[:-1], column, item)}L"
        if "#" in item:
            return _nth(kind, item, column)
    elif "#" in item:
        hint = 'it belongs into the weekday: "0 9 * * MON#1" is the first Monday at 9'
        raise CronError(f'"#" has no meaning in the {kind.name}', kind.name, column + item.index("#"), hint=hint)
    return None


def _nth(kind: _Kind, item: str, column: int) -> str:
    day_text, _, number = item.partition("#")
    after = column + len(day_text) + 1
    hint = '"MON#1" is the first Monday of a month, "FRI#5" a fifth Friday'
    if "-" in day_text or "/" in item or "*" in day_text:
        raise CronError(f"the weekday {quoted(item)}: # needs one day before it", kind.name, column, hint=hint)
    day = _value(kind, day_text, column, item)
    if number not in ("1", "2", "3", "4", "5"):
        what = f"the weekday {quoted(item)}: after # comes a number from 1 to 5"
        raise CronError(what, kind.name, min(after, column + len(item)), hint=hint)
    return f"{day}#{number}"


def _range(kind: _Kind, base: str, column: int) -> tuple[int, int]:
    low_text, _, high_text = base.partition("-")
    at = column + len(low_text) + 1
    if not low_text or not high_text or "*" in base:
        hint = f'a range has both ends: "{kind.low}-{kind.high}"'
        raise CronError(f"the {kind.name} range {quoted(base)} is not complete", kind.name, column, hint=hint)
    low, high = _value(kind, low_text, column, base), _value(kind, high_text, at, base)
    if low > high:
        raise CronError(
            f"the {kind.name} range {quoted(base)} runs backwards", kind.name, column, hint=_forwards(kind, low, high)
        )
    return low, high


def _forwards(kind: _Kind, low: int, high: int) -> str:
    if kind.name == "weekday":
        if high == 0:
            return f'Sunday is also 7: "{low}-7"' if low < 7 else 'write "0"'
        return f'write two ranges: "{low}-{6 if low < 7 else 7},0-{high}"'
    start = f"{low}-{kind.high}" if low < kind.high else f"{low}"
    return f'write two ranges: "{start},{kind.low}-{high}"' if high > kind.low else f'write "{start},{high}"'


def _step(kind: _Kind, item: str, text: str, column: int) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) == 0:
        hint = f'the step is a whole number from 1: "*/{max(2, kind.low)}"'
        raise CronError(f"the {kind.name} {quoted(item)} has no step after the /", kind.name, column, hint=hint)
    return int(text)


def _value(kind: _Kind, text: str, column: int, item: str) -> int:
    upper = text.upper()
    if upper in kind.names:
        return kind.names.index(upper) + kind.first
    if _NUMBER.fullmatch(text) is not None:
        number = int(text)
        if kind.low <= number <= kind.high:
            return number
        hint = "midnight is the hour 0, of the day that begins" if kind.name == "hour" and number == 24 else None
        raise CronError(f"the {kind.name} {number} is out of range; {kind.accepted}", kind.name, column, hint=hint)
    if text == "" and item.startswith("/"):
        raise CronError(f"the {kind.name} {quoted(item)} has nothing before the /", kind.name, column,
                        hint=f'write "*{item}"')  # fmt: skip
    if upper == "H":
        hint = 'to spread schedules, give the trigger a `jitter:` such as "5m"'
        raise CronError(f'the {kind.name} "H" is not supported', kind.name, column, hint=hint)
    near = next((name for name in kind.names if upper.startswith(name)), None)
    hint_text = f'did you mean "{near}"?' if near else (suggest(text, kind.names) if kind.names else None)
    whole = "" if text == item else f" in {quoted(item)}"
    raise CronError(
        f"the {kind.name} {quoted(text)}{whole} is not known; {kind.accepted}", kind.name, column, hint=hint_text
    )
