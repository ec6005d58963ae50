"""The outbox: committed events go to NATS in order per job; NATS being away delays them and nothing else."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import structlog

from loupe.errors import ResourceExhausted, Unavailable
from loupe.names import JobName
from loupe.notifier import Notifier, wait_for
from services.scheduler.clients.nats import Bus
from services.scheduler.progress.messages import essentials
from services.scheduler.progress.store import EventStore, Unpublished

log = structlog.get_logger(__name__)

_BATCH = 500
_MARK_SECONDS = 1.0
_RETRY_SECONDS = 1.0


class Outbox:
    """Publishes every event at least once, and each job's in the order of their sequence.

    connect: returns a bus that is ready to publish; raises Unavailable. written: told when there are new events.
    Events are marked as published some at a time and later, off the way to the terminals: after a crash some are
    published again, which the bus drops. An event that is too large for the bus goes there cut to its essentials, or,
    where even these are refused, not at all: nothing that one job tells stops what the others do.
    """

    def __init__(self, store: EventStore, connect: Callable[[], Awaitable[Bus]], written: Notifier) -> None:
        self._store = store
        self._connect = connect
        self._written = written
        self._unmarked: set[int] = set()

    async def run(self) -> None:
        """Publish until it is cancelled."""
        away = False
        while True:
            try:
                bus = await self._connect()
                try:
                    log.info("progress goes to NATS")
                    away = False
                    await self._publish_from(bus)
                finally:
                    await bus.close()
            except* (Unavailable, ResourceExhausted) as group:
                if not away:
                    log.warning("progress waits for NATS or the database; jobs go on", error=str(group.exceptions[0]))
                away = True
            await asyncio.sleep(_RETRY_SECONDS)

    async def _publish_from(self, bus: Bus) -> None:
        loop = asyncio.get_running_loop()
        position, mark_at = 0, loop.time() + _MARK_SECONDS
        while True:
            news = self._written.next()
            batch = await self._store.unpublished(position, _BATCH)
            await self._publish_all(bus, [each for each in batch if each.position not in self._unmarked])
            if batch:
                position = batch[-1].position
            if loop.time() >= mark_at or len(self._unmarked) >= _BATCH:
                await self._mark()
                # Another replica's commits may become visible out of their order: look at all of them again.
                position, mark_at = 0, loop.time() + _MARK_SECONDS
            elif len(batch) < _BATCH:
                await wait_for(news, _MARK_SECONDS)

    async def _publish_all(self, bus: Bus, batch: Sequence[Unpublished]) -> None:
        """Send the jobs' events side by side."""
        by_job: defaultdict[JobName, list[Unpublished]] = defaultdict(list)
        for each in batch:
            by_job[each.job].append(each)
        async with asyncio.TaskGroup() as group:
            for events in by_job.values():
                group.create_task(self._publish(bus, events))

    async def _publish(self, bus: Bus, events: Sequence[Unpublished]) -> None:
        """Send one job's events; an event is sent only when the one before it was taken."""
        for each in events:
            try:
                await bus.publish(each.job, each.event.sequence, each.event.body)
            except ResourceExhausted as error:
                log.warning("an event is cut for NATS", error=error.message)
                await self._publish_cut(bus, each)
            self._unmarked.add(each.position)

    async def _publish_cut(self, bus: Bus, each: Unpublished) -> None:
        """Send what matters most of an event that the bus refuses, and let it go where nothing of it is taken."""
        body = essentials(each.event.body)
        try:
            if body is not None:
                return await bus.publish(each.job, each.event.sequence, body)
            why = "it cannot be read"
        except ResourceExhausted as error:
            why = error.message
        told = {"job": str(each.job), "sequence": each.event.sequence, "error": why}
        log.error("an event does not go to NATS; a watch has it", **told)

    async def _mark(self) -> None:
        marked = frozenset(self._unmarked)
        if marked:
            await self._store.mark_published(marked)
            self._unmarked -= marked
