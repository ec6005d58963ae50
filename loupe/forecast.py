"""What more pictures would bring, by a learning curve, in words that algorithms, verdicts and terminals share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from loupe.escapes import escaped
from loupe.labels import MAX_LENGTH

BEYOND = 10
"""How many times as many pictures are still forecast; what needs more is out of reach."""

SHOWN_LABELS = 2
WIDE = 20
"""A range whose ends differ by more than this is told by its upper end."""

_MAX_COUNT = (1 << 31) - 1


def more_pictures(target: str, low: int | None, high: int | None, labels: Sequence[str]) -> str:
    """Return how many more training pictures a target needs, for people.

    low, high: a range; None is out of reach. labels: the classes that they would help most.

    >>> more_pictures("90 %", 900, 1500, ["Resistor"])
    'about 900 to 1,500 more training pictures, of Resistor first, for 90 %'
    >>> more_pictures("90 %", 900, None, [])
    '900 more training pictures or far more for 90 %'
    >>> more_pictures("90 %", 10, 1500, ["Resistor", "IC"])
    'up to about 1,500 more training pictures, of Resistor and IC first, for 90 %'
    >>> more_pictures("90 %", None, None, ["Resistor"])
    'more than 10 times as many training pictures for 90 %: more of the same will not do'
    """
    if low is not None and high is not None and low < high / WIDE:
        return f"up to about {high:,} more training pictures{_first(labels)} for {target}"
    if low is None:
        return f"more than {BEYOND} times as many training pictures for {target}: more of the same will not do"
    if high is None:
        return f"{low:,} more training pictures or far more{_first(labels)} for {target}"
    amount = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    return f"about {amount} more training pictures{_first(labels)} for {target}"


def _first(labels: Sequence[str]) -> str:
    return f", of {' and '.join(labels)} first," if labels else ""


def forecast_of(notes: object, labels: Collection[str], target: str) -> str:
    r"""Return the sentence of a report's notes; empty where they hold no forecast in the expected form.

    Anybody may have written the notes: numbers are bounded, classes other than the report's labels are left out,
    and what would steer a terminal is escaped.

    >>> forecast_of({"forecast": {"low": 900, "high": 1500, "classes": ["dent", "x\x1b[2J"]}}, ["dent"], "90 %")
    'about 900 to 1,500 more training pictures, of dent first, for 90 %'
    >>> forecast_of({"forecast": {"low": "many", "high": 2}}, ["dent"], "90 %")
    ''
    """
    forecast = notes.get("forecast") if isinstance(notes, dict) else None
    if not isinstance(forecast, dict) or not {"low", "high"} <= forecast.keys():
        return ""
    low, high, named = forecast["low"], forecast["high"], forecast.get("classes")
    if not (_is_count(low) and _is_count(high)) or (high is not None and (low is None or low > high)):
        return ""
    known = (
        [one for one in named[:SHOWN_LABELS] if isinstance(one, str) and one in labels]
        if isinstance(named, list)
        else []
    )
    return more_pictures(target, low, high, [escaped(one, MAX_LENGTH) for one in known])


def _is_count(value: object) -> bool:
    return value is None or (type(value) is int and 1 <= value <= _MAX_COUNT)
