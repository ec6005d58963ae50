"""What a trainer's events mean for a job: progress and logs are passed on, the last event moves the job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from loupe.common.v1.reason_pb2 import Reason
from loupe.scheduler.v1.training_job_pb2 import JobEvent, JobFailure, JobProgress
from loupe.trainer.v1.attempt_pb2 import AttemptEvent, AttemptFailed, AttemptProgress
from services.scheduler.jobs.job import (
    Bounds,
    Change,
    Job,
    Loss,
    event_of,
    fail,
    finish,
    give_up_or_requeue,
    state_event,
)

MAX_BATCH = 500
MAX_LOG_CHARACTERS = 16_384
_LOST = Reason.Name(Reason.REASON_UNAVAILABLE).removeprefix("REASON_")


def absorb(job: Job, received: Sequence[AttemptEvent], now: datetime, bounds: Bounds) -> Change:
    """Turn events of a RUNNING job's current attempt into one change, the last event's move included.

    Events that the job has already are left out; nothing follows the one that ends the attempt.
    """
    after = job
    events: list[JobEvent] = []
    for event in received:
        if event.sequence <= after.trainer_sequence:
            continue
        after = replace(after, trainer_sequence=event.sequence)
        match event.WhichOneof("event"):
            case "started":
                after = _started(after, event, now)
                events.append(state_event(after, now))
            case "progress":
                after = replace(after, progress=_progress(event.progress))
                events.append(_told(after, event, progress=after.progress))
            case "log":
                events.append(_told(after, event, log=event.log[:MAX_LOG_CHARACTERS]))
            case "finished":
                last = finish(after, event.finished, now)
                return Change(job, last.after, (*events, *last.events))
            case "failed":
                last = _failed(after, event.failed, now, bounds)
                return Change(job, last.after, (*events, *last.events))
    return Change(job, after, tuple(events), retold=True)


def _told(job: Job, event: AttemptEvent, **content: Any) -> JobEvent:
    told = event_of(job, event.time.ToDatetime())
    told.MergeFrom(JobEvent(**content))
    return told


def _progress(progress: AttemptProgress) -> JobProgress:
    return JobProgress(
        phase=progress.phase,
        epoch=progress.epoch,
        step=progress.step,
        total_steps=progress.total_steps,
        metrics=dict(progress.metrics),
        message=progress.message,
    )


def _started(job: Job, event: AttemptEvent, now: datetime) -> Job:
    how = "goes on from its last checkpoint" if event.started.resumed else "has started"
    message = f"training {how} on {job.trainer} (attempt {job.attempt})"
    return replace(job, state_message=message, start_time=job.start_time or now)


def _failed(job: Job, failed: AttemptFailed, now: datetime, bounds: Bounds) -> Change:
    if not failed.retryable:
        return fail(job, failed.reason, failed.message, now)
    # A trainer that was shut down or lost its lease says nothing about the job.
    loss = Loss.TRAINER if failed.reason == _LOST else Loss.CRASH
    return give_up_or_requeue(job, loss, JobFailure(reason=failed.reason, message=failed.message), now, bounds)


async def batches(source: AsyncIterator[AttemptEvent]) -> AsyncIterator[list[AttemptEvent]]:
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
