"""Following a job: events over NATS, and over WatchTrainingJob wherever NATS is away, silent or has a gap.

Both sources carry the same numbered events. They are merged by that number: each event comes once, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from loupe.backoff import Backoff
from loupe.errors import Unavailable
from loupe.scheduler.v1 import training_job_pb2 as jobs

FINAL_STATES = {
    jobs.JOB_STATE_SUCCEEDED,
    jobs.JOB_STATE_TARGET_MISSED,
    jobs.JOB_STATE_FAILED,
    jobs.JOB_STATE_CANCELLED,
}
QUIET_SECONDS = 3.0
RETRY_SECONDS = 600.0
QUEUE_EVENTS = 1_000

Source = Callable[[int], AsyncGenerator[jobs.JobEvent]]


def is_final(event: jobs.JobEvent) -> bool:
    """Say whether this is a job's last event."""
    return event.WhichOneof("event") == "state_change" and event.state_change.state in FINAL_STATES


@dataclass(frozen=True)
class _Ended:
    """Says that one run of a source has nothing more to say. given_up: it was away for too long."""

    source: str
    run: int
    error: Exception | None
    given_up: bool


class Follower:
    """Merges the two sources of one job's events.

    live and record: functions that begin a source after a sequence number. The live one (NATS) may skip, repeat or fail
    at will. The record (RPC) is complete; its refusal (not found, denied) ends the watch, its absence is waited out.
    """

    def __init__(
        self,
        live: Source,
        record: Source,
        *,
        after: int = 0,
        quiet_seconds: float = QUIET_SECONDS,
        backoff: Backoff | None = None,
    ) -> None:
        self.cursor = after
        self._sources = {"live": live, "record": record}
        self._quiet = quiet_seconds
        self._backoff = {"live": Backoff(math.inf), "record": backoff or Backoff(RETRY_SECONDS)}
        self._pumps: dict[str, asyncio.Task[None]] = {}
        self._runs = {"live": 0, "record": 0}
        self._queue: asyncio.Queue[tuple[str, jobs.JobEvent] | _Ended] = asyncio.Queue(QUEUE_EVENTS)

    async def events(self) -> AsyncGenerator[jobs.JobEvent]:
        """Yield every event after the cursor, each once and in order, and end after the final one.

        Raises what the record raises when it refuses, and Unavailable when both sources stayed away too long.
        """
        self._begin("live")
        try:
            while True:
                try:
                    # Not wait_for: before Python 3.12 it loses a Ctrl-C that comes together with an item.
                    async with asyncio.timeout(self._quiet):
                        item = await self._queue.get()
                except TimeoutError:
                    # Nothing may be happening, or NATS may have lost it: only the record knows.
                    self._begin("record")
                    continue
                if isinstance(item, _Ended):
                    self._ended(item)
                    continue
                source, event = item
                self._backoff[source].reset()
                self._backoff["record"].reset()
                if event.sequence > self.cursor + 1:
                    self._begin("record")  # a gap: the record has what is missing, and this one too
                elif event.sequence == self.cursor + 1:
                    self.cursor = event.sequence
                    if source == "live":
                        await self._stop("record")
                    yield event
                    if is_final(event):
                        return
        finally:
            for source in list(self._pumps):
                await self._stop(source)

    def _ended(self, item: _Ended) -> None:
        if item.run != self._runs[item.source] or item.source not in self._pumps:
            return  # it was stopped in the meantime
        del self._pumps[item.source]
        if item.source == "record" and item.error and (item.given_up or not isinstance(item.error, Unavailable)):
            raise item.error
        self._begin(item.source, after=item.error or Unavailable("the stream ended early", dependency="scheduler"))
        self._begin("record")

    def _begin(self, source: str, after: Exception | None = None) -> None:
        if source not in self._pumps:
            self._runs[source] += 1
            self._pumps[source] = asyncio.create_task(self._pump(source, self._runs[source], after))

    async def _stop(self, source: str) -> None:
        pump = self._pumps.pop(source, None)
        if pump is not None:
            pump.cancel()
            await asyncio.wait({pump})

    async def _pump(self, source: str, run: int, after: Exception | None) -> None:
        error: Exception | None = None
        given_up = False
        try:
            if after is not None:
                given_up = True
                await self._backoff[source].wait(after)
                given_up = False
            async with contextlib.aclosing(self._sources[source](self.cursor)) as events:
                async for event in events:
                    await self._queue.put((source, event))
        except Exception as failure:  # handed to `_ended`, which raises it or falls back to the record
            error = failure
        await self._queue.put(_Ended(source, run, error, given_up))
