"""Fences: a training attempt that was given to somebody else may not write any more."""

from __future__ import annotations

from loupe.errors import StaleAttempt, invalid, not_found
from loupe.identity import AttemptGrant
from loupe.names import JobName
from services.storage.database.session import Database, Session


class Fences:
    """Keeps, for each job, the lowest attempt that may write."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def raise_to(self, job: JobName, attempt: int) -> int:
        """Refuse, from now on, write of attempts below; return what holds, which never goes down."""
        if attempt < 1:
            raise invalid("attempt", attempt, "1 or more")
        async with self._database.write() as session:
            if await session.projects.find(job.project) is None:
                raise not_found(job)
            return await session.blobs.raise_fence(str(job), attempt)


async def require_current(session: Session, grant: AttemptGrant | None) -> None:
    """Raise StaleAttempt when the grant is below its job's fence; nothing happens without a grant.

    To be asked in the very transaction that writes.
    """
    if grant is None:
        return
    current = await session.blobs.fence(str(grant.job))
    if grant.attempt < current:
        raise StaleAttempt(
            f"attempt {grant.attempt} of {grant.job} was given to somebody else; {current} is running",
            job=grant.job,
            attempt=grant.attempt,
            current=current,
        )
