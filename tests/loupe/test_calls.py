"""What a servicer learns of a call: who makes it, and what tells it from another one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from loupe.auth.v1.account_service_pb2 import CreateAccountRequest
from loupe.errors import PermissionDenied
from loupe.identity import Caller, set_caller
from loupe.names import AccountName
from loupe.rpc.calls import acting_account, idempotent, peer_address


async def test_a_service_acts_for_no_account():
    """It may call, and is told that an account is needed."""
    set_caller(Caller(service="storage"))
    with pytest.raises(PermissionDenied):
        acting_account()
    set_caller(Caller(account=AccountName("olga")))
    assert acting_account() == AccountName("olga")


async def test_the_same_call_is_the_same_whatever_its_id_and_its_secrets():
    """Only what it asks for counts; a secret gets into no log of requests."""
    set_caller(Caller(account=AccountName("olga")))
    first, other = (
        idempotent(
            "CreateAccount", CreateAccountRequest(account_id="eva", password=password, request_id=id), "password"
        )
        for password, id in (("canary one", "r1"), ("canary two", "r2"))
    )
    assert (first.caller, first.method, first.request_id) == ("accounts/olga", "CreateAccount", "r1")
    assert first.body == other.body == CreateAccountRequest(account_id="eva").SerializeToString()


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:4711", "ipv4:10.0.0.1"),
        ("ipv6:%5B::1%5D:4711", "ipv6:::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:4711", "ipv6:2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", "ipv6:fe80::/64"),
        ("ipv6:[::ffff:10.0.0.1]:4711", "ipv4:10.0.0.1"),
        ("unix:/run/loupe.sock", "unix"),
    ],
)
async def test_a_host_is_one_address_whatever_its_port(peer: str, address: str):
    """Of IPv6 every host has a whole network to call from."""

    context: Any = SimpleNamespace(peer=lambda: peer)
    assert peer_address(context) == address
