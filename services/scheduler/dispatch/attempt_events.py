"""What a trainer's events mean for a job: progress and logs are passed on, the last event moves the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime

from loupe.errors import Unavailable
from services.scheduler.clients.trainers import (
    AttemptEvent,
    FailedAttempt,
    FinishedAttempt,
    LogLine,
    Progress,
    Started,
)
from services.scheduler.jobs.events import Event
from services.scheduler.jobs.job import Job, JobFailure
from services.scheduler.jobs.transitions import Bounds, Change, Loss, fail, finish, give_up_or_requeue, state_event

MAX_BATCH = 500
MAX_LOG_CHARACTERS = 16_384


def absorb(job: Job, received: Sequence[AttemptEvent], now: datetime, bounds: Bounds) -> Change:
    """Turn events of a RUNNING job's current attempt into one change, the last event's move included.

    Events that the job has already are left out; nothing follows the one that ends the attempt.
    """
    after = job
    events: list[Event] = []
    for event in received:
        if event.sequence <= after.trainer_sequence:
            continue
        after = replace(after, trainer_sequence=event.sequence)
        match event.content:
            case Started() as started:
                after = _started(after, started, now)
                events.append(state_event(after, now))
            case Progress() as progress:
                after = replace(after, progress=progress)
                events.append(Event(event.time, after.attempt, progress))
            case LogLine(text):
                events.append(Event(event.time, after.attempt, LogLine(text[:MAX_LOG_CHARACTERS])))
            case FinishedAttempt() as finished:
                last = finish(after, finished, now)
                return Change(job, last.after, (*events, *last.events))
            case FailedAttempt() as failed:
                last = _failed(after, failed, now, bounds)
                return Change(job, last.after, (*events, *last.events))
    return Change(job, after, tuple(events), retold=True)


def _started(job: Job, started: Started, now: datetime) -> Job:
    how = "goes on from its last checkpoint" if started.resumed else "has started"
    message = f"training {how} on {job.trainer} (attempt {job.attempt})"
    return replace(job, state_message=message, start_time=job.start_time or now)


def _failed(job: Job, failed: FailedAttempt, now: datetime, bounds: Bounds) -> Change:
    if not failed.retryable:
        return fail(job, failed.reason, failed.message, now)
    # A trainer that was shut down or lost its lease says nothing about the job.
    loss = Loss.TRAINER if failed.reason == Unavailable.reason_name() else Loss.CRASH
    return give_up_or_requeue(job, loss, JobFailure(failed.reason, failed.message), now, bounds)


async def batches(source: AsyncIterator[AttemptEvent]) -> AsyncGenerator[list[AttemptEvent], None]:
    """Yield what came while the last batch was dealt with: one event when they are rare, many when not.

    Raises what the source raises, after the events before it.
    """
    waiting: asyncio.Queue[AttemptEvent | Exception | None] = asyncio.Queue(MAX_BATCH)

    async def read() -> None:
        end: Exception | None = None
        try:
            async for event in source:
                await waiting.put(event)
        except Exception as error:  # handed over: it is raised where the batches are read
            end = error
        await waiting.put(end)

    reader = asyncio.create_task(read())
    try:
        while True:
            batch = [await waiting.get()]
            while not waiting.empty():
                batch.append(waiting.get_nowait())
            if events := [event for event in batch if isinstance(event, AttemptEvent)]:
                yield events
            if isinstance(batch[-1], Exception):
                raise batch[-1]
            if batch[-1] is None:
                return
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
