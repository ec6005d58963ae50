"""The training job and its state machine: which transitions there are, and what each one writes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Any

from loupe.errors import FailedPrecondition
from loupe.names import (
    AccountName,
    AlgorithmVersionName,
    DatasetVersionName,
    JobName,
    ModelName,
    TrainerName,
)
from loupe.scheduler.v1.cluster_pb2 import Placement as PlacementMessage
from loupe.scheduler.v1.training_job_pb2 import JobEvent, JobFailure, JobProgress, JobResult, StateChange
from loupe.trainer.v1.attempt_pb2 import AttemptFinished
from services.scheduler.clusters.placement import Requirements


class State(enum.IntEnum):
    """Where a job stands; the numbers are those of JobState."""

    QUEUED = 1
    DISPATCHING = 2
    RUNNING = 3
    PUBLISHING = 4
    SUCCEEDED = 5
    TARGET_MISSED = 6
    FAILED = 7
    CANCELLED = 8


class Trigger(enum.Enum):
    """What moves a job from one state to another."""

    PLACE = "place"
    START = "start"
    REQUEUE = "requeue"
    FINISH = "finish"
    RELEASE = "release"
    MISS = "miss"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Mapping[tuple[State, Trigger], State] = {
    (State.QUEUED, Trigger.PLACE): State.DISPATCHING,
    (State.QUEUED, Trigger.CANCEL): State.CANCELLED,
    (State.DISPATCHING, Trigger.START): State.RUNNING,
    (State.DISPATCHING, Trigger.REQUEUE): State.QUEUED,
    (State.DISPATCHING, Trigger.FAIL): State.FAILED,
    (State.DISPATCHING, Trigger.CANCEL): State.CANCELLED,
    (State.RUNNING, Trigger.REQUEUE): State.QUEUED,
    (State.RUNNING, Trigger.FINISH): State.PUBLISHING,
    (State.RUNNING, Trigger.FAIL): State.FAILED,
    (State.RUNNING, Trigger.CANCEL): State.CANCELLED,
    (State.PUBLISHING, Trigger.RELEASE): State.SUCCEEDED,
    (State.PUBLISHING, Trigger.MISS): State.TARGET_MISSED,
    (State.PUBLISHING, Trigger.FAIL): State.FAILED,
}
"""Every transition there is; what is not here cannot happen."""

FINAL = frozenset({State.SUCCEEDED, State.TARGET_MISSED, State.FAILED, State.CANCELLED})
"""States that never change again."""

ACTIVE = frozenset({State.DISPATCHING, State.RUNNING, State.PUBLISHING})
"""States in which somebody drives the job."""

CANCELLABLE = frozenset(state for state, trigger in TRANSITIONS if trigger is Trigger.CANCEL)


def next_state(state: State, trigger: Trigger) -> State:
    """Return where a trigger leads. Raises FailedPrecondition where it leads nowhere."""
    try:
        return TRANSITIONS[state, trigger]
    except KeyError:
        raise FailedPrecondition(f"a job that is {state.name} cannot {trigger.value}", state=state.name) from None


class Loss(enum.Enum):
    """Says which bound an attempt that brought nothing counts against."""

    CRASH = "crash"
    TRAINER = "trainer"
    NOTHING = "nothing"


@dataclass(frozen=True)
class JobSpec:
    """What was asked for, with versions, defaults and parameters resolved. It never changes.

    max_seconds: bound of the training time. max_epochs: 0 for no bound.
    """

    dataset_version: DatasetVersionName
    dataset_digest: str
    algorithm_version: AlgorithmVersionName
    algorithm_digest: str
    requirements: Requirements
    parameters: Mapping[str, Any]
    target_accuracy: float
    model: ModelName
    submitter: AccountName
    seed: int = 0
    priority: int = 0
    max_seconds: float = 4 * 3600.0
    max_epochs: int = 0


@dataclass(frozen=True)
class Job:
    """A training job as it stands in the database.

    failures and losses count attempts that crashed and trainers that vanished. trainer_sequence is the last event of
    the current attempt that was written, last_sequence the last event of the job. finished is kept while PUBLISHING.
    """

    name: JobName
    uid: str
    spec: JobSpec
    create_time: datetime
    state: State = State.QUEUED
    state_message: str = ""
    attempt: int = 0
    trainer: TrainerName | None = None
    failures: int = 0
    losses: int = 0
    start_time: datetime | None = None
    end_time: datetime | None = None
    result: JobResult | None = None
    failure: JobFailure | None = None
    progress: JobProgress | None = None
    placement: PlacementMessage | None = None
    finished: AttemptFinished | None = None
    trainer_sequence: int = 0
    last_sequence: int = 0

    @property
    def final(self) -> bool:
        """True when the job will never change again."""
        return self.state in FINAL


@dataclass(frozen=True)
class Change:
    """One compare-and-set: it holds only while the job is in before's state and attempt.

    events carry no sequence yet; the store numbers them in the transaction that writes the job.
    retold: a power cut may take it back, since the trainer tells the same again to whoever asks from `before` on
    (docs/decisions/0007).
    """

    before: Job
    after: Job
    events: tuple[JobEvent, ...] = field(default=())
    retold: bool = False

    def written(self) -> dict[str, Any]:
        """Return the fields that differ; what others wrote meanwhile to the rest stays."""
        names = (each.name for each in fields(Job) if each.name != "last_sequence")
        return {
            name: getattr(self.after, name) for name in names if getattr(self.after, name) != getattr(self.before, name)
        }


def event_of(job: Job, now: datetime) -> JobEvent:
    """Return an event of the job's current attempt without content and sequence."""
    event = JobEvent(job=str(job.name), attempt=job.attempt)
    event.time.FromDatetime(now)
    return event


