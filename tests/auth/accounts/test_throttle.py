"""Bad logins are slowed down, and only they."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from loupe.errors import BadCredentials, Throttled, Unavailable
from services.auth.accounts.throttle import ACCOUNT, ADDRESS, PAIR, Throttle
from tests.auth.conftest import Clock

HERE, AFAR = "ipv4:10.0.0.1", "ipv4:10.9.9.9"


async def attempt(
    throttle: Throttle, account: str, address: str, *, right: bool = False, familiar: bool = False
) -> bool:
    """Try a password and return whether the try was let through to it."""
    try:
        with contextlib.suppress(BadCredentials):
            async with throttle.attempt(account, address, familiar=familiar):
                await asyncio.sleep(0)  # the password is looked at
                if not right:
                    raise BadCredentials("wrong")
    except Throttled:
        return False
    return True


async def storm(throttle: Throttle, account: str, address: str, count: int, **kwargs: bool) -> int:
    """Fail to log in, one try after the other, and return how many were let through."""
    return sum([await attempt(throttle, account, address, **kwargs) for _ in range(count)])


async def test_a_storm_on_one_account_is_throttled_and_others_go_on():
    """1,000 bad logins in a minute: about 20 get through, and another account of the same address is untouched."""
    clock = Clock()
    throttle = Throttle(clock)
    admitted = 0
    for _ in range(1000):
        admitted += await attempt(throttle, "anna", HERE)
        clock.now += 0.06
    assert admitted <= PAIR.size + 60 * PAIR.per_second + 1
    assert await attempt(throttle, "bert", HERE)
    with pytest.raises(Throttled) as caught:
        async with throttle.attempt("anna", HERE, familiar=False):
            pass
    assert 1 <= int(caught.value.metadata["retry_after_seconds"]) <= 6


@pytest.mark.parametrize("familiar", [False, True])
async def test_tries_at_the_same_time_are_no_way_around(familiar: bool):
    """64 wrong passwords at once, each time that there is one try again: as many get through as one after the other."""
    clock = Clock()
    throttle = Throttle(clock)
    for expected in [int(PAIR.size), 1, 1, 1]:
        tried = await asyncio.gather(*(attempt(throttle, "anna", HERE, familiar=familiar) for _ in range(64)))
        assert sum(tried) == expected
        clock.now += 1 / PAIR.per_second


async def test_right_passwords_at_the_same_time_all_get_through():
    """The tries wait for those that are under way, which give back what they took."""
    throttle = Throttle(Clock())
    assert all(await asyncio.gather(*(attempt(throttle, "anna", HERE, right=True) for _ in range(300))))
    assert await storm(throttle, "anna", HERE, 50) == PAIR.size


async def test_a_strangers_storm_does_not_lock_the_owner_out():
    """However long one address storms the account: the owner gets in from another, known or not."""
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(600):
        await attempt(throttle, "anna", AFAR)
        clock.now += 1.0
    assert not await attempt(throttle, "anna", AFAR, right=True)
    assert await attempt(throttle, "anna", HERE, right=True)


async def test_not_even_from_many_addresses():
    """Then all new addresses together are bounded, and where the owner logged in before, the account stays open."""
    throttle = Throttle(Clock())
    addresses = [f"ipv4:10.1.0.{number}" for number in range(100)]
    assert sum([await storm(throttle, "anna", address, 20) for address in addresses]) == ACCOUNT.size
    assert not await attempt(throttle, "anna", HERE, right=True)
    assert await attempt(throttle, "anna", HERE, right=True, familiar=True)


async def test_trying_many_accounts_from_one_address_is_throttled():
    """The address runs out; other addresses do not, nor do the accounts that have logged in from it."""
    throttle = Throttle(Clock())
    assert sum([await attempt(throttle, f"a{number}", HERE) for number in range(1000)]) == ADDRESS.size
    assert await attempt(throttle, "a1", AFAR)
    assert await attempt(throttle, "owner", HERE, right=True, familiar=True)


async def test_waiting_and_success_open_the_door_again():
    """After the stated seconds one try is admitted; the right password clears the account at that address."""
    clock = Clock()
    throttle = Throttle(clock)
    await storm(throttle, "anna", HERE, 50)
    with pytest.raises(Throttled) as caught:
        async with throttle.attempt("anna", HERE, familiar=False):
            pass
    clock.now += int(caught.value.metadata["retry_after_seconds"])
    assert await attempt(throttle, "anna", HERE, right=True)
    assert await storm(throttle, "anna", HERE, 50) == PAIR.size


async def test_only_a_password_that_was_not_looked_at_costs_nothing():
    """A database that is away is nobody's fault; a call that is cut off may have been a guess."""
    throttle = Throttle(Clock())
    for _ in range(50):
        with pytest.raises(Unavailable):
            async with throttle.attempt("anna", HERE, familiar=False):
                raise Unavailable("away")
    for _ in range(3):
        with pytest.raises(asyncio.CancelledError):
            async with throttle.attempt("anna", HERE, familiar=False):
                raise asyncio.CancelledError
    assert await storm(throttle, "anna", HERE, 50) == PAIR.size - 3


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """The oldest buckets are forgotten."""
    monkeypatch.setattr("services.auth.accounts.throttle._KEPT", 30)
    throttle = Throttle(Clock())
    for number in range(100):
        await attempt(throttle, f"a{number}", f"ipv4:10.0.1.{number}")
    assert len(throttle._buckets) == 30
    assert not throttle._under_way
