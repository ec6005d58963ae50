"""Bad logins are slowed down: a token bucket for each account that is tried and for each address that tries."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from loupe.errors import Throttled
from loupe.token_bucket import TokenBucket


@dataclass(frozen=True)
class Limit:
    """So many at once, and so many a second in the long run."""

    size: float
    per_second: float


ACCOUNT = Limit(size=10, per_second=1 / 6)
PEER = Limit(size=100, per_second=1.0)
_KEPT = 100_000


class Throttle:
    """Keeps the buckets; only failures take from them, so who knows the password hardly ever notices.

    monotonic: seconds that only go up. A refused attempt takes nothing: who storms one account leaves the others of
    the same address alone.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[tuple[Limit, str], TokenBucket] = OrderedDict()

    def admit(self, account: str, peer: str) -> None:
        """Raise Throttled, with the seconds to wait, when the account or the address failed too often."""
        now = self._monotonic()
        known = (self._buckets.get(key) for key in ((ACCOUNT, account), (PEER, peer)))
        wait = max((bucket.wait(now) for bucket in known if bucket), default=0.0)
        if wait > 0:
            seconds = math.ceil(wait)
            raise Throttled(f"too many failed logins; try again in {seconds} s", retry_after_seconds=seconds)

    def failed(self, account: str, peer: str) -> None:
        """Take one from both buckets."""
        for limit, key in ((ACCOUNT, account), (PEER, peer)):
            bucket = self._buckets.pop((limit, key), None) or TokenBucket(limit.per_second, limit.size)
            bucket.drain(self._monotonic())
            self._buckets[limit, key] = bucket
        while len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)

    def succeeded(self, account: str) -> None:
        """Fill the account's bucket again: its owner is here."""
        self._buckets.pop((ACCOUNT, account), None)
