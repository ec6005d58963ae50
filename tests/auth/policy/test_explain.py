"""Why an action is denied: for who may know, and not a word more."""

from __future__ import annotations

import pytest

from loupe.access import Decision
from loupe.names import AccountName
from services.auth.policy.explain import explain
from tests.auth.conftest import LINE, Rooms


async def asked(rooms: Rooms, by: str, about: str, action: str = "jobs.read") -> tuple[Decision, str]:
    """Return what somebody is told about an account; its name is replaced."""
    decision, text = await explain(rooms.authority, AccountName(by), AccountName(about), LINE, action, login="")
    return decision, text.replace(f"accounts/{about}", "accounts/?")


@pytest.mark.parametrize("by", ["ope", "olga"])
async def test_who_may_not_read_accounts_does_not_learn_which_exist(rooms: Rooms, by: str):
    """Known elsewhere, disabled, unknown: the same answer, word for word, to an operator and to the owner."""
    await rooms.person("ope", "projects/line-7/groups/operators")
    await rooms.person("hidden", "projects/system/groups/staff")
    await rooms.person("gone", "projects/system/groups/staff")
    await rooms.accounts.set_disabled(AccountName("admin"), AccountName("gone"), True)
    answers = [await asked(rooms, by, about) for about in ("hidden", "gone", "nosuch")]
    assert answers == [answers[0]] * 3
    told = "accounts/? is in no group of projects/line-7, so nothing is allowed there; jobs.read needs 10."
    assert answers[0][1] == told


async def test_who_may_know_is_told(rooms: Rooms):
    """The administrator hears which accounts exist; a colleague hears of a colleague, and everybody of themselves."""
    await rooms.person("ope", "projects/line-7/groups/operators")
    await rooms.person("hidden", "projects/system/groups/staff")
    assert "in no group" in (await asked(rooms, "admin", "hidden"))[1]
    assert "is unknown or disabled" in (await asked(rooms, "admin", "nosuch"))[1]
    decision, text = await asked(rooms, "ope", "olga", "jobs.submit")
    assert decision.allowed
    assert "40, at least the threshold 30" in text
    decision, text = await asked(rooms, "hidden", "hidden")
    assert decision.active
    assert "in no group" in text
