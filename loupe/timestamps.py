"""Times between Python and the contract: one rounding, to the microsecond, and always UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def timestamp(time: float | datetime) -> Timestamp:
    """Return seconds since 1970, or a datetime that knows its zone, as the contract's Timestamp."""
    return timestamp_of_micros(micros_of(time))


def timestamp_of_micros(micros: int) -> Timestamp:
    """Return microseconds since 1970 as the contract's Timestamp."""
    made = Timestamp()
    made.FromMicroseconds(micros)
    return made


def micros_of(time: float | datetime) -> int:
    """Return microseconds since 1970, rounded.

    >>> micros_of(1.0000006), micros_of(datetime(1970, 1, 2, tzinfo=UTC))
    (1000001, 86400000000)
    """
    if isinstance(time, datetime):
        # In whole numbers: a float has not enough digits for today's microseconds.
        since = time - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return round(time * 1e6)


def datetime_of(moment: Timestamp) -> datetime:
    """Return a Timestamp as a datetime in UTC; what is finer than a microsecond is cut off."""
    return moment.ToDatetime(UTC)


def datetime_of_micros(micros: int) -> datetime:
    """Return microseconds since 1970 as a datetime in UTC."""
    return timestamp_of_micros(micros).ToDatetime(UTC)
