"""The outside end of a run's pipe: whole messages, at a bounded rate."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time

import pytest

from loupe.token_bucket import TokenBucket
from services.trainer.sandbox.channel import Channel, ProtocolBroken


async def test_a_message_cut_off_in_the_middle_is_refused() -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, time.monotonic)
    theirs.sendall(struct.pack(">I", 100) + b"{")
    theirs.close()
    with pytest.raises(ProtocolBroken, match="in the middle"):
        await channel.receive()
    channel.close()
    ours.close()


async def test_a_fast_sender_is_read_no_faster_than_the_bound() -> None:
    """After the burst, the reader waits; the sender's own pipe fills, and nothing else happens."""
    ours, theirs = socket.socketpair()
    channel = await Channel.open(ours, lambda: 0.0)
    channel._bucket = TokenBucket(rate=20, burst=5)
    body = json.dumps({"type": "log", "text": "x"}).encode()
    theirs.sendall((struct.pack(">I", len(body)) + body) * 10)
    received = 0
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.18):
            while True:
                await channel.receive()
                received += 1
    assert 5 <= received <= 9
    channel.close()
    ours.close()
    theirs.close()


def test_a_bucket_lets_a_burst_through_and_then_a_rate() -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(10.0) == pytest.approx(0.5)
    assert [bucket.take(11.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]
