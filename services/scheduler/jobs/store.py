"""The database of record: jobs and their events, changed by compare-and-set, one commit for all that wait together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import IntegrityError

from loupe.audit import AuditedCall, current_call
from loupe.audit_log import add_entry
from loupe.concurrency import shielded_method
from loupe.errors import AlreadyExists, DataLoss, FailedPrecondition, LoupeError, QuotaExceeded, not_found
from loupe.idempotency import Request, RequestLog
from loupe.lifetimes import THERE
from loupe.names import JobName, ProjectName
from loupe.timestamps import micros_of
from services.scheduler.database.metadata import metadata
from services.scheduler.database.session import Database, Session
from services.scheduler.jobs.annotations import Annotation
from services.scheduler.jobs.events import Event
from services.scheduler.jobs.job import Job, QueueEntry
from services.scheduler.jobs.messages import pack_event
from services.scheduler.jobs.resumption import no_checkpoint
from services.scheduler.jobs.rows import columns_of, entry_of, job_of, row_of
from services.scheduler.jobs.states import ACTIVE, FINAL, State
from services.scheduler.jobs.transitions import Change, state_event

log = structlog.get_logger(__name__)

_AT_ONCE = 500
_COUNTED = 1_000

T = TypeVar("T")

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("uid", sa.String(32), primary_key=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("job", sa.String(63), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("state", sa.Integer, nullable=False),
    sa.Column("state_message", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("trainer", sa.String(200)),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("losses", sa.Integer, nullable=False),
    sa.Column("start_time", sa.BigInteger),
    sa.Column("end_time", sa.BigInteger),
    sa.Column("result", sa.LargeBinary),
    sa.Column("failure", sa.LargeBinary),
    sa.Column("progress", sa.LargeBinary),
    sa.Column("placement", sa.LargeBinary),
    sa.Column("finished", sa.LargeBinary),
    sa.Column("trainer_sequence", sa.BigInteger, nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
    sa.Column("note", sa.Text, nullable=False, server_default=""),
    sa.Column("resumes", sa.String(63)),
    sa.Column("checkpoint", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("delete_time", sa.BigInteger),
    sa.Column("expire_time", sa.BigInteger),
    sa.Column("purged", sa.SmallInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("project", "job", name="jobs_by_name"),
    sa.Index("jobs_by_state", "state"),
    sa.Index("jobs_by_age", "project", "create_time", "uid", "state"),
    sa.Index("jobs_by_resumed", "project", "resumes"),
    sa.Index("jobs_by_checkpoint", "checkpoint", "end_time"),
    sa.Index("jobs_by_expiry", "purged", "expire_time"),
)
"""A row a job. Times are microseconds since 1970 in UTC; spec and labels are JSON; binary columns are messages of the
contract. resumes is the id of the project's job from whose checkpoint this one goes on. checkpoint and purged say what
is left of the checkpoint, and of the job: see `lifetimes`."""

job_labels = sa.Table(
    "job_labels",
    metadata,
    sa.Column("uid", sa.String(32), sa.ForeignKey("jobs.uid"), primary_key=True),
    sa.Column("key", sa.String(63), primary_key=True),
    sa.Column("value", sa.String(63), nullable=False),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("create_time", sa.BigInteger, nullable=False),
    sa.Index("job_labels_by_age", "project", "key", "value", "create_time", "uid"),
)
"""A row a label: the same as in jobs.labels, in the order in which jobs with it are listed."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("uid", sa.String(32), sa.ForeignKey("jobs.uid"), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("published", sa.Boolean, nullable=False),
    sa.UniqueConstraint("uid", "sequence", name="events_by_job"),
    sa.Index(
        "events_unpublished",
        "position",
        sqlite_where=sa.text("published = 0"),
        postgresql_where=sa.text("published = false"),
    ),
)
"""A row an event; body is a JobEvent. published is true when NATS has it."""


class Conflict(FailedPrecondition):
    """The job is no longer in the state and attempt that a change was made for; read it again."""


