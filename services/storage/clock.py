"""Times as the contract wants them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp


def timestamp(seconds: float) -> Timestamp:
    """Return wall-clock seconds since 1970 as the contract's Timestamp, to the microsecond."""
    made = Timestamp()
    made.FromMicroseconds(round(seconds * 1e6))
    return made
