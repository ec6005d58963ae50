"""Client streams of the form header, parts, closing; no part is read before there is room for it in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from loupe.byte_budget import ByteBudget, Hold, Parties, read_message
from loupe.errors import invalid
from loupe.identity import current_caller
from loupe.limits import MAX_MESSAGE_BYTES
from loupe.names import ProjectName

T = TypeVar("T")


class Streamed(Protocol):
    """A message of such a stream; its oneof `part` says what it is."""

    def WhichOneof(self, oneof_group: str, /) -> str | None:
        """Return the name of the field that is set."""

    def ByteSize(self) -> int:
        """Return the length of its encoding."""


M = TypeVar("M", bound=Streamed)


@dataclass(frozen=True)
class Held(Generic[T]):
    """A part of a stream, and the room that it takes until it is stored or refused."""

    part: T
    hold: Hold = field(default_factory=Hold)


def parties(project: ProjectName | None = None) -> Parties:
    """Return for whom the bytes of the call that is being served are counted: its project, and who calls."""
    caller = current_caller()
    who = str(caller.account or caller.service)
    return (str(project), who) if project else (who,)


async def open_stream(requests: AsyncIterator[M], header: Callable[[M], T]) -> T:
    """Return the header, which is the first message. Raises InvalidArgument when something else comes.

    The interceptor has seen to it that there is a first message.
    """
    first = await anext(requests)
    if (part := first.WhichOneof("part")) != "header":
        raise invalid("part", part or "", "the header as the stream's first message")
    return header(first)


async def held_parts(
    requests: AsyncIterator[M], unpack: Mapping[str, Callable[[M], T]], budget: ByteBudget, who: Parties
) -> AsyncIterator[Held[T]]:
    """Unpack each message of the rest by what it is; whoever gets a part releases its room.

    Raises InvalidArgument for what may not come here, Unavailable for a stream that stalls while others wait.
    """
    while True:
        try:
            request, hold = await read_message(requests, budget, who, MAX_MESSAGE_BYTES)
        except StopAsyncIteration:
            return
        kind = request.WhichOneof("part") or ""
        if kind not in unpack:
            hold.release()
            raise invalid("part", kind, "one of " + ", ".join(unpack))
        box = [Held(unpack[kind](request), hold)]
        del request  # or the message stayed in memory beside its part
        yield box.pop()


async def parts(
    requests: AsyncIterator[M], unpack: Mapping[str, Callable[[M], T]], budget: ByteBudget, who: Parties
) -> AsyncGenerator[T]:
    """Unpack like held_parts; a part has its room until the next one is asked for."""
    async for held in held_parts(requests, unpack, budget, who):
        try:
            yield held.part
        finally:
            held.hold.release()
            del held  # or the part stayed in memory until the next one has come
