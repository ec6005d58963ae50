"""What a trainer's events mean for a job: progress and logs are passed on, the last event moves the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime

from loupe.errors import AlgorithmFailed, Unavailable
from services.scheduler.clients.trainers import (
    AttemptEvent,
    Checkpointed,
    FailedAttempt,
    FinishedAttempt,
    LogLine,
    Progress,
    Started,
)
from services.scheduler.dispatch import intake
from services.scheduler.jobs.events import Event
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.transitions import (
    Bounds,
    Change,
    Loss,
    advanced,
    fail,
    finish,
    give_up_or_requeue,
    state_event,
)

MAX_BATCH = 500


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
            case Progress() as told:
                progress = intake.progress(told)
                after = replace(after, progress=progress)
                events.append(Event(intake.time_of(event.time, job.create_time, now), after.attempt, progress))
            case LogLine() as line:
                time = intake.time_of(event.time, job.create_time, now)
                events.append(Event(time, after.attempt, intake.log_line(line)))
            case Checkpointed():
                after = advanced(after)
            case FinishedAttempt() as finished:
                last = _finished(after, finished, now)
                return Change(job, last.after, (*events, *last.events))
            case FailedAttempt() as failed:
                last = _failed(after, failed, now, bounds)
                return Change(job, last.after, (*events, *last.events))
    return Change(job, after, tuple(events), retold=True)


def _started(job: Job, started: Started, now: datetime) -> Job:
    how = "goes on from its last checkpoint" if started.resumed else "has started"
    message = f"{job.spec.kind.noun} {how} on {job.trainer} (attempt {job.attempt})"
    return replace(job, state_message=message, start_time=job.start_time or now)


def _finished(job: Job, finished: FinishedAttempt, now: datetime) -> Change:
    try:
        return finish(job, intake.result(finished), now)
    except AlgorithmFailed as error:
        return fail(job, error.reason_name(), error.message, now)


def _failed(job: Job, failed: FailedAttempt, now: datetime, bounds: Bounds) -> Change:
    why = intake.failure(failed)
    if not failed.retryable:
        return fail(job, why.reason, why.message, now)
    # A trainer that was shut down or lost its lease says nothing about the job.
    loss = Loss.TRAINER if why.reason == Unavailable.reason_name() else Loss.CRASH
    return give_up_or_requeue(job, loss, why, now, bounds)


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
