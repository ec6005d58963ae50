"""Structured waiting: several things at once, steps that a cancelled caller must not cut in half, and interrupts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")

_INTERRUPTS: WeakKeyDictionary[asyncio.Task[Any], Exception] = WeakKeyDictionary()


async def gather(*work: Awaitable[Any]) -> list[Any]:
    """Return all results in order; when one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def race(*work: Awaitable[T]) -> T:
    """Return, or raise, what the first of these brings, and stop the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    errors: list[BaseException] = []
    for outcome in outcomes:
        if not isinstance(outcome, BaseException):
            return outcome
        if not isinstance(outcome, asyncio.CancelledError):
            errors.append(outcome)
    raise errors[0]


async def shielded(step: Awaitable[T]) -> T:
    """Run the step to its end even when its caller is cancelled meanwhile, once or often.

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


def shielded_method(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Make every call of a coroutine method shielded."""

    @wraps(method)
    async def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        return await shielded(method(*args, **kwargs))

    return whole


def interrupt(task: asyncio.Task[Any], error: Exception) -> None:
    """End the interruptible block in which a task waits with an error, as if what it waits for had raised it.

    Only for a task that is known to be in such a block; the first error counts.
    """
    if task not in _INTERRUPTS:
        _INTERRUPTS[task] = error
        task.cancel()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let `interrupt` end the block with an error. A task that is cancelled in the same moment is cancelled."""
    task = asyncio.current_task()
    assert task is not None
    try:
        yield
    except asyncio.CancelledError:
        error = _INTERRUPTS.pop(task, None)
        if error is None or task.uncancel() > 0:
            raise
        raise error from None
