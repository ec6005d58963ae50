"""Cancelling a job: at once and for good, unless it is over or its model is being published."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from loupe.names import JobName
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.states import CANCELLABLE
from services.scheduler.jobs.store import Conflict, JobStore
from services.scheduler.jobs.transitions import cancel


async def cancel_job(store: JobStore, name: JobName, by: str, now: Callable[[], datetime]) -> Job:
    """Return the job as it is afterwards: cancelled, or unchanged where it is too late. Raises NotFound."""
    while True:
        job = await store.get(name)
        if job.state not in CANCELLABLE:
            return job
        try:
            return await store.commit(cancel(job, by, now()))
        except Conflict:
            continue  # it moved on between reading and writing; every turn of this loop is a turn of its state machine
