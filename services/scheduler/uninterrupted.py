"""Methods that the caller's disappearance must not cut in half."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def uninterrupted(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """uninterrupted lets a coroutine method end even when the awaiting task is cancelled, which it then is.

    A database driver that is cut off between opening a connection and handing it over leaks it, thread and all.
    """

    @wraps(method)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        task = asyncio.ensure_future(method(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()  # retrieved: nobody is left to tell
            raise

    return whole
