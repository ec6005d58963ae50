"""Passwords: argon2id in threads, and the same work whether the account exists or not."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2
from argon2.low_level import Type, hash_secret_raw

from loupe.errors import InvalidArgument, WeakPassword
from loupe.turns import Turns

MINIMUM_LENGTH = 10
MAXIMUM_LENGTH = 1024
_WAITING, _WAITING_EACH = 512, 64
R = TypeVar("R")


def check_strength(password: str) -> None:
    """Raise WeakPassword for a password that is too short, or absurdly long."""
    if not MINIMUM_LENGTH <= len(password) <= MAXIMUM_LENGTH:
        raise WeakPassword(
            f"the password has {len(password)} characters; it needs {MINIMUM_LENGTH} to {MAXIMUM_LENGTH}",
            minimum_length=MINIMUM_LENGTH,
        )


def check_length(field: str, password: str) -> None:
    """Raise InvalidArgument for what is longer than any password, before any work is done on it."""
    if len(password) > MAXIMUM_LENGTH:
        raise InvalidArgument(
            f"{field} has {len(password)} characters; no password has more than {MAXIMUM_LENGTH}",
            field=field,
            expected=f"at most {MAXIMUM_LENGTH} characters",
        )


class Passwords:
    """Hashes and verifies; each call takes tens of milliseconds of a thread, never of the event loop.

    hasher: its parameters; PHC strings of other parameters still verify. threads: how many hashes are computed at once;
    each takes the hasher's memory, 64 MiB by default. Every call names its source, an address or an account: the
    sources take turns.
    """

    def __init__(self, hasher: argon2.PasswordHasher | None = None, threads: int = 2) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="argon2")
        self._turns = Turns(range(threads), each=_WAITING_EACH, waiting=_WAITING)
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str, source: str) -> str:
        """Return the PHC string of a password."""
        return await self._run(source, self._hasher.hash, password)

    async def matches(self, password_hash: str | None, password: str, source: str) -> bool:
        """Tell whether a password is the one that was hashed; None, an unknown account, takes as long."""
        right = await self._run(source, self._verify, password_hash or self._nobody, password)
        return right and password_hash is not None

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except argon2.exceptions.VerificationError:
            return False

    async def fingerprint(self, password: str, context: str, source: str) -> bytes:
        """Return what stands for a password where two requests are compared; as slow to guess from as a hash."""
        salt = hashlib.sha256(context.encode()).digest()[:16]
        return await self._run(source, self._derive, password.encode(), salt)

    def _derive(self, password: bytes, salt: bytes) -> bytes:
        cost = self._hasher
        return hash_secret_raw(password, salt, cost.time_cost, cost.memory_cost, cost.parallelism, 32, Type.ID)

    async def _run(self, source: str, function: Callable[..., R], *arguments: object) -> R:
        async with self._turns.turn(source):
            # A thread goes on when its caller has gone; the next hash waits for it in the pool, which has no other.
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
