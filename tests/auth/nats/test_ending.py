"""The sweeps of auth's NATS connections end when they are told to."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.auth.nats.connections import Janitor, Revoker


class Unchanged:
    """A policy that does not change."""

    def changed(self) -> asyncio.Event:
        return asyncio.Event()


@pytest.mark.parametrize("kind", [Janitor, Revoker])
async def test_a_sweep_whose_answer_comes_together_with_the_end_is_the_last(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for the answer then forgets that it was cancelled; the process must not wait for the sweeps for ever."""
    begun = asyncio.Event()

    async def sweep(_self: object, _connection: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    monkeypatch.setattr(kind, "_sweep", sweep)
    serving = asyncio.ensure_future(kind(Unchanged()).serve(None))
    await begun.wait()
    serving.cancel()
    ended, _ = await asyncio.wait([serving], timeout=1)
    cancelled = serving.cancelled()
    serving.cancel()
    assert ended and cancelled
