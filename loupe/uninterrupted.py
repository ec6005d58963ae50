"""Steps that a caller's disappearance must not cut in half."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def uninterrupted(step: Awaitable[T]) -> T:
    """uninterrupted runs the step to its end even when its caller is cancelled meanwhile, once or often.

    A thread cannot be stopped: without this, a cancelled writer's thread would still write while the next one begins,
    and a database driver that is cut off between opening a connection and handing it over leaks it, thread and all.
    """
    task = asyncio.ensure_future(step)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # retrieved: nobody is left to tell
    raise cancelled


def runs_to_its_end(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """runs_to_its_end makes every call of a coroutine method uninterrupted."""

    @wraps(method)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        return await uninterrupted(method(*args, **kwargs))

    return whole
