"""Passwords: what is taken for one, the same work for everybody, and a bound on how much at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial

import argon2
import pytest

from loupe.errors import InvalidArgument, Throttled, WeakPassword
from services.auth.accounts.passwords import MAXIMUM_LENGTH, Passwords, check_length, check_strength
from tests.auth.conftest import cheap_passwords

HERE = "ipv4:10.0.0.1"


async def test_the_same_work_is_done_for_an_account_that_does_not_exist(monkeypatch: pytest.MonkeyPatch):
    """An unknown account costs one verification at the same parameters, like a known one."""
    passwords = cheap_passwords()
    checked: list[str] = []
    verify = passwords._verify
    monkeypatch.setattr(passwords, "_verify", lambda known, given: checked.append(known) or verify(known, given))
    known = await passwords.hash("correct horse battery", HERE)
    assert await passwords.matches(known, "correct horse battery", HERE)
    assert not await passwords.matches(known, "wrong horse battery", HERE)
    assert not await passwords.matches(None, "correct horse battery", HERE)
    parameters = [argon2.extract_parameters(one) for one in checked]
    assert parameters == [parameters[0]] * 3
    passwords.close()


@pytest.mark.parametrize("password", ["", "short", "x" * 9, "x" * 1025])
def test_a_weak_password_is_refused(password: str):
    """Ten characters at least, and no flood."""
    with pytest.raises(WeakPassword):
        check_strength(password)


def test_what_is_longer_than_any_password_is_said_to_be():
    """The error names the field and the bound, and does not repeat what was sent."""
    check_length("password", "x" * MAXIMUM_LENGTH)
    with pytest.raises(InvalidArgument) as caught:
        check_length("password", "x" * (MAXIMUM_LENGTH + 1))
    assert caught.value.field == "password"
    assert caught.value.message == "password has 1025 characters; no password has more than 1024"


class SlowHashes:
    """Takes hashes that end only when they are told to, and counts them."""

    def __init__(self, passwords: Passwords, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.at_once = self.most = 0
        self._lock, self._end = threading.Lock(), threading.Semaphore(0)
        monkeypatch.setattr(passwords, "_verify", self._verify)

    def _verify(self, known: str, given: str) -> bool:
        with self._lock:
            self.at_once += 1
            self.most = max(self.most, self.at_once)
            self.order.append(given)
        self._end.acquire()
        with self._lock:
            self.at_once -= 1
        return True

    def have_begun(self, count: int) -> bool:
        """Tell whether so many have begun."""
        return len(self.order) == count

    def end(self, count: int) -> None:
        """Let so many end."""
        self._end.release(count)


async def eventually(condition: Callable[[], bool]) -> None:
    """Return when it is so."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_as_many_hashes_as_threads_are_computed_at_once_also_when_callers_go(monkeypatch: pytest.MonkeyPatch):
    """A hash takes 64 MiB; who cancels the call does not get another one going beside it."""
    passwords = cheap_passwords()
    hashes = SlowHashes(passwords, monkeypatch)
    begun = [asyncio.ensure_future(passwords.matches("", "x", HERE)) for _ in range(2)]
    await eventually(lambda: hashes.at_once == 2)
    for call in begun:
        call.cancel()
    calls = [asyncio.ensure_future(passwords.matches("", "x", HERE)) for _ in range(10)]
    await eventually(lambda: hashes.at_once > 2 or passwords._pool._work_queue.qsize() > 0)
    for call in calls:
        call.cancel()
    await asyncio.wait([*begun, *calls])
    hashes.end(2)
    last = asyncio.ensure_future(passwords.matches("", "the next", HERE))
    await eventually(lambda: len(hashes.order) == 3)
    assert hashes.order == ["x", "x", "the next"], "who went away left no work behind"
    assert hashes.most == 2
    hashes.end(1)
    assert await asyncio.wait_for(last, 5)
    passwords.close()


async def test_a_crowd_from_one_address_does_not_make_the_others_wait(monkeypatch: pytest.MonkeyPatch):
    """Addresses take turns; who brings more than may wait is told so, and only they."""
    passwords = cheap_passwords()
    hashes = SlowHashes(passwords, monkeypatch)
    crowd = [asyncio.ensure_future(passwords.matches("", f"crowd {number}", "crowd")) for number in range(100)]
    await eventually(lambda: hashes.at_once == 2)
    late = [asyncio.ensure_future(passwords.matches("", who, who)) for who in ("anna", "bert")]
    await asyncio.sleep(0)
    assert [call.exception().__class__ for call in crowd if call.done()] == [Throttled] * (100 - 2 - 64)
    for begun in (4, 6):
        hashes.end(2)
        await eventually(partial(hashes.have_begun, begun))
    assert {"anna", "bert"} <= set(hashes.order[:5])
    hashes.end(1_000)
    assert all(await asyncio.gather(*late))
    await asyncio.gather(*crowd, return_exceptions=True)
    passwords.close()