def state_event(job: Job, now: datetime) -> JobEvent:
    """Return the event that says where the job stands; the report is left out."""
    event = event_of(job, now)
    event.state_change.CopyFrom(StateChange(state=int(job.state), message=job.state_message))
    if job.result is not None:
        event.state_change.result.CopyFrom(job.result)
        event.state_change.result.report_json = ""
    if job.failure is not None:
        event.state_change.failure.CopyFrom(job.failure)
    return event


def _move(job: Job, trigger: Trigger, now: datetime, message: str, **written: Any) -> Change:
    state = next_state(job.state, trigger)
    end = {"end_time": now, "finished": None} if state in FINAL else {}
    after = replace(job, state=state, state_message=message, **end, **written)
    return Change(job, after, (state_event(after, now),))


def place(job: Job, trainer: TrainerName, placement: PlacementMessage, now: datetime) -> Change:
    """Give a queued job to a trainer under the next attempt number."""
    change = _move(
        job,
        Trigger.PLACE,
        now,
        placement.summary,
        attempt=job.attempt + 1,
        trainer=trainer,
        placement=placement,
        trainer_sequence=0,
    )
    explained = event_of(change.after, now)
    explained.placement.CopyFrom(placement)
    return replace(change, events=(explained, *change.events))


def start(job: Job, now: datetime) -> Change:
    """Note that the trainer took the attempt on."""
    return _move(job, Trigger.START, now, f"{job.trainer} works on it (attempt {job.attempt})")


def note(job: Job, message: str, now: datetime) -> Change:
    """Tell in which way the job waits; its state stays."""
    after = replace(job, state_message=message)
    return Change(job, after, (state_event(after, now),))


def requeue(job: Job, loss: Loss, message: str, now: datetime) -> Change:
    """End an attempt that brought nothing; the job waits for the next one."""
    return _move(job, Trigger.REQUEUE, now, message, **_counted(job, loss))


def fail(job: Job, reason: str, message: str, now: datetime, loss: Loss = Loss.NOTHING) -> Change:
    """End the job: it could not be run. reason is a Reason's name without the prefix."""
    failure = JobFailure(reason=reason, message=message)
    return _move(job, Trigger.FAIL, now, message, failure=failure, **_counted(job, loss))


@dataclass(frozen=True)
class Bounds:
    """How many crashes and lost trainers a job survives, less one."""

    crashes: int
    trainers: int


def give_up_or_requeue(job: Job, loss: Loss, why: JobFailure, now: datetime, bounds: Bounds) -> Change:
    """Requeue the job while its bounds allow another attempt, and fail it otherwise."""
    reason, message = why.reason, why.message
    counted = _counted(job, loss)
    crashes, trainers = counted.get("failures", job.failures), counted.get("losses", job.losses)
    if crashes >= bounds.crashes or trainers >= bounds.trainers:
        tried = f"{crashes} attempts failed" if loss is Loss.CRASH else f"{trainers} trainers were lost"
        return fail(job, reason, f"{tried}; the last one: {message}", now, loss)
    return requeue(job, loss, f"attempt {job.attempt} ended: {message}; another one follows", now)


def finish(job: Job, finished: AttemptFinished, now: datetime) -> Change:
    """Note that training is over; from here on the job cannot be cancelled."""
    return _move(job, Trigger.FINISH, now, "training is over; the model joins the library", finished=finished)


def conclude(job: Job, result: JobResult, released: bool, now: datetime) -> Change:
    """End the job with its published model: SUCCEEDED when it was released, TARGET_MISSED otherwise."""
    trigger = Trigger.RELEASE if released else Trigger.MISS
    return _move(job, trigger, now, result.verdict, result=result)


def cancel(job: Job, by: str, now: datetime) -> Change:
    """End a job that nobody wants any more; by names who said so."""
    return _move(job, Trigger.CANCEL, now, f"cancelled by {by}")


def _counted(job: Job, loss: Loss) -> dict[str, int]:
    match loss:
        case Loss.CRASH:
            return {"failures": job.failures + 1}
        case Loss.TRAINER:
            return {"losses": job.losses + 1}
        case Loss.NOTHING:
            return {}