@dataclass(frozen=True)
class _Waiting:
    """A change that waits to be written; call: on whose behalf, where that leaves a row in the audit log."""

    change: Change
    future: asyncio.Future[Job]
    call: AuditedCall | None


class JobStore:
    """Keeps jobs and writes their events. What a method returned from is durable.

    committed: called with each job whose change is durable, and whether its state changed. max_queued: how many jobs of
    a project may wait; 0 for no limit. All methods raise
    Unavailable when the database is, those that write ResourceExhausted when its disk is full, and those that name a
    job DataLoss where its row cannot be read.
    """

    def __init__(
        self,
        database: Database,
        requests: RequestLog,
        committed: Callable[[Job, bool], None] = lambda *_: None,
        *,
        max_queued: int = 0,
    ) -> None:
        self._database = database
        self._requests = requests
        self._committed = committed
        self._max_queued = max_queued
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    @shielded_method
    async def submit(self, job: Job, request: Request) -> Job:
        """Insert a new job with its first event; the same request again returns the job of the first.

        Raises AlreadyExists when the name is taken, RequestIdReused when the id came with another body, QuotaExceeded
        when as many jobs of the project wait as may, FailedPrecondition when the checkpoint of a job that it resumes
        is being collected.
        """
        async with self._database.write() as session:
            answer = await self._requests.replay(session, request)
            if answer is None:
                if self._max_queued:
                    await _require_room(session, job.name, self._max_queued)
                if job.spec.resume_of:
                    await _require_checkpoint(session, JobName.parse(job.spec.resume_of))
                try:
                    await session.execute(jobs.insert().values(**row_of(job) | {"last_sequence": 1}))
                    await _append(session, job, (state_event(job, job.create_time),), last_sequence=1)
                    await _add_labels(session, job)
                    await self._requests.record(session, request, job.uid.encode())
                except IntegrityError as error:
                    raise AlreadyExists(f"{job.name} is taken; choose another job_id", resource=job.name) from error
        if answer is not None:
            return await self.load(answer.decode())
        self._committed(job, True)
        return await self.load(job.uid)

    @shielded_method
    async def answered(self, request: Request) -> Job | None:
        """Return the job that an earlier call of this request made, as it is now; None: there was none."""
        if not request.request_id:
            return None
        async with self._database.write() as session:
            answer = await self._requests.replay(session, request)
        return None if answer is None else await self.load(answer.decode())

    @shielded_method
    async def annotate(self, name: JobName, annotation: Annotation, request: Request) -> Job:
        """Change a job's labels or note, and return it; the same request again returns it as it is then.

        Raises NotFound, RequestIdReused.
        """
        async with self._database.write() as session:
            answer = await self._requests.replay(session, request)
            if answer is None:
                answer = (await _annotate(session, name, annotation)).uid.encode()
                await self._requests.record(session, request, answer)
        return await self.load(answer.decode())

    @shielded_method
    async def delete(self, name: JobName, now: datetime, expire_time: datetime, request: Request) -> Job:
        """Delete a job, and return it; the same request again returns it as it is then.

        Raises NotFound, RequestIdReused, FailedPrecondition for a job that is not over.
        """
        async with self._database.write() as session:
            answer = await self._requests.replay(session, request)
            if answer is None:
                over = jobs.c.state.in_([int(state) for state in FINAL])
                written = {"delete_time": now, "expire_time": expire_time}
                job = await _change(session, _named(name) & over, written) or _not_over(await _find(session, name))
                answer = job.uid.encode()
                await self._requests.record(session, request, answer)
        return await self.load(answer.decode())

    @shielded_method
    async def restore(self, name: JobName, request: Request) -> Job:
        """Restore a deleted job, and return it; the same request again returns it as it is then.

        Raises NotFound once it is purged, RequestIdReused, AlreadyExists for a job that is not deleted.
        """
        async with self._database.write() as session:
            answer = await self._requests.replay(session, request)
            if answer is None:
                deleted = _named(name, show_deleted=True) & jobs.c.delete_time.is_not(None)
                written = {"delete_time": None, "expire_time": None}
                job = await _change(session, deleted, written) or _not_deleted(await _find(session, name))
                answer = job.uid.encode()
                await self._requests.record(session, request, answer)
        return await self.load(answer.decode())

    @shielded_method
    async def get(self, name: JobName, *, show_deleted: bool = False) -> Job:
        """Return a job; show_deleted: also one that can be restored. Raises NotFound."""
        async with self._database.read() as session:
            return await _find(session, name, show_deleted=show_deleted)

    @shielded_method
    async def load(self, uid: str) -> Job:
        """Return a job by its uid, deleted or not. Raises NotFound once it is purged."""
        async with self._database.read() as session:
            row = (await session.execute(sa.select(jobs).where(jobs.c.uid == uid, jobs.c.purged == THERE))).first()
        if row is None:
            raise not_found(uid)
        return job_of(row)

    @shielded_method
    async def stands(self, job: Job) -> bool:
        """Say whether the job is still in this state and attempt."""
        async with self._database.read() as session:
            return (await session.execute(sa.select(jobs.c.uid).where(_as_it_was(job)))).first() is not None

    @shielded_method
    async def page(
        self,
        project: ProjectName,
        states: Sequence[State],
        labels: Mapping[str, str],
        size: int,
        after: tuple[int, str] | None,
        *,
        show_deleted: bool = False,
    ) -> list[Job]:
        """Return up to size jobs, newest first, after a row's (create_time in microseconds, uid).

        states: one of which they are in; empty for any. labels: all of which they have. show_deleted: those that can be
        restored are among them.
        """
        async with self._database.read() as session:
            query = _page_query(project, states, await _rarest_first(session, project, labels), size, after)
            query = query.where(_visible(show_deleted=show_deleted))
            return [job_of(row) for row in await session.execute(query)]

    @shielded_method
    async def queued(self) -> set[str]:
        """Return the uids of all waiting jobs."""
        query = sa.select(jobs.c.uid).where(jobs.c.state == int(State.QUEUED))
        async with self._database.read() as session:
            return set((await session.execute(query)).scalars())

    @shielded_method
    async def entries(self, uids: Collection[str]) -> list[QueueEntry]:
        """Return the places in the queue of those of these jobs that wait, as far as they can be read."""
        columns = (jobs.c.uid, jobs.c.project, jobs.c.job, jobs.c.priority, jobs.c.create_time, jobs.c.spec)
        ordered, found = sorted(uids), []
        for start in range(0, len(ordered), _AT_ONCE):
            some = jobs.c.uid.in_(ordered[start : start + _AT_ONCE])
            query = sa.select(*columns).where(some & (jobs.c.state == int(State.QUEUED)))
            async with self._database.read() as session:
                found += [each for row in await session.execute(query) if (each := _readable(entry_of, row))]
        return found

    @shielded_method
    async def active(self) -> list[Job]:
        """Return the jobs that somebody must drive: DISPATCHING, RUNNING and PUBLISHING, as far as they can be read."""
        query = sa.select(jobs).where(jobs.c.state.in_([int(state) for state in ACTIVE])).order_by(jobs.c.create_time)
        async with self._database.read() as session:
            return [each for row in await session.execute(query) if (each := _readable(job_of, row))]

    @shielded_method
    async def revision(self) -> int:
        """Return a number that goes up with every event of any job, of any replica."""
        async with self._database.read() as session:
            return (await session.execute(sa.select(sa.func.max(events.c.position)))).scalar() or 0

    @shielded_method
    async def commit(self, change: Change) -> Job:
        """Write a change and its events in one transaction and return the job as it is now.

        Compare-and-set on (uid, state, attempt), and on the trainer's sequence where the change moves it. Changes that
        come while another commit is under way share the next. Raises Conflict.
        """
        future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(change, future, current_call()))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting(), name="job-store-writer")
        return await future

    async def _write_waiting(self) -> None:
        while self._waiting:
            async with self._database.turn:
                batch, self._waiting = sorted(self._waiting, key=lambda each: each.change.before.uid), []
                outcomes = await self._write(batch)
            for waiting, outcome in zip(batch, outcomes, strict=True):
                future = waiting.future
                if isinstance(outcome, Job):
                    self._committed(outcome, outcome.state is not waiting.change.before.state)
                if future.done():  # its waiter was cancelled; the change is durable all the same
                    continue
                if isinstance(outcome, Job):
                    future.set_result(outcome)
                else:
                    future.set_exception(outcome)

    async def _write(self, batch: Sequence[_Waiting]) -> Sequence[Job | Exception]:
        """Write changes in one transaction, and return what became of each."""
        hasty = all(waiting.change.retold for waiting in batch)
        try:
            async with self._database.transaction(outlives_power_cut=not hasty) as session:
                return [await _apply_audited(session, waiting) for waiting in batch]
        except Exception as error:  # whoever waits for the commit gets it
            if len(batch) == 1 or (isinstance(error, LoupeError) and not isinstance(error, DataLoss)):
                return [error] * len(batch)
        # One of them cannot be written, whatever comes: the others must not go down with it.
        return [outcome for waiting in batch for outcome in await self._write([waiting])]


