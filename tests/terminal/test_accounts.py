"""`loupe account delete`, `undelete` and `list --deleted`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from loupe.auth.v1 import account_pb2
from loupe.auth.v1 import account_service_pb2 as rpc
from loupe.errors import FailedPrecondition, LoupeError, NotFound

BOB = account_pb2.Account(name="accounts/bob", groups=["projects/line-7/groups/operators"])
GONE = account_pb2.Account(
    name="accounts/gone",
    groups=BOB.groups,
    delete_time={"seconds": 1_790_000_000},
    expire_time={"seconds": 1_792_592_000},
)


class Auth:
    """What auth answers, by the kind of the request; what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answers: dict[type[Any], Any] = {
            rpc.ListAccountsRequest: rpc.ListAccountsResponse(accounts=[BOB, GONE]),
            rpc.DeleteAccountRequest: rpc.DeleteAccountResponse(account=GONE),
            rpc.UndeleteAccountRequest: rpc.UndeleteAccountResponse(account=BOB),
        }

    def answer(self, request: Any) -> Any:
        self.asked.append(request)
        answer = self.answers[type(request)]
        if isinstance(answer, LoupeError):
            raise answer
        return answer


@pytest.fixture
def auth(monkeypatch: pytest.MonkeyPatch) -> Auth:
    auth = Auth()

    async def call(_service: object, _method: object, request: Any, **_: object) -> Any:
        return auth.answer(request)

    monkeypatch.setattr("loupe.terminal.connection.Service.call", call)
    return auth


def test_a_deleted_account_is_told_with_its_last_day(auth: Auth, command_line: Callable[..., Any]) -> None:
    """Each invocation with a request_id of its own; programs get the account."""
    done = command_line("account", "delete", "gone", TZ="UTC")
    assert done.exit_code == 0, done.output
    told = " ".join(done.stdout.split())
    assert told.startswith("deleted accounts/gone; it can be restored until 2026-10-2")
    assert json.loads(command_line("account", "delete", "gone", "--json").stdout)["name"] == "accounts/gone"
    assert [one.name for one in auth.asked] == ["accounts/gone"] * 2
    assert auth.asked[0].request_id and auth.asked[0].request_id != auth.asked[1].request_id


def test_a_restored_account_is_told_with_where_it_is(auth: Auth, command_line: Callable[..., Any]) -> None:
    """And that it is of no use yet where it was disabled."""
    done = command_line("account", "undelete", "bob")
    assert done.stdout == "restored accounts/bob, in projects/line-7/groups/operators\n"
    assert auth.asked[0].request_id
    disabled = account_pb2.Account(name="accounts/bob", disabled=True)
    auth.answers[rpc.UndeleteAccountRequest] = rpc.UndeleteAccountResponse(account=disabled)
    done = command_line("account", "undelete", "bob")
    assert done.stdout == "restored accounts/bob, in no group and is still disabled\n"


def test_what_can_be_restored_is_listed(auth: Auth, command_line: Callable[..., Any]) -> None:
    """Those alone, and only where they are asked for."""
    shown = command_line("account", "list", "--deleted", COLUMNS="80").stdout
    assert "gone" in shown and "bob" not in shown and "can be restored until" in shown
    answer = json.loads(command_line("account", "list", "--deleted", "--json").stdout)
    assert [one["name"] for one in answer["deleted"]] == ["accounts/gone"]
    auth.answers[rpc.ListAccountsRequest] = rpc.ListAccountsResponse(accounts=[BOB])
    assert "bob" in command_line("account", "list").stdout
    assert [one.show_deleted for one in auth.asked] == [True, True, False]


def test_a_refusal_keeps_its_words(auth: Auth, command_line: Callable[..., Any]) -> None:
    """The last administrator, and what cannot be restored any more."""
    last = FailedPrecondition("accounts/gone is the last member", resource="accounts/gone", state="last_member")
    auth.answers[rpc.DeleteAccountRequest] = last
    done = command_line("account", "delete", "gone")
    assert done.exit_code != 0 and "is the last member" in done.stderr
    auth.answers[rpc.UndeleteAccountRequest] = NotFound("accounts/gone does not exist", resource="accounts/gone")
    done = command_line("account", "undelete", "gone")
    assert done.exit_code != 0 and "accounts/gone does not exist" in done.stderr
