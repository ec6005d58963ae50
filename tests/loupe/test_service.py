"""The life of a service process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine

import pytest

from loupe import service


class App:
    """App serves nothing; what goes on in its background is given."""

    def __init__(self, work: Coroutine[None, None, None] | None = None, error: Exception | None = None) -> None:
        self.background = service.Background()
        self.started, self.stopped = asyncio.Event(), False
        self._work, self._error = work, error

    async def start(self) -> None:
        if self._error:
            raise self._error
        if self._work:
            self.background.add("work", self._work)
        self.started.set()

    async def stop(self) -> None:
        await self.background.cancel()
        self.stopped = True


async def fail() -> None:
    raise ZeroDivisionError


async def end() -> None:
    """Work that is over at once."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("work", [None, asyncio.Event.wait])
async def test_a_signal_stops_it(number: signal.Signals, work) -> None:
    app = App(work and work(asyncio.Event()))
    running = asyncio.create_task(service.run(app))
    await app.started.wait()
    os.kill(os.getpid(), number)
    await running
    assert app.stopped


@pytest.mark.parametrize(("work", "error"), [(fail, ZeroDivisionError), (end, RuntimeError)])
async def test_background_work_that_ends_ends_the_process_with_its_error(work, error: type[Exception]) -> None:
    app = App(work())
    with pytest.raises(error):
        await service.run(app)
    assert app.stopped


async def test_a_start_that_fails_is_cleaned_up_and_raised() -> None:
    app = App(error=OSError("the port is taken"))
    with pytest.raises(OSError, match="taken"):
        await service.run(app)
    assert app.stopped
