"""What a servicer wants to know of the call that it serves, besides the request."""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import Message

from loupe.errors import PermissionDenied
from loupe.idempotency import Request
from loupe.identity import current_caller
from loupe.names import AccountName


def acting_account() -> AccountName:
    """Return the account that makes this call. Raises PermissionDenied for a service, which is nobody."""
    account = current_caller().account
    if account is None:
        raise PermissionDenied("this call needs an account behind it")
    return account


def idempotent(method: str, request: Message, *secrets: str) -> Request:
    """Describe the call of a mutation to the request log; the fields named in `secrets` are left out of its body.

    Raises PermissionDenied for a service.
    """
    request_id: str = getattr(request, "request_id")  # noqa: B009 - Message does not know the field
    body = type(request)()
    body.CopyFrom(request)
    for field in ("request_id", *secrets):
        body.ClearField(field)
    return Request(str(acting_account()), method, request_id, body.SerializeToString(deterministic=True))


def peer_address(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Return the network address that the call comes from, without the port; of IPv6 the network that one host has."""
    place = context.peer().rpartition(":")[0]
    family, _, text = unquote(place).partition(":")
    if family != "ipv6":
        return place
    address = ipaddress.IPv6Address(text.strip("[]").partition("%")[0])
    if address.ipv4_mapped is not None:
        return f"ipv4:{address.ipv4_mapped}"
    return f"ipv6:{ipaddress.IPv6Network((address, 64), strict=False)}"
