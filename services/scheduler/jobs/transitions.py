"""What each transition of a job writes: the job as it is afterwards, and the events that tell of it.

Every sentence is escaped and cut here, whoever it quotes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from loupe.escapes import escaped
from loupe.job_kinds import JobKind
from services.scheduler.clients.trainers import FinishedAttempt
from services.scheduler.clusters.placement import Placement
from services.scheduler.jobs.events import Event, StateChange
from services.scheduler.jobs.job import MAX_MESSAGE, Job, JobFailure, JobResult
from services.scheduler.jobs.states import FINAL, Trigger, next_state


class Loss(enum.Enum):
    """Says which bound an attempt that brought nothing counts against."""

    CRASH = "crash"
    TRAINER = "trainer"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Bounds:
    """How many crashes, and lost trainers without a checkpoint between them, a job survives, less one."""

    crashes: int
    trainers: int


@dataclass(frozen=True)
class Change:
    """One compare-and-set: it holds only while the job is in before's state and attempt.

    retold: a power cut may take it back, since the trainer tells the same again to whoever asks from `before` on
    (docs/decisions/0007).
    """

    before: Job
    after: Job
    events: tuple[Event, ...] = ()
    retold: bool = False

    def written(self) -> dict[str, Any]:
        """Return the fields that differ; what others wrote meanwhile to the rest stays."""
        names = (each.name for each in fields(Job) if each.name != "last_sequence")
        return {
            name: getattr(self.after, name) for name in names if getattr(self.after, name) != getattr(self.before, name)
        }


def state_event(job: Job, now: datetime) -> Event:
    """Return the event that says where the job stands; the report is left out."""
    result = None if job.result is None else replace(job.result, report_json="")
    return Event(now, job.attempt, StateChange(job.state, job.state_message, result, job.failure))


def _move(job: Job, trigger: Trigger, now: datetime, message: str, **written: Any) -> Change:
    after = replace(job, state=next_state(job.state, trigger), state_message=_sentence(message), **written)
    if after.state in FINAL:
        after = replace(after, end_time=now, finished=None)
    return Change(job, after, (state_event(after, now),))


def place(job: Job, placement: Placement, now: datetime) -> Change:
    """Give a queued job to the trainer of a placement, under the next attempt number."""
    assert placement.trainer is not None, "a job is placed where there is a trainer"
    placed = {"trainer": placement.trainer, "placement": placement, "attempt": job.attempt + 1, "trainer_sequence": 0}
    change = _move(job, Trigger.PLACE, now, placement.summary, **placed)
    return replace(change, events=(Event(now, change.after.attempt, placement), *change.events))


def start(job: Job, now: datetime) -> Change:
    """Note that the trainer took the attempt on."""
    return _move(job, Trigger.START, now, f"{job.trainer} works on it (attempt {job.attempt})")


def note(job: Job, message: str, now: datetime) -> Change:
    """Tell in which way the job waits; its state stays."""
    after = replace(job, state_message=_sentence(message))
    return Change(job, after, (state_event(after, now),))


def requeue(job: Job, loss: Loss, message: str, now: datetime) -> Change:
    """End an attempt that brought nothing; the job waits for the next one."""
    return _move(job, Trigger.REQUEUE, now, message, **_counted(job, loss))


def fail(job: Job, reason: str, message: str, now: datetime, loss: Loss = Loss.NOTHING) -> Change:
    """End the job: it could not be run. reason is a Reason's name without the prefix."""
    failure = JobFailure(reason, _sentence(message))
    return _move(job, Trigger.FAIL, now, message, failure=failure, **_counted(job, loss))


def give_up_or_requeue(job: Job, loss: Loss, why: JobFailure, now: datetime, bounds: Bounds) -> Change:
    """Requeue the job while its bounds allow another attempt, and fail it otherwise."""
    counted = _counted(job, loss)
    crashes, trainers = counted["failures"], counted["losses"]
    if crashes >= bounds.crashes or trainers >= bounds.trainers:
        tried = f"{crashes} attempts failed" if loss is Loss.CRASH else f"{trainers} trainers were lost"
        return fail(job, why.reason, f"{tried}; the last one: {why.message}", now, loss)
    return requeue(job, loss, f"attempt {job.attempt} ended: {why.message}; another one follows", now)


def advanced(job: Job) -> Job:
    """Note that the attempt has a checkpoint: what was lost before it no longer counts."""
    return replace(job, losses=0)


def finish(job: Job, finished: FinishedAttempt, now: datetime) -> Change:
    """Note that the run is over; from here on the job cannot be cancelled."""
    kind = job.spec.kind
    then = "the model joins the library" if kind is JobKind.TRAIN else "what it brought is written down"
    return _move(job, Trigger.FINISH, now, f"{kind.noun} is over; {then}", finished=finished)


def conclude(job: Job, result: JobResult, released: bool, now: datetime) -> Change:
    """End the job: SUCCEEDED when its model was released, or nothing was to be trained, TARGET_MISSED otherwise."""
    trigger = Trigger.RELEASE if released else Trigger.MISS
    return _move(job, trigger, now, result.verdict, result=result)


def cancel(job: Job, by: str, now: datetime) -> Change:
    """End a job that nobody wants any more; by names who said so."""
    return _move(job, Trigger.CANCEL, now, f"cancelled by {by}")


def _sentence(message: str) -> str:
    return escaped(message, MAX_MESSAGE)


def _counted(job: Job, loss: Loss) -> dict[str, int]:
    return {"failures": job.failures + (loss is Loss.CRASH), "losses": job.losses + (loss is Loss.TRAINER)}
