"""The database of record: jobs, their events and the outbox, behind a protocol that the rules are written against."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from loupe.errors import FailedPrecondition
from loupe.names import JobName, ProjectName
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from services.scheduler.dispatch.queue import Entry
from services.scheduler.jobs.job import Change, Job, State


class Conflict(FailedPrecondition):
    """The job is no longer in the state and attempt that a change was made for; read it again."""


@dataclass(frozen=True)
class Request:
    """Identifies a repeated call: who, which id, and the body without it."""

    caller: str
    request_id: str
    body: bytes


@dataclass(frozen=True)
class Unpublished:
    """An event that NATS has not acknowledged; positions of one job go up with its sequence."""

    position: int
    event: JobEvent


class JobStore(Protocol):
    """Keeps jobs. What a method returned from is durable. All raise Unavailable when the database is."""

    async def submit(self, job: Job, request: Request) -> Job:
        """Insert a new job with its first event; the same request again returns the job of the first.

        Raises AlreadyExists when the name is taken, RequestIdReused when the id came with another body.
        """

    async def answered(self, request: Request) -> Job | None:
        """Return the job that an earlier call of this request made, as it is now; None: there was none."""

    async def get(self, name: JobName) -> Job:
        """Return a job. Raises NotFound."""

    async def stands(self, job: Job) -> bool:
        """Say whether the job is still in this state and attempt."""

    async def page(
        self, project: ProjectName, states: Sequence[State], size: int, after: tuple[int, str] | None
    ) -> list[Job]:
        """Return up to size jobs, newest first, after a row's (create_time in microseconds, uid)."""

    async def queued(self) -> set[str]:
        """Return the uids of all waiting jobs."""

    async def entries(self, uids: Collection[str]) -> list[Entry]:
        """Return the places in the queue of those of these jobs that wait."""

    async def active(self) -> list[Job]:
        """Return the jobs that somebody must drive: DISPATCHING, RUNNING and PUBLISHING."""

    async def load(self, uid: str) -> Job:
        """Return a job by its uid. Raises NotFound."""

    async def commit(self, change: Change) -> Job:
        """Write a change and its events in one transaction and return the job as it is now.

        Compare-and-set on (uid, state, attempt), and on the trainer's sequence where the change moves it.
        Raises Conflict.
        """

    async def events(self, uid: str, after: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` of a job's events after a sequence, in order."""

    async def unpublished(self, after: int, limit: int) -> list[Unpublished]:
        """Return up to `limit` events that are not marked, after a position, by position."""

    async def mark_published(self, positions: Iterable[int]) -> None:
        """Note that NATS has these events."""

    async def revision(self) -> int:
        """Go up with every event of any job, of any replica."""
