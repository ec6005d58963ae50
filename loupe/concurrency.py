"""Waiting for several things at once, with the plain error of the first that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(*work: Awaitable[Any]) -> list[Any]:
    """together returns all results in order; when one fails, the others are cancelled and its error is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def first(*work: Awaitable[T]) -> T:
    """first returns, or raises, what the first of these brings, and stops the others."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    done = [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)]
    for outcome in done:
        if not isinstance(outcome, BaseException):
            return outcome
    raise done[0]
