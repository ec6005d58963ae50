"""Fences: a training attempt that is over, or was given to somebody else, has nothing to do here any more."""

from __future__ import annotations

from loupe.errors import StaleAttempt, invalid
from loupe.identity import AttemptGrant
from loupe.names import JobName, ProjectName
from services.storage.blobs.store import BlobTable
from services.storage.database.session import Database, Session
from services.storage.projects.projects import find_project


class Fences:
    """Keeps, for each job, the lowest attempt that may write, and read with its token."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def raise_to(self, job: JobName, attempt: int) -> int:
        """Refuse, from now on, attempts below; return the attempt that holds, which never goes down.

        Jobs of a deleted project are shut out, too.
        """
        if attempt < 1:
            raise invalid("attempt", attempt, "1 or more")
        async with self._database.write() as session:
            await find_project(session, ProjectName(job.project), job, show_deleted=True)
            return await BlobTable(session).raise_fence(str(job), attempt)


async def require_current(session: Session, grant: AttemptGrant | None) -> None:
    """Raise StaleAttempt when the grant is below its job's fence; nothing happens without a grant.

    To be asked in the very transaction that reads or writes.
    """
    if grant is None:
        return
    current = await BlobTable(session).fence(str(grant.job))
    if grant.attempt < current:
        raise StaleAttempt(
            f"attempt {grant.attempt} of {grant.job} is over; only attempts from {current} on are taken",
            job=grant.job,
            attempt=grant.attempt,
            current=current,
        )
