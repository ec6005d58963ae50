"""Bad logins are slowed down: a token bucket for each account that is tried and for each address that tries."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from loupe.errors import Throttled


@dataclass(frozen=True)
class Bucket:
    """A limit: so many at once, and so many a second in the long run."""

    size: float
    per_second: float


ACCOUNT = Bucket(size=10, per_second=1 / 6)
PEER = Bucket(size=100, per_second=1.0)
_KEPT = 100_000


class Throttle:
    """Keeps the buckets; only failures take from them, so who knows the password hardly ever notices.

    monotonic: seconds that only go up. A refused attempt takes nothing: who storms one account leaves the others of
    the same address alone.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._levels: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def admit(self, account: str, peer: str) -> None:
        """Raise Throttled, with the seconds to wait, when the account or the address failed too often."""
        wait = max(self._wait("account", account, ACCOUNT), self._wait("peer", peer, PEER))
        if wait > 0:
            seconds = math.ceil(wait)
            raise Throttled(f"too many failed logins; try again in {seconds} s", retry_after_seconds=seconds)

    def failed(self, account: str, peer: str) -> None:
        """Take one from both buckets."""
        for kind, key, bucket in (("account", account, ACCOUNT), ("peer", peer, PEER)):
            level = self._level(kind, key, bucket)
            self._levels[kind, key] = (max(level - 1, 0.0), self._monotonic())
            self._levels.move_to_end((kind, key))
        while len(self._levels) > _KEPT:
            self._levels.popitem(last=False)

    def succeeded(self, account: str) -> None:
        """Fill the account's bucket again: its owner is here."""
        self._levels.pop(("account", account), None)

    def _level(self, kind: str, key: str, bucket: Bucket) -> float:
        level, at = self._levels.get((kind, key), (bucket.size, self._monotonic()))
        return min(bucket.size, level + (self._monotonic() - at) * bucket.per_second)

    def _wait(self, kind: str, key: str, bucket: Bucket) -> float:
        return max(0.0, 1 - self._level(kind, key, bucket)) / bucket.per_second
