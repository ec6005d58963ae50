"""Collecting in the background: pass after pass, in every service that keeps what is deleted for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from loupe.steady_clock import SteadyClock

log = structlog.get_logger(__name__)


async def keep_collecting(
    collect: Callable[[], Awaitable[Mapping[str, int]]],
    seconds: float,
    now: Callable[[], float],
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Collect every so many seconds, whenever it is wanted then; never returns.

    A pass before which the clock was set is left out, and one that fails is told in the log. collect: does a pass and
    returns how many things of which kind it removed. now: wall-clock seconds.
    """
    clock = SteadyClock(now, time.monotonic)
    while True:
        await asyncio.sleep(seconds)
        if not clock.steady():
            log.warning("the clock was set; nothing is collected until it has gone on steadily for a while")
        elif wanted():
            await _pass(collect)


async def _pass(collect: Callable[[], Awaitable[Mapping[str, int]]]) -> None:
    try:
        collected = await collect()
    except Exception:
        log.exception("collecting failed; the next pass goes on")
    else:
        if any(collected.values()):
            log.info("collected", **collected)
