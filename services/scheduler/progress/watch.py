"""Following a job: its events after a cursor from the database, then those that come, to the last."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from loupe.errors import invalid
from loupe.names import JobName
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from services.scheduler.jobs.job import FINAL
from services.scheduler.jobs.store import JobStore
from services.scheduler.progress.signals import Signals, heard

_PAGE = 500


async def follow(
    store: JobStore, signals: Signals, name: JobName, after: int, patience: Callable[[], float]
) -> AsyncIterator[JobEvent]:
    """Yield a job's events with a sequence above `after`, and end after the event of its final state.

    patience: seconds after which to look again unasked, for what other replicas wrote. Raises NotFound.
    """
    if after < 0:
        raise invalid("after_sequence", after, "0 for all events, or the last sequence that you have")
    job = await store.get(name)
    bell = signals.of(job.uid)
    while True:
        ring = bell.next()
        page = await store.events(job.uid, after, _PAGE)
        for event in page:
            yield event
            after = event.sequence
            if event.state_change.state in FINAL:
                return
        if page:
            continue
        job = await store.load(job.uid)
        if job.final and job.last_sequence <= after:
            return
        await heard(ring, patience())
