"""The audit log of a service: a row goes with each change, in its transaction; failed calls are written afterwards.

async with audited(transaction(engine)) as connection:
    …  # what changes a row here adds the row of the call that is being served
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Generic, Protocol, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from loupe import paging
from loupe.audit import LEFT_OUT, WIDTHS, AuditedCall, AuditEntry, current_call
from loupe.database import NO_CHANGE, changed, forget_changes
from loupe.errors import BadPageToken, LoupeError
from loupe.names import SYSTEM, ProjectName
from loupe.timestamps import datetime_of_micros, micros_of
from loupe.token_bucket import TokenBucket

FAILED_BURST = 20
"""Failed calls of one caller that are written one after the other."""
FAILED_PER_SECOND = 1 / 60
"""Failed calls of one caller that are written in the long run; the others are counted."""
PRUNED_AT_ONCE = 500
"""Old rows that are removed in one transaction."""
_MOST_CALLERS = 10_000
_FAILED_SECONDS = 2.0
_HOUR = 3600.0
_DAY_MICROS = 86_400_000_000

log = structlog.get_logger(__name__)

S_co = TypeVar("S_co", covariant=True)
S = TypeVar("S")


class Transactions(Protocol[S_co]):
    """The database of a service."""

    def read(self) -> AbstractAsyncContextManager[S_co]:
        """Open a session that writes nothing."""

    def write(self) -> AbstractAsyncContextManager[S_co]:
        """Open a session that commits at the end of its block."""


def audit_log_table(metadata: sa.MetaData) -> sa.Table:
    """Declare the table that a migration of every service with a database creates."""
    return sa.Table(
        "audit_log",
        metadata,
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.String(width), nullable=False) for name, width in WIDTHS.items()),
        sa.Index("audit_log_project", "project", "time", "id"),
        info=NO_CHANGE,
    )


_TABLE = audit_log_table(sa.MetaData())


async def add_entry(connection: AsyncConnection, call: AuditedCall, now: Callable[[], float] = time.time) -> None:
    """Write a call's row in the transaction of its change; now: wall-clock seconds."""
    await connection.execute(_TABLE.insert(), asdict(call.entry(micros_of(now()))))


@asynccontextmanager
async def audited(
    transaction: AbstractAsyncContextManager[AsyncConnection], now: Callable[[], float] = time.time
) -> AsyncIterator[AsyncConnection]:
    """Open a transaction that takes the row of the call that is being served along with the first change it makes.

    A transaction that changes nothing adds no row, and a call that uses several has one. Whether something changed is
    told by the rows that statements have touched; remembered answers to requests do not count.
    """
    call = current_call()
    if call is None or not call.due():
        async with transaction as connection:
            yield connection
        return
    async with transaction as connection:
        forget_changes(connection)
        yield connection
        told = changed(connection) and call.due()
        if told:
            await add_entry(connection, call, now)
    if told:
        call.noted = True


@dataclass(frozen=True)
class AuditQuery:
    """Which rows of a project are wanted; what is empty or None does not filter.

    action_prefix: what the action, or the method, begins with. since, until: microseconds since 1970; a row at `until`
    itself is not wanted.
    """

    project: ProjectName
    caller: str = ""
    action_prefix: str = ""
    since: int | None = None
    until: int | None = None

    def where(self) -> sa.ColumnElement[bool]:
        """Return the condition on the table's rows."""
        columns, prefix = _TABLE.c, self.action_prefix
        wanted = [columns.project == self.project.project]
        if self.caller:
            wanted.append(columns.caller == self.caller)
        if prefix:
            # Not LIKE, which SQLite compares without case.
            both = (columns.action, columns.method)
            wanted.append(sa.or_(*(sa.func.substr(each, 1, len(prefix)) == prefix for each in both)))
        if self.since is not None:
            wanted.append(columns.time >= self.since)
        if self.until is not None:
            wanted.append(columns.time < self.until)
        return sa.and_(*wanted)


@dataclass
class _Failures:
    """The failed calls of one caller: how many may be written, and which were left out."""

    bucket: TokenBucket = field(default_factory=lambda: TokenBucket(FAILED_PER_SECOND, FAILED_BURST))
    left_out: int = 0
    since: int = 0
    project: str = ""

    def leave_out(self, project: str, now: int) -> None:
        if not self.left_out:
            self.since, self.project = now, project
        elif self.project != project:
            self.project = SYSTEM
        self.left_out += 1

    def take(self, caller: str, now: int) -> list[AuditEntry]:
        """Return the row that stands for those that were left out, if there are any, and begin anew."""
        if not self.left_out:
            return []
        summary = f"{self.left_out} failed calls, since {datetime_of_micros(self.since):%Y-%m-%d %H:%M:%S} UTC"
        self.left_out = 0
        return [AuditEntry(now, caller, project=self.project, outcome=LEFT_OUT, summary=summary)]