def _readable(read: Callable[[Any], T], row: Any) -> T | None:
    """Return what a row holds; None, and a line in the log, where it cannot be read: others must not wait for it."""
    try:
        return read(row)
    except DataLoss as error:
        log.warning("a job is left out", error=error.message)
        return None


def _as_it_was(job: Job) -> sa.ColumnElement[bool]:
    return (jobs.c.uid == job.uid) & (jobs.c.state == int(job.state)) & (jobs.c.attempt == job.attempt)


def _page_query(
    project: ProjectName,
    states: Sequence[State],
    labels: Sequence[tuple[str, str]],
    size: int,
    after: tuple[int, str] | None,
) -> sa.Select[Any]:
    """Select a page, newest first: by the index of the first label where there is one, of the project otherwise."""
    query = sa.select(jobs)
    ordered: sa.FromClause = jobs
    for number, (key, value) in enumerate(labels):
        one = job_labels.alias(f"label_{number}")
        has = (one.c.project == project.project) & (one.c.key == key) & (one.c.value == value)
        if number == 0:
            ordered, query = one, query.join(one, one.c.uid == jobs.c.uid).where(has)
        else:
            query = query.where(sa.exists().where(has & (one.c.uid == ordered.c.uid)))
    query = query.where(ordered.c.project == project.project)
    if states:
        query = query.where(jobs.c.state.in_([int(state) for state in states]))
    if after is not None:
        query = query.where(sa.tuple_(ordered.c.create_time, ordered.c.uid) < sa.tuple_(*map(sa.literal, after)))
    return query.order_by(ordered.c.create_time.desc(), ordered.c.uid.desc()).limit(size)


