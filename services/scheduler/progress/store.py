"""Stored events, and which of them NATS has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from loupe.concurrency import shielded_method
from loupe.names import JobName
from services.scheduler.database.session import Database
from services.scheduler.jobs.events import StoredEvent
from services.scheduler.jobs.store import events, jobs

_AT_ONCE = 500


@dataclass(frozen=True)
class Unpublished:
    """An event that NATS has not acknowledged; positions of one job go up with its sequence."""

    position: int
    job: JobName
    event: StoredEvent


class EventStore:
    """Reads the events that were written with their jobs. All methods raise Unavailable when the database is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @shielded_method
    async def after(self, uid: str, sequence: int, limit: int) -> list[StoredEvent]:
        """Return up to `limit` of a job's events after a sequence, in order."""
        where = (events.c.uid == uid) & (events.c.sequence > sequence)
        query = sa.select(events.c.sequence, events.c.body).where(where).order_by(events.c.sequence).limit(limit)
        async with self._database.read() as session:
            return [StoredEvent(*row) for row in await session.execute(query)]

    @shielded_method
    async def unpublished(self, after: int, limit: int) -> list[Unpublished]:
        """Return up to `limit` events that are not marked, after a position, by position."""
        columns = (events.c.position, jobs.c.project, jobs.c.job, events.c.sequence, events.c.body)
        query = (
            sa.select(*columns)
            .join_from(events, jobs)
            .where((events.c.published == sa.false()) & (events.c.position > after))
            .order_by(events.c.position)
            .limit(limit)
        )
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        return [
            Unpublished(position, JobName(project, job), StoredEvent(sequence, body))
            for position, project, job, sequence, body in rows
        ]

    @shielded_method
    async def mark_published(self, positions: Iterable[int]) -> None:
        """Note that NATS has these events."""
        ordered = sorted(positions)
        for start in range(0, len(ordered), _AT_ONCE):
            some = ordered[start : start + _AT_ONCE]
            # What a power cut takes back is published again, and dropped by the bus.
            async with self._database.write(outlives_power_cut=False) as session:
                await session.execute(events.update().where(events.c.position.in_(some)).values(published=True))
