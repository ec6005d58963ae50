"""Client streams of the form header, parts, closing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from loupe.errors import PermissionDenied, invalid
from loupe.identity import current_caller
from loupe.names import AccountName

T = TypeVar("T")


async def open_stream(requests: AsyncIterator[Any]) -> tuple[Any, AsyncIterator[Any]]:
    """Return the header of the first message and the rest. Raises InvalidArgument without a header.

    The interceptor has seen to it that there is a first message.
    """
    first = await anext(requests)
    if first.WhichOneof("part") != "header":
        raise invalid("part", first.WhichOneof("part") or "", "the header as the stream's first message")
    return first.header, requests


async def parts(requests: AsyncIterator[Any], unpack: dict[str, Callable[[Any], T]]) -> AsyncIterator[T]:
    """Unpack each message of the stream by what it is. Raises InvalidArgument for what may not come here."""
    async for request in requests:
        kind = request.WhichOneof("part")
        if kind not in unpack:
            raise invalid("part", kind or "", "one of " + ", ".join(unpack))
        yield unpack[kind](getattr(request, kind))


def require_account() -> AccountName:
    """Return who calls. Raises PermissionDenied for a service, which is nobody's creator."""
    account = current_caller().account
    if account is None:
        raise PermissionDenied("this call needs an account behind it")
    return account
