"""Bad logins are slowed down: token buckets for each account that is tried and for each address that tries."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from loupe.errors import BadCredentials, LoupeError, Throttled
from loupe.notifier import Notifier
from loupe.token_bucket import TokenBucket


@dataclass(frozen=True)
class Limit:
    """So many at once, and so many a second in the long run."""

    size: float
    per_second: float


PAIR = Limit(size=10, per_second=1 / 6)
"""Tries of one address at one account."""
ACCOUNT = Limit(size=40, per_second=1 / 2)
"""Tries at one account from all addresses at which its owner never logged in. A lone address cannot use it up."""
ADDRESS = Limit(size=100, per_second=1.0)
"""Tries of one address at all accounts that never logged in from there."""
_KEPT = 100_000
_MOST_WAITING = 1_000

_Key = tuple[Limit, str, str]


class Throttle:
    """Keeps the buckets. A try takes its tokens before the password is looked at; the right password gives them back.

    monotonic: seconds that only go up. A refused try takes nothing: who storms one account leaves the others of the
    same address alone. Nobody locks an owner out: an address has a bucket of its own at each account, and where the
    account has logged in from before, no other bucket counts.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._buckets: OrderedDict[_Key, TokenBucket] = OrderedDict()
        self._under_way: Counter[_Key] = Counter()
        self._ended = Notifier()
        self._waiting = 0

    @asynccontextmanager
    async def attempt(self, account: str, address: str, *, familiar: bool) -> AsyncIterator[None]:
        """Let the block try one password; a block that ends well has found it right.

        familiar: whether this account logged in from the address before. Raises Throttled, with the seconds to wait,
        when the account or the address failed too often. Tries that are still under way are waited for: they may give
        back what they took.
        """
        pair = (PAIR, account, address)
        keys = [pair] if familiar else [pair, (ACCOUNT, account, ""), (ADDRESS, "", address)]
        await self._admit(keys)
        self._under_way.update(keys)
        try:
            yield
        except BadCredentials:
            raise
        except LoupeError:  # the password was not tried
            self._give_back(keys)
            raise
        else:
            self._give_back(keys)
            self._buckets.pop(pair, None)
        finally:
            self._under_way -= Counter(keys)
            self._ended.notify()

    async def _admit(self, keys: list[_Key]) -> None:
        while True:
            now = self._monotonic()
            waits = {key: self._buckets[key].wait(now) for key in keys if key in self._buckets}
            empty = [key for key, wait in waits.items() if wait > 0]
            if not empty:
                break
            if self._waiting >= _MOST_WAITING or not all(self._under_way[key] for key in empty):
                seconds = math.ceil(max(waits.values()))
                raise Throttled(f"too many failed logins; try again in {seconds} s", retry_after_seconds=seconds)
            self._waiting += 1
            try:
                await self._ended.next().wait()
            finally:
                self._waiting -= 1
        for key in keys:
            limit = key[0]
            bucket = self._buckets.pop(key, None) or TokenBucket(limit.per_second, limit.size)
            bucket.take(now)
            self._buckets[key] = bucket
        while len(self._buckets) > _KEPT:
            self._buckets.popitem(last=False)

    def _give_back(self, keys: list[_Key]) -> None:
        for key in keys:
            if key in self._buckets:
                self._buckets[key].give_back(self._monotonic())
