"""What nats-py's client leaves to its users."""

from __future__ import annotations

from nats.aio.client import Client

SECONDS = 10


async def taken_by_server(client: Client) -> None:
    """Return when the server has dealt with everything that the client sent before.

    One flush is not enough: nats-py writes its PING ahead of what still waits in its own buffer. Until the PONG is
    here the buffer is written, so that the second PING comes after it.
    """
    await client.flush(timeout=SECONDS)
    await client.flush(timeout=SECONDS)
