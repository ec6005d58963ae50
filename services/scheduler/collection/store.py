"""What the collector finds in the tables of jobs, and what it takes out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from loupe.concurrency import shielded_method
from loupe.lifetimes import PURGED, PURGING, THERE
from loupe.names import JobName
from loupe.timestamps import micros_of
from services.scheduler.database.metadata import request_log
from services.scheduler.database.session import Database
from services.scheduler.jobs.states import FINAL, State
from services.scheduler.jobs.store import events, job_labels, jobs

_NOT_BEGUN = (int(State.QUEUED), int(State.DISPATCHING))
_EMPTY: dict[str, Any] = {
    "state_message": "",
    "trainer": None,
    "result": None,
    "failure": None,
    "progress": None,
    "placement": None,
    "finished": None,
    "labels": "{}",
    "note": "",
}


@dataclass(frozen=True)
class Collectable:
    """A job of which something is to go."""

    uid: str
    name: JobName


class CollectionStore:
    """Reads and writes in small transactions, each of which looks for itself whether what it takes is still to go.

    All methods raise Unavailable when the database is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @shielded_method
    async def begin_purges(self, now: datetime, limit: int) -> list[Collectable]:
        """Return jobs that can no longer be restored, from now on; those whose purge was begun before are among them.

        A job that told the newest event of all waits until there is a newer one: positions are not to be given again.
        """
        newest = sa.select(events.c.uid).order_by(events.c.position.desc()).limit(1).scalar_subquery()
        expired = (
            (jobs.c.purged == THERE) & (jobs.c.expire_time < micros_of(now)) & (jobs.c.uid != newest) & ~_awaited()
        )
        where = expired | (jobs.c.purged == PURGING)
        return await self._begin(where, jobs.c.purged, limit)

    @shielded_method
    async def begin_removals(self, ended_before: datetime, limit: int) -> list[Collectable]:
        """Return jobs that ended before then and whose checkpoint nobody goes on from, from now on."""
        over = jobs.c.state.in_([int(state) for state in FINAL]) & (jobs.c.end_time < micros_of(ended_before))
        where = (over & (jobs.c.checkpoint == THERE) & ~_awaited()) | (jobs.c.checkpoint == PURGING)
        return await self._begin(where, jobs.c.checkpoint, limit)

    async def _begin(self, where: sa.ColumnElement[bool], column: sa.Column[Any], limit: int) -> list[Collectable]:
        query = sa.select(jobs.c.uid, jobs.c.project, jobs.c.job).where(where).limit(limit).with_for_update()
        async with self._database.write() as session:
            found = [Collectable(uid, JobName(project, job)) for uid, project, job in await session.execute(query)]
            chosen = jobs.c.uid.in_([each.uid for each in found])
            await session.execute(jobs.update().where(chosen).values({column: PURGING}))
        return found

    @shielded_method
    async def end_removals(self, done: Sequence[Collectable]) -> None:
        """Note that these jobs have no checkpoint any more."""
        chosen = jobs.c.uid.in_([each.uid for each in done])
        async with self._database.write() as session:
            await session.execute(jobs.update().where(chosen).values(checkpoint=PURGED))

    @shielded_method
    async def remove_events(self, job: Collectable, limit: int) -> int:
        """Remove some events of a job, the oldest ones, and return how many that were."""
        some = sa.select(events.c.position).where(events.c.uid == job.uid).order_by(events.c.sequence).limit(limit)
        async with self._database.write() as session:
            return (await session.execute(events.delete().where(events.c.position.in_(some)))).rowcount

    @shielded_method
    async def end_purge(self, job: Collectable) -> None:
        """Leave of a job its name, which is not given again, and what was asked for under it."""
        async with self._database.write() as session:
            await session.execute(request_log.delete().where(request_log.c.answer == job.uid.encode()))
            await session.execute(job_labels.delete().where(job_labels.c.uid == job.uid))
            left = {**_EMPTY, "purged": PURGED, "checkpoint": PURGED}
            await session.execute(jobs.update().where(jobs.c.uid == job.uid).values(**left))


def _awaited() -> sa.ColumnElement[bool]:
    """Return the condition on jobs from whose checkpoint another one is to go on and has not begun to."""
    heir = jobs.alias("heir")
    same = (heir.c.project == jobs.c.project) & (heir.c.resumes == jobs.c.job)
    return sa.exists().where(same & heir.c.state.in_(_NOT_BEGUN))
