"""The events of a job: what its watchers are told, and how it is stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.scheduler.clients.trainers import LogLine, Progress
from services.scheduler.clusters.placement import Placement
from services.scheduler.jobs.job import JobFailure, JobResult
from services.scheduler.jobs.states import State


@dataclass(frozen=True)
class StateChange:
    """Where the job stands now; the result is without its report, which may be large and is read with the job."""

    state: State
    message: str
    result: JobResult | None = None
    failure: JobFailure | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; it gets its sequence in the transaction that writes it."""

    time: datetime
    attempt: int
    content: StateChange | Progress | LogLine | Placement


@dataclass(frozen=True)
class StoredEvent:
    """An event as it was written: body is a JobEvent of the contract, which goes on to the watchers as it is."""

    sequence: int
    body: bytes
