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

from loupe.errors import Throttled, WeakPassword

MINIMUM_LENGTH = 10
MAXIMUM_LENGTH = 1024
_WAITING = 64
R = TypeVar("R")


def check_strength(password: str) -> None:
    """Raise WeakPassword for a password that is too short, or absurdly long."""
    if not MINIMUM_LENGTH <= len(password) <= MAXIMUM_LENGTH:
        raise WeakPassword(
            f"the password has {len(password)} characters; it needs {MINIMUM_LENGTH} to {MAXIMUM_LENGTH}",
            minimum_length=MINIMUM_LENGTH,
        )


class Passwords:
    """Hashes and verifies; each call takes tens of milliseconds of a thread, never of the event loop.

    hasher: its parameters; PHC strings of other parameters still verify.
    """

    def __init__(self, hasher: argon2.PasswordHasher | None = None, threads: int = 2) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="argon2")
        self._waiting = 0
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    async def hash(self, password: str) -> str:
        """Return the PHC string of a password."""
        return await self._run(self._hasher.hash, password)

    async def matches(self, password_hash: str | None, password: str) -> bool:
        """Tell whether a password is the one that was hashed; None, an unknown account, takes as long."""
        right = await self._run(self._verify, password_hash or self._nobody, password[: MAXIMUM_LENGTH + 1])
        return right and password_hash is not None

    def _verify(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except argon2.exceptions.VerificationError:
            return False

    async def fingerprint(self, password: str, context: str) -> bytes:
        """Return what stands for a password where two requests are compared; as slow to guess from as a hash."""
        salt = hashlib.sha256(context.encode()).digest()[:16]
        return await self._run(self._derive, password.encode(), salt)

    def _derive(self, password: bytes, salt: bytes) -> bytes:
        cost = self._hasher
        return hash_secret_raw(password, salt, cost.time_cost, cost.memory_cost, cost.parallelism, 32, Type.ID)

    async def _run(self, function: Callable[..., R], *arguments: object) -> R:
        if self._waiting >= _WAITING:
            raise Throttled("too many logins at once; try again in a moment", retry_after_seconds=1)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
