"""Bad logins are slowed down, and only they."""

from __future__ import annotations

import argon2
import pytest

from loupe.errors import Throttled, WeakPassword
from services.auth.accounts.passwords import Passwords, check_strength
from services.auth.accounts.throttle import ACCOUNT, PEER, Throttle
from tests.auth.conftest import Clock


def attempts(throttle: Throttle, account: str, peer: str, count: int) -> int:
    """Fail to log in and return how many tries were let through to the password."""
    admitted = 0
    for _ in range(count):
        try:
            throttle.admit(account, peer)
        except Throttled:
            continue
        admitted += 1
        throttle.failed(account, peer)
    return admitted


def test_a_storm_on_one_account_is_throttled_and_others_go_on():
    """1,000 bad logins in a minute: about 20 get through, and another account of the same address is untouched."""
    clock = Clock()
    throttle = Throttle(clock)
    admitted = 0
    for _ in range(1000):
        admitted += attempts(throttle, "anna", "ipv4:10.0.0.1", 1)
        clock.now += 0.06
    assert admitted <= ACCOUNT.size + 60 * ACCOUNT.per_second + 1
    throttle.admit("bert", "ipv4:10.0.0.1")
    with pytest.raises(Throttled) as caught:
        throttle.admit("anna", "ipv4:10.0.0.9")
    assert 1 <= int(caught.value.metadata["retry_after_seconds"]) <= 6


def test_trying_many_accounts_from_one_address_is_throttled():
    """The address runs out, other addresses do not."""
    throttle = Throttle(Clock())
    admitted = sum(attempts(throttle, f"a{number}", "ipv4:10.0.0.1", 1) for number in range(1000))
    assert admitted == PEER.size
    throttle.admit("a1", "ipv4:10.0.0.2")


def test_waiting_and_success_open_the_door_again():
    """After the stated seconds one try is admitted; the right password clears the account."""
    clock = Clock()
    throttle = Throttle(clock)
    attempts(throttle, "anna", "here", 50)
    with pytest.raises(Throttled) as caught:
        throttle.admit("anna", "here")
    clock.now += int(caught.value.metadata["retry_after_seconds"])
    throttle.admit("anna", "here")
    throttle.succeeded("anna")
    assert attempts(throttle, "anna", "here", 50) == ACCOUNT.size


async def test_the_same_work_is_done_for_an_account_that_does_not_exist(monkeypatch: pytest.MonkeyPatch):
    """An unknown account costs one verification at the same parameters, like a known one."""
    passwords = Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))
    checked: list[str] = []
    verify = passwords._verify
    monkeypatch.setattr(passwords, "_verify", lambda known, given: checked.append(known) or verify(known, given))
    known = await passwords.hash("correct horse battery")
    assert await passwords.matches(known, "correct horse battery")
    assert not await passwords.matches(known, "wrong horse battery")
    assert not await passwords.matches(None, "correct horse battery")
    parameters = [argon2.extract_parameters(one) for one in checked]
    assert parameters == [parameters[0]] * 3
    passwords.close()


@pytest.mark.parametrize("password", ["", "short", "x" * 9, "x" * 1025])
def test_a_weak_password_is_refused(password: str):
    """Ten characters at least, and no flood."""
    with pytest.raises(WeakPassword):
        check_strength(password)
