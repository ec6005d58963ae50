"""Client streams of the form header, parts, closing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol, TypeVar

from loupe.errors import invalid

T = TypeVar("T")


class Streamed(Protocol):
    """A message of such a stream; its oneof `part` says what it is."""

    def WhichOneof(self, oneof_group: str, /) -> str | None:
        """Return the name of the field that is set."""


M = TypeVar("M", bound=Streamed)


async def open_stream(requests: AsyncIterator[M], header: Callable[[M], T]) -> T:
    """Return the header, which is the first message. Raises InvalidArgument when something else comes.

    The interceptor has seen to it that there is a first message.
    """
    first = await anext(requests)
    if (part := first.WhichOneof("part")) != "header":
        raise invalid("part", part or "", "the header as the stream's first message")
    return header(first)


async def parts(requests: AsyncIterator[M], unpack: Mapping[str, Callable[[M], T]]) -> AsyncIterator[T]:
    """Unpack each message of the rest by what it is. Raises InvalidArgument for what may not come here."""
    async for request in requests:
        kind = request.WhichOneof("part") or ""
        if kind not in unpack:
            raise invalid("part", kind, "one of " + ", ".join(unpack))
        yield unpack[kind](request)
