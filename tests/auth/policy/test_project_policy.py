"""Casbin decides, and none of the ways in which it is known to fail open is left."""

from __future__ import annotations

from typing import Any

import casbin
import pytest

from loupe.errors import DataLoss
from services.auth.policy.project_policy import MODEL, ProjectPolicy, ProjectRoles, at_least, build_policies

GROUPS = {"owners": 40, "operators": 20, "viewers": 9}
MEMBERS = {"olga": "owners", "otto": "operators", "vera": "viewers"}


def yes_to_all(policy: ProjectPolicy, monkeypatch: pytest.MonkeyPatch) -> ProjectPolicy:
    """Return the policy with an enforcer that fails open: what is denied then never got to it."""
    monkeypatch.setattr(policy._enforcer, "enforce", lambda *asked: True)
    return policy


def line() -> ProjectPolicy:
    """Return a project with one member in each group."""
    return ProjectPolicy("line-7", GROUPS, MEMBERS)


@pytest.mark.parametrize(
    ("account", "need", "allowed"),
    [
        ("olga", 40, True),
        ("olga", 41, False),
        ("otto", 20, True),
        ("otto", 21, False),
        ("vera", 9, True),
        ("vera", 10, False),
        ("vera", 1, True),
        ("nobody", 1, False),
    ],
)
def test_a_parameter_at_or_above_the_threshold_is_allowed(account: str, need: int, allowed: bool):
    """The comparison is one of numbers: "9" is below 10."""
    assert line().allows(account, need) is allowed


@pytest.mark.parametrize("need", [0, -1, True, False, None, "", "10", 10.0, 101])
def test_a_need_that_is_no_threshold_is_denied(need: Any, monkeypatch: pytest.MonkeyPatch):
    """0, negative numbers, True and text let everybody pass a careless comparison."""
    assert line().allows("olga", need) is False
    assert yes_to_all(line(), monkeypatch).allows("olga", need) is False


@pytest.mark.parametrize(
    "account", ["", "owners", "role:line-7:owners", "user:olga", "proj:line-7", "olga, x", "Olga", "olga\n", None, 7]
)
def test_an_account_that_is_no_account_id_is_denied(account: Any, monkeypatch: pytest.MonkeyPatch):
    """No name with a prefix or a separator, nothing empty reaches Casbin."""
    assert line().allows(account, 10) is False
    if account != "owners":  # the name of a group is a proper account id; the prefixes keep the two apart
        assert yes_to_all(line(), monkeypatch).allows(account, 10) is False


def test_an_empty_policy_denies(monkeypatch: pytest.MonkeyPatch):
    """Bare Casbin says yes to an empty policy with empty strings."""
    model = MODEL.replace("atLeast(p.level, r.need) && ", "")
    assert casbin.Enforcer(casbin.Enforcer.new_model(text=model)).enforce("", "", "") is True
    empty = ProjectPolicy("line-7", {}, {})
    assert empty.allows("", 10) is False
    assert empty.allows("olga", 10) is False
    assert ProjectPolicy("line-7", {}, MEMBERS).allows("olga", 1) is False
    assert yes_to_all(empty, monkeypatch).allows("olga", 1) is False


def test_nobody_is_their_own_role():
    """Casbin's own role manager links every name to itself."""
    roles = ProjectRoles("line-7", MEMBERS)
    assert roles.has_link("user:olga", "role:line-7:owners", "proj:line-7")
    for first, second, domains in (
        ("role:line-7:owners", "role:line-7:owners", ("proj:line-7",)),
        ("user:olga", "user:olga", ("proj:line-7",)),
        ("user:olga", "role:line-7:owners", ("proj:line-9",)),
        ("user:olga", "role:line-7:owners", ()),
        ("user:olga", "role:line-9:owners", ("proj:line-7",)),
        ("user:nobody", "role:line-7:None", ("proj:line-7",)),
        ("", "", ("proj:line-7",)),
    ):
        assert roles.has_link(first, second, *domains) is False


def test_a_role_manager_that_is_false_would_compare_names():
    """Casbin falls back to name equality for a role manager that is falsy: ours must not be."""
    assert bool(ProjectRoles("line-7", {})) is True


@pytest.mark.parametrize("level", ["junk", "", "0", "-1", "101", "1e3", " 9", "9.0", 40, None])
def test_a_broken_level_is_an_error(level: object):
    """Whatever cannot be compared is no level."""
    with pytest.raises(ValueError, match="permission parameter"):
        at_least(level, 1)


def test_a_broken_level_in_the_policy_denies():
    """One row that cannot be compared allows nobody anything, rather than somebody something."""
    policy = ProjectPolicy("line-7", {"broken": "junk", **GROUPS}, MEMBERS)
    assert policy.allows("olga", 1) is False


def test_every_exception_is_a_denial(monkeypatch: pytest.MonkeyPatch):
    """A policy that cannot be evaluated allows nothing, and the failure is not remembered."""
    policy = line()

    def fail(*asked: object) -> bool:
        raise RuntimeError("broken")

    with monkeypatch.context() as broken:
        broken.setattr(policy._enforcer, "enforce", fail)
        assert policy.allows("olga", 10) is False
    assert policy.allows("olga", 10) is True


def test_only_a_plain_true_is_an_allow(monkeypatch: pytest.MonkeyPatch):
    """A denied enforce_ex is a tuple, and a tuple is true."""
    policy = line()
    monkeypatch.setattr(policy._enforcer, "enforce", policy._enforcer.enforce_ex)
    assert policy.allows("nobody", 10) is False
    assert policy.allows("olga", 10) is False


def test_a_change_builds_another_policy():
    """The old one answers as before: nothing is changed under a running check."""
    before = line()
    after = before.with_level("operators", 50).with_member("vera", None)
    assert (before.allows("otto", 50), after.allows("otto", 50)) == (False, True)
    assert (before.allows("vera", 5), after.allows("vera", 5)) == (True, False)
    assert after.with_level("operators", None).allows("otto", 1) is False


def rows() -> list[tuple[str, str, str, str | None]]:
    """Return a small policy as it is stored."""
    return [
        ("p", "role:line-7:owners", "40", None),
        ("p", "role:line-9:owners", "40", None),
        ("g", "user:olga", "role:line-7:owners", "proj:line-7"),
    ]


def test_stored_rows_become_policies():
    """Rights in one project are none in another."""
    policies = build_policies(rows())
    assert policies["line-7"].allows("olga", 40) is True
    assert policies["line-9"].allows("olga", 1) is False


@pytest.mark.parametrize(
    "row",
    [
        ("p", "role:line-7:owners", "400", None),
        ("p", "role:line-7:owners", "forty", None),
        ("p", "owners", "40", None),
        ("p", "role:line-7:owners", "40", "allow"),
        ("g", "olga", "role:line-7:owners", "proj:line-7"),
        ("g", "user:olga", "role:line-7:owners", "proj:line-9"),
        ("g", "user:olga", "role:line-7:owners", "proj:line-7, x"),
        ("g", "user:olga", "role:line-7:owners", None),
        ("g", "user:olga", "role:line-7:ghosts", "proj:line-7"),
        ("g2", "user:olga", "role:line-7:owners", "proj:line-7"),
        ("", "", "", ""),
    ],
)
def test_a_damaged_row_stops_everything(row: tuple[str, str, str, str | None]):
    """A row that auth would never have written is not guessed at."""
    with pytest.raises(DataLoss):
        build_policies([*rows(), row])


def test_no_rows_at_all_are_damage():
    """A running mesh always has its administrators."""
    with pytest.raises(DataLoss):
        build_policies([])