class AuditLog(Generic[S]):
    """Writes the rows of failed calls, reads all rows, and removes old ones.

    connection_of: the connection of a session of this database. now: wall-clock seconds. monotonic: seconds that only
    go up.
    """

    def __init__(
        self,
        database: Transactions[S],
        connection_of: Callable[[S], AsyncConnection],
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._connection_of = connection_of
        self._now = now
        self._monotonic = monotonic
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    async def failed(self, call: AuditedCall, outcome: str) -> None:
        """Write the row of a call that failed, in a transaction of its own; that of a stranger is not written.

        A caller who fails often has some rows, and then one that says how many were left out. Never raises for a
        database that does not take the row within seconds: the answer of the call stands.
        """
        if not call.caller:
            return
        now = micros_of(self._now())
        failures = self._failures.setdefault(call.caller, _Failures())
        self._failures.move_to_end(call.caller)
        if len(self._failures) > _MOST_CALLERS:
            self._failures.popitem(last=False)
        if not failures.bucket.take(self._monotonic()):
            failures.leave_out(call.project, now)
            return
        await self._write([*failures.take(call.caller, now), call.entry(now, outcome)])

    async def flush(self) -> None:
        """Write down how many failed calls were left out until now."""
        now = micros_of(self._now())
        for caller, failures in list(self._failures.items()):
            if rows := failures.take(caller, now):
                await self._write(rows)

    async def _write(self, entries: Sequence[AuditEntry]) -> None:
        try:
            async with asyncio.timeout(_FAILED_SECONDS), self._database.write() as session:
                await self._connection_of(session).execute(_TABLE.insert(), [asdict(entry) for entry in entries])
        except (LoupeError, SQLAlchemyError, OSError) as error:
            log.warning("rows of the audit log could not be written", error=str(error), rows=len(entries))

    async def page(self, query: AuditQuery, page_size: int, page_token: str) -> tuple[list[AuditEntry], str]:
        """Return a page of rows, newest first, and the next page's token. Raises InvalidArgument, BadPageToken."""
        size, scope = paging.page_size(page_size), f"audit {query}"
        where = query.where()
        if (after := _after(paging.decode(scope, page_token), page_token)) is not None:
            where &= sa.tuple_(_TABLE.c.time, _TABLE.c.id) < sa.tuple_(*map(sa.literal, after))
        statement = sa.select(_TABLE).where(where).order_by(_TABLE.c.time.desc(), _TABLE.c.id.desc()).limit(size + 1)
        async with self._database.read() as session:
            rows = (await self._connection_of(session).execute(statement)).all()
        entries = [AuditEntry(row.time, **{name: row._mapping[name] for name in WIDTHS}) for row in rows[:size]]
        last = rows[size - 1] if len(rows) > size else None
        return entries, "" if last is None else paging.encode(scope, [last.time, last.id])

    async def prune(self, days: int) -> int:
        """Remove rows that are older, a few in each transaction; return how many there were.

        They are looked for among those that were written first: an index by time would make every change dearer.
        """
        before, removed = micros_of(self._now()) - days * _DAY_MICROS, 0
        first = sa.select(_TABLE.c.id, _TABLE.c.time).order_by(_TABLE.c.id).limit(PRUNED_AT_ONCE).subquery()
        old = sa.select(first.c.id).where(first.c.time < before)
        while True:
            async with self._database.write() as session:
                found = await self._connection_of(session).execute(_TABLE.delete().where(_TABLE.c.id.in_(old)))
            removed += found.rowcount
            if found.rowcount < PRUNED_AT_ONCE:
                return removed

    async def keep(self, days: int) -> None:
        """Remove old rows, and write down what was left out, now and every hour; never returns."""
        while True:
            try:
                await self.flush()
                if removed := await self.prune(days):
                    log.info("old rows of the audit log were removed", rows=removed, days=days)
            except (LoupeError, SQLAlchemyError, OSError) as error:
                log.warning("old rows of the audit log stay; they are removed later", error=str(error))
            await asyncio.sleep(_HOUR)


def _after(last: list[str | int] | None, token: str) -> tuple[int, int] | None:
    match last:
        case None:
            return None
        case [int(micros), int(row)] if max(abs(micros), abs(row)) < 1 << 63:
            return micros, row
    raise BadPageToken("page_token was not made by this list", page_token=token[:80])
