"""The job store on SQLAlchemy: compare-and-set updates, and one commit for all changes that wait at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from loupe.concurrency import shielded_method
from loupe.database import connected, transaction
from loupe.errors import AlreadyExists, Unavailable, not_found
from loupe.idempotency import RequestLog
from loupe.names import JobName, ProjectName
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from services.scheduler.database.tables import events, jobs
from services.scheduler.dispatch.queue import Entry
from services.scheduler.jobs.job import ACTIVE, Change, Job, State, state_event
from services.scheduler.jobs.rows import columns_of, job_of, load_spec, row_of, time_of
from services.scheduler.jobs.store import Conflict, Request, Unpublished

_METHOD = "SubmitTrainingJob"
_AT_ONCE = 500


class _NotAnsweredError(Exception):
    """Leaves a request log without writing: the request is new."""


class SqlJobStore:
    """The JobStore on SQLite or PostgreSQL.

    committed: called with each job whose change is durable, and whether its state changed.
    Writers of this process wait for each other here, because SQLite's own waiting is in steps of up to 100 ms.
    """

    def __init__(
        self, engine: AsyncEngine, requests: RequestLog, committed: Callable[[Job, bool], None] = lambda *_: None
    ) -> None:
        self._engine = engine
        self._hasty = engine.execution_options(outlives_power_cut=False)
        self._requests = requests
        self._committed = committed
        self._writing = asyncio.Lock()
        self._waiting: list[tuple[Change, asyncio.Future[Job]]] = []
        self._writer: asyncio.Task[None] | None = None

    @shielded_method
    async def submit(self, job: Job, request: Request) -> Job:
        """Insert a new job with its first event; the same request again returns the job of the first."""
        fresh = False

        async def insert() -> bytes:
            nonlocal fresh
            fresh = True
            await connection.execute(jobs.insert().values(**row_of(job) | {"last_sequence": 1}))
            await self._append(connection, job, (state_event(job, job.create_time),), last_sequence=1)
            return job.uid.encode()

        async with self._write() as connection:
            try:
                uid = await self._answer(connection, request, insert)
            except IntegrityError as error:
                raise AlreadyExists(f"{job.name} is taken; choose another job_id", resource=job.name) from error
        if fresh:
            self._committed(job, True)
        return await self.load(uid)

    @shielded_method
    async def answered(self, request: Request) -> Job | None:
        """Return the job that an earlier call of this request made, as it is now; None: there was none."""
        if not request.request_id:
            return None

        async def leave() -> bytes:
            raise _NotAnsweredError

        try:
            async with self._write() as connection:
                uid = await self._answer(connection, request, leave)
        except _NotAnsweredError:
            return None
        return await self.load(uid)

    async def _answer(self, connection: AsyncConnection, request: Request, effect: Callable) -> str:
        answer = await self._requests.run(
            connection,
            caller=request.caller,
            method=_METHOD,
            request_id=request.request_id,
            body=request.body,
            effect=effect,
        )
        return answer.decode()

    @shielded_method
    async def get(self, name: JobName) -> Job:
        """Return a job. Raises NotFound."""
        return await self._one((jobs.c.project == name.project) & (jobs.c.job == name.job), name)

    @shielded_method
    async def load(self, uid: str) -> Job:
        """Return a job by its uid. Raises NotFound."""
        return await self._one(jobs.c.uid == uid, uid)

    async def _one(self, where: sa.ColumnElement[bool], name: object) -> Job:
        async with self._read() as connection:
            row = (await connection.execute(sa.select(jobs).where(where))).first()
        if row is None:
            raise not_found(name)
        return job_of(row)

    @shielded_method
    async def stands(self, job: Job) -> bool:
        """Say whether the job is still in this state and attempt."""
        where = (jobs.c.uid == job.uid) & (jobs.c.state == int(job.state)) & (jobs.c.attempt == job.attempt)
        async with self._read() as connection:
            return (await connection.execute(sa.select(jobs.c.uid).where(where))).first() is not None

    @shielded_method
    async def page(
        self, project: ProjectName, states: Sequence[State], size: int, after: tuple[int, str] | None
    ) -> list[Job]:
        """Return up to size jobs, newest first, after a row's (create_time in microseconds, uid)."""
        query = sa.select(jobs).where(jobs.c.project == project.project)
        if states:
            query = query.where(jobs.c.state.in_([int(state) for state in states]))
        if after is not None:
            query = query.where(sa.tuple_(jobs.c.create_time, jobs.c.uid) < sa.tuple_(*map(sa.literal, after)))
        query = query.order_by(jobs.c.create_time.desc(), jobs.c.uid.desc()).limit(size)
        async with self._read() as connection:
            return [job_of(row) for row in await connection.execute(query)]

    @shielded_method
    async def queued(self) -> set[str]:
        """Return the uids of all waiting jobs."""
        query = sa.select(jobs.c.uid).where(jobs.c.state == int(State.QUEUED))
        async with self._read() as connection:
            return set((await connection.execute(query)).scalars())

    @shielded_method
    async def entries(self, uids: Collection[str]) -> list[Entry]:
        """Return the places in the queue of those of these jobs that wait."""
        columns = (jobs.c.uid, jobs.c.project, jobs.c.priority, jobs.c.create_time, jobs.c.spec)
        ordered, found = sorted(uids), []
        for start in range(0, len(ordered), _AT_ONCE):
            some = jobs.c.uid.in_(ordered[start : start + _AT_ONCE])
            query = sa.select(*columns).where(some & (jobs.c.state == int(State.QUEUED)))
            async with self._read() as connection:
                found += (await connection.execute(query)).all()
        return [
            Entry(
                row.uid,
                row.project,
                row.priority,
                time_of(row.create_time),
                load_spec(row.spec).requirements,
            )
            for row in found
        ]

    @shielded_method
    async def active(self) -> list[Job]:
        """Return the jobs that somebody must drive: DISPATCHING, RUNNING and PUBLISHING."""
        query = sa.select(jobs).where(jobs.c.state.in_([int(state) for state in ACTIVE])).order_by(jobs.c.create_time)
        async with self._read() as connection:
            return [job_of(row) for row in await connection.execute(query)]

    @shielded_method
    async def commit(self, change: Change) -> Job:
        """Write a change and its events; changes that come while another commit is under way share the next."""
        future: asyncio.Future[Job] = asyncio.get_running_loop().create_future()
        self._waiting.append((change, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting(), name="job-store-writer")
        return await future

    async def _write_waiting(self) -> None:
        while self._waiting:
            outcomes: list[Job | Exception] = []
            async with self._writing:
                batch, self._waiting = sorted(self._waiting, key=lambda each: each[0].before.uid), []
                engine = self._hasty if all(change.retold for change, _ in batch) else self._engine
                try:
                    async with self._transaction(engine) as connection:
                        outcomes.extend([await self._apply(connection, change) for change, _ in batch])
                except Exception as error:  # whoever waits for the commit gets it
                    outcomes = [error] * len(batch)
            for (change, future), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, Job):
                    self._committed(outcome, outcome.state is not change.before.state)
                if future.done():  # its waiter was cancelled; the change is durable all the same
                    continue
                if isinstance(outcome, Job):
                    future.set_result(outcome)
                else:
                    future.set_exception(outcome)

    async def _apply(self, connection: AsyncConnection, change: Change) -> Job | Conflict:
        before, written = change.before, change.written()
        where = (jobs.c.uid == before.uid) & (jobs.c.state == int(before.state)) & (jobs.c.attempt == before.attempt)
        if "trainer_sequence" in written:
            where &= jobs.c.trainer_sequence == before.trainer_sequence
        columns = columns_of(written) | {"last_sequence": jobs.c.last_sequence + len(change.events)}
        row = (await connection.execute(jobs.update().where(where).values(**columns).returning(jobs))).first()
        if row is None:
            return Conflict(f"{before.name} changed meanwhile", resource=before.name, state=before.state.name)
        job = job_of(row)
        await self._append(connection, job, change.events, last_sequence=job.last_sequence)
        return job

    async def _append(
        self, connection: AsyncConnection, job: Job, new: Sequence[JobEvent], *, last_sequence: int
    ) -> None:
        rows = []
        for sequence, event in enumerate(new, start=last_sequence - len(new) + 1):
            event.sequence = sequence
            rows.append({"uid": job.uid, "sequence": sequence, "body": event.SerializeToString(), "published": False})
        if rows:
            await connection.execute(events.insert(), rows)

    @shielded_method
    async def events(self, uid: str, after: int, limit: int) -> list[JobEvent]:
        """Return up to `limit` of a job's events after a sequence, in order."""
        where = (events.c.uid == uid) & (events.c.sequence > after)
        query = sa.select(events.c.body).where(where).order_by(events.c.sequence).limit(limit)
        async with self._read() as connection:
            return [JobEvent.FromString(row.body) for row in await connection.execute(query)]

    @shielded_method
    async def unpublished(self, after: int, limit: int) -> list[Unpublished]:
        """Return up to `limit` events that are not marked, after a position, by position."""
        query = (
            sa.select(events.c.position, events.c.body)
            .where((events.c.published == sa.false()) & (events.c.position > after))
            .order_by(events.c.position)
            .limit(limit)
        )
        async with self._read() as connection:
            rows = (await connection.execute(query)).all()
        return [Unpublished(row.position, JobEvent.FromString(row.body)) for row in rows]

    @shielded_method
    async def mark_published(self, positions: Iterable[int]) -> None:
        """Note that NATS has these events."""
        ordered = sorted(positions)
        for start in range(0, len(ordered), _AT_ONCE):
            some = ordered[start : start + _AT_ONCE]
            # What a power cut takes back is published again, and dropped by the bus.
            async with self._writing, self._transaction(self._hasty) as connection:
                await connection.execute(events.update().where(events.c.position.in_(some)).values(published=True))

    @shielded_method
    async def revision(self) -> int:
        """Go up with every event of any job, of any replica."""
        async with self._read() as connection:
            return (await connection.execute(sa.select(sa.func.max(events.c.position)))).scalar() or 0

    @asynccontextmanager
    async def _write(self) -> AsyncIterator[AsyncConnection]:
        async with self._writing, self._transaction(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            async with transaction(engine) as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise Unavailable(f"the database did not take a change: {error.orig}", dependency="database") from error

    @asynccontextmanager
    async def _read(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with connected(self._engine) as connection:
                # Of SQLite's, only a transaction that does not write begins without waiting for the writers.
                await connection.execution_options(read_only=True)
                yield connection
        except DBAPIError as error:
            raise Unavailable(f"the database cannot be read: {error.orig}", dependency="database") from error
