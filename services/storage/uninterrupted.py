"""Steps that a caller's disappearance must not cut in half."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def uninterrupted(step: Coroutine[Any, Any, T]) -> T:
    """uninterrupted runs the step to its end even when the awaiting task is cancelled meanwhile; then it is cancelled.

    A thread cannot be stopped: without this, a cancelled writer's thread would still write while the next one begins.
    """
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
