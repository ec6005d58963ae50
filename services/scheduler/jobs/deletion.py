"""Deleting jobs that are over, and restoring them for as long as they are not purged."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from loupe.idempotency import Request
from loupe.names import JobName
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.store import JobStore


class JobDeletion:
    """Deletes and restores; a repeated request has one effect.

    kept: how long what is deleted can be restored. now: in UTC.
    """

    def __init__(self, store: JobStore, kept: timedelta, now: Callable[[], datetime]) -> None:
        self._store = store
        self._kept = kept
        self._now = now

    async def delete(self, name: JobName, request: Request) -> Job:
        """Delete a job. Raises NotFound, FailedPrecondition for one that is not over."""
        now = self._now()
        return await self._store.delete(name, now, now + self._kept, request)

    async def restore(self, name: JobName, request: Request) -> Job:
        """Restore a job. Raises NotFound once it is purged, AlreadyExists when it is not deleted."""
        return await self._store.restore(name, request)