async def _rarest_first(session: Session, project: ProjectName, labels: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """Return the labels in an order in which the first is on few jobs; beyond _COUNTED, common is common."""
    if len(labels) < 2:
        return list(labels.items())
    counts: dict[tuple[str, str], int] = {}
    for key, value in labels.items():
        has = (job_labels.c.project == project.project) & (job_labels.c.key == key) & (job_labels.c.value == value)
        some = sa.select(job_labels.c.uid).where(has).limit(_COUNTED).subquery()
        counts[key, value] = (await session.execute(sa.select(sa.func.count()).select_from(some))).scalar_one()
    return sorted(counts, key=lambda label: (counts[label], label))


def _visible(*, show_deleted: bool = False) -> sa.ColumnElement[bool]:
    """Return the condition on the jobs that a reader sees."""
    return jobs.c.purged == THERE if show_deleted else jobs.c.delete_time.is_(None)


def _named(name: JobName, *, show_deleted: bool = False) -> sa.ColumnElement[bool]:
    return (jobs.c.project == name.project) & (jobs.c.job == name.job) & _visible(show_deleted=show_deleted)


async def _find(session: Session, name: JobName, *, show_deleted: bool = False) -> Job:
    row = (await session.execute(sa.select(jobs).where(_named(name, show_deleted=show_deleted)))).first()
    if row is None:
        raise not_found(name)
    return job_of(row)


async def _change(session: Session, where: sa.ColumnElement[bool], written: Mapping[str, Any]) -> Job | None:
    """Write some fields of the one job there is, and return it; None where there is none."""
    row = (await session.execute(jobs.update().where(where).values(**columns_of(written)).returning(jobs))).first()
    return None if row is None else job_of(row)


def _not_over(job: Job) -> NoReturn:
    raise FailedPrecondition(
        f"{job.name} is {job.state.name}; cancel it first, or wait for its end: `loupe job cancel {job.name}`",
        resource=job.name,
        state=job.state.name,
    )


def _not_deleted(job: Job) -> NoReturn:
    raise AlreadyExists(f"{job.name} is not deleted", resource=job.name)


async def _annotate(session: Session, name: JobName, annotation: Annotation) -> Job:
    written = {each: value for each, value in vars(annotation).items() if value is not None}
    job = await _change(session, _named(name), written)
    if job is None:
        raise not_found(name)
    if annotation.labels is not None:
        await session.execute(job_labels.delete().where(job_labels.c.uid == job.uid))
        await _add_labels(session, job)
    return job


async def _add_labels(session: Session, job: Job) -> None:
    always = {"uid": job.uid, "project": job.name.project, "create_time": micros_of(job.create_time)}
    if job.labels:
        await session.execute(
            job_labels.insert(), [{**always, "key": key, "value": value} for key, value in job.labels.items()]
        )


async def _require_room(session: Session, name: JobName, most: int) -> None:
    """Raise QuotaExceeded unless fewer jobs of the project wait than may."""
    if session.dialect.name == "postgresql":
        # SQLite has one writer; here, whoever submits to the same project waits until this transaction has ended.
        await session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(name.project))))
    waiting = sa.select(sa.func.count()).where(jobs.c.project == name.project, jobs.c.state == int(State.QUEUED))
    if (used := (await session.execute(waiting)).scalar_one()) >= most:
        project = ProjectName(name.project)
        raise QuotaExceeded(
            f"{used} jobs of {project} wait for their turn and at most {most} may; submit again when some have begun, "
            "or cancel some; whoever runs the mesh can raise the scheduler's max_queued_jobs",
            project=project,
            quota="queued_jobs",
            used=used,
            limit=most,
        )


async def _require_checkpoint(session: Session, name: JobName) -> None:
    """Raise FailedPrecondition for a job whose checkpoint is collected; it stays from now until its heir has begun."""
    where = _named(name) & (jobs.c.checkpoint == THERE)
    if (await session.execute(sa.select(jobs.c.uid).where(where).with_for_update())).first() is None:
        raise no_checkpoint(name)


async def _apply_audited(session: Session, waiting: _Waiting) -> Job | Conflict:
    outcome = await _apply(session, waiting.change)
    if waiting.call is not None and isinstance(outcome, Job):
        await add_entry(session, waiting.call)
    return outcome


async def _apply(session: Session, change: Change) -> Job | Conflict:
    before, written = change.before, change.written()
    where = _as_it_was(before)
    if "trainer_sequence" in written:
        where &= jobs.c.trainer_sequence == before.trainer_sequence
    columns = columns_of(written) | {"last_sequence": jobs.c.last_sequence + len(change.events)}
    row = (await session.execute(jobs.update().where(where).values(**columns).returning(jobs))).first()
    if row is None:
        return Conflict(f"{before.name} changed meanwhile", resource=before.name, state=before.state.name)
    job = job_of(row)
    await _append(session, job, change.events, last_sequence=job.last_sequence)
    return job


async def _append(session: Session, job: Job, new: Sequence[Event], *, last_sequence: int) -> None:
    rows = [
        {
            "uid": job.uid,
            "sequence": sequence,
            "body": pack_event(job.name, sequence, event).SerializeToString(),
            "published": False,
        }
        for sequence, event in enumerate(new, start=last_sequence - len(new) + 1)
    ]
    if rows:
        await session.execute(events.insert(), rows)
