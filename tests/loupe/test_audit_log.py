"""The audit log: a row and its change are one, failed calls are bounded, a page is a page of one project."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from loupe import audit_log, database
from loupe.audit import LEFT_OUT, AuditedCall, AuditEntry, begin_call
from loupe.audit_log import FAILED_BURST, PRUNED_AT_ONCE, AuditLog, AuditQuery, audited
from loupe.auth.v1 import account_service_pb2, session_service_pb2
from loupe.errors import BadPageToken, InvalidArgument, Unavailable
from loupe.idempotency import Request, RequestLog, request_log_table
from loupe.identity import AttemptGrant, Caller
from loupe.names import AccountName, JobName, ProjectName
from loupe.paging import encode
from loupe.rpc.audited import summary_of
from loupe.storage.v1 import blob_service_pb2, dataset_service_pb2

METADATA = sa.MetaData()
ROWS = audit_log.audit_log_table(METADATA)
THINGS = sa.Table("things", METADATA, sa.Column("name", sa.String(20), primary_key=True))
request_log_table(METADATA)
LINE = ProjectName("line-7")
ANNA = Caller(account=AccountName("anna"))


class Clock:
    """Wall clock and monotonic clock, moved by the test."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Database:
    """What a service's own is for the log."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.away: Exception | None = None
        self.writes = 0

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        self.writes += 1
        if self.away:
            raise self.away
        async with audited(database.transaction(self.engine)) as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        async with database.connected(self.engine) as connection:
            await connection.execution_options(read_only=True)
            yield connection


def urls() -> list[str]:
    return ["sqlite", *filter(None, [os.environ.get("LOUPE_TEST_POSTGRES")])]


@pytest.fixture(params=urls(), ids=lambda url: url.partition("+")[0])
async def tables(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty log beside a table of things, on each database."""
    url = database.sqlite_url(tmp_path, "test") if request.param == "sqlite" else request.param
    engine = database.create_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.drop_all)
        await connection.run_sync(METADATA.create_all)
    yield Database(engine)
    await engine.dispose()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tables: Database, clock: Clock) -> AuditLog[AsyncConnection]:
    return AuditLog(tables, lambda connection: connection, now=clock, monotonic=clock)


def a_call(caller: Caller = ANNA, resource: str = "projects/line-7", **fields: Any) -> AuditedCall:
    values = {"method": "CreateDataset", "action": "datasets.write", "resource": resource, **fields}
    return AuditedCall(caller, **values)


async def add(tables: Database, name: str) -> None:
    async with tables.write() as connection:
        await connection.execute(THINGS.insert().values(name=name))


async def rows(log: AuditLog[AsyncConnection], project: ProjectName = LINE, **fields: Any) -> list[AuditEntry]:
    return (await log.page(AuditQuery(project, **fields), 1000, ""))[0]


async def things(tables: Database) -> list[str]:
    async with tables.read() as connection:
        return list((await connection.execute(sa.select(THINGS.c.name))).scalars())


async def test_a_change_and_its_row_are_there_together(tables: Database, log: AuditLog) -> None:
    """Who, what, where and from where; whoever writes without a call leaves no row."""
    await add(tables, "before")
    begin_call(a_call(peer="ipv4:10.0.3.7", request_id="r1", summary='dataset_id="screws"'))
    await add(tables, "one")
    (row,) = await rows(log)
    assert row == AuditEntry(
        row.time, "accounts/anna", "datasets.write", "CreateDataset", "line-7", "projects/line-7", "ipv4:10.0.3.7",
        "r1", "OK", 'dataset_id="screws"',
    )  # fmt: skip


async def test_an_error_after_the_effect_leaves_neither(tables: Database, log: AuditLog) -> None:
    """Nor does one that comes between the row and the commit; and the next transaction of the call has the row."""
    call = a_call()
    begin_call(call)
    with pytest.raises(ZeroDivisionError):
        async with tables.write() as connection:
            await connection.execute(THINGS.insert().values(name="one"))
            raise ZeroDivisionError

    @asynccontextmanager
    async def dies_at_commit() -> AsyncIterator[AsyncConnection]:
        async with database.transaction(tables.engine) as connection:
            yield connection
            told = (await connection.execute(sa.select(sa.func.count()).select_from(ROWS))).scalar_one()
            assert told == 1, "the row goes with the effect"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with audited(dies_at_commit()) as connection:
            await connection.execute(THINGS.insert().values(name="one"))
    assert (await things(tables), await rows(log), call.noted) == ([], [], False)
    await add(tables, "one")
    assert len(await rows(log)) == 1


async def test_a_call_has_one_row_from_the_first_change_on(tables: Database, log: AuditLog) -> None:
    """Looking, remembered answers and statements that touch nothing are no change; later ones add no row."""
    begin_call(a_call())
    request, requests = Request("accounts/anna", "CreateDataset", "r1", b""), RequestLog()
    async with tables.write() as connection:
        await requests.replay(connection, request)
        await connection.execute(sa.select(THINGS))
        await connection.execute(THINGS.delete().where(THINGS.c.name == "nothing"))
        await requests.record(connection, request, b"answer")
    assert await rows(log) == []
    await add(tables, "one")
    await add(tables, "two")
    assert len(await rows(log)) == 1


async def test_what_goes_on_after_the_answer_is_nobodys_call(tables: Database, log: AuditLog) -> None:
    """A task that a call began, and that outlives it, writes no row in its name."""
    call, go = a_call(), asyncio.Event()
    begin_call(call)

    async def later() -> None:
        await go.wait()
        await add(tables, "late")

    task = asyncio.create_task(later())
    call.over = True
    go.set()
    await task
    assert (await things(tables), await rows(log)) == (["late"], [])


async def test_a_flood_of_failed_calls_has_some_rows_and_one_that_counts_the_others(
    tables: Database, log: AuditLog, clock: Clock
) -> None:
    """Each caller by itself; the count is told with the next row, or within the hour."""
    tables.writes = 0
    for _ in range(1_000):
        await log.failed(a_call(), "PERMISSION_DENIED")
    assert tables.writes == FAILED_BURST, "no transaction for those that are left out"
    await log.failed(a_call(Caller(account=AccountName("bob"))), "NOT_FOUND")
    assert len(await rows(log)) == FAILED_BURST + 1
    clock.now += 60
    await log.failed(a_call(), "ALREADY_EXISTS")
    newest, counted = (await rows(log, caller="accounts/anna"))[:2]
    assert newest.outcome == "ALREADY_EXISTS"
    assert (counted.outcome, counted.method) == (LEFT_OUT, "")
    assert counted.summary == f"{1_000 - FAILED_BURST} failed calls, since 2023-11-14 22:13:20 UTC"
    await log.failed(a_call(), "X")
    await log.failed(a_call(resource="projects/other"), "X")
    await log.flush()
    await log.flush()
    (over_several,) = await rows(log, ProjectName("system"))
    assert over_several.summary.startswith("2 failed calls, since")


async def test_a_strangers_failure_is_not_written(tables: Database, log: AuditLog) -> None:
    """Whoever has no name could fill the disk."""
    tables.writes = 0
    await log.failed(a_call(Caller()), "BAD_CREDENTIALS")
    assert tables.writes == 0


async def test_a_log_that_cannot_be_written_changes_no_answer(
    tables: Database, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when the database is away, nor when it does not answer."""
    tables.away = Unavailable("away", dependency="database")
    await log.failed(a_call(), "NOT_FOUND")
    tables.away = None
    monkeypatch.setattr(audit_log, "_FAILED_SECONDS", 0.05)

    @asynccontextmanager
    async def silent() -> AsyncIterator[AsyncConnection]:
        await asyncio.Event().wait()
        yield  # type: ignore[misc]  # never reached

    monkeypatch.setattr(tables, "write", silent)
    async with asyncio.timeout(5):
        await log.failed(a_call(), "NOT_FOUND")


async def test_texts_are_escaped_and_cut(tables: Database, log: AuditLog) -> None:
    """70 kB, control characters, halves of pairs and a NUL, in every field that a caller chooses."""
    evil = "\x00\x1b[2J\ud800\n" + "x" * 70_000
    call = a_call(resource=f"projects/line-7/{evil}", request_id=evil, summary=evil, peer=evil, method=evil)
    await log.failed(call, evil)
    begin_call(call)
    await add(tables, "one")
    for row in await rows(log):
        for name in ("resource", "request_id", "summary", "peer", "method"):
            assert len(getattr(row, name)) <= 240 and getattr(row, name).isprintable()
    await log.failed(a_call(resource=evil), "NOT_FOUND")
    assert len(await rows(log, ProjectName("system"))) == 1


async def test_pages_are_newest_first_and_filtered(log: AuditLog, clock: Clock) -> None:
    """By project, caller, beginning of action or method, and time."""
    for number in range(6):
        clock.now += 60
        call = a_call(replace(ANNA, account=AccountName("abc"[number % 3])), method=f"Call{number}")
        await log.failed(call, "NOT_FOUND")
    seen, token = [], ""
    while True:
        page, token = await log.page(AuditQuery(LINE), 4, token)
        seen += [row.method for row in page]
        if not token:
            break
    assert seen == [f"Call{number}" for number in (5, 4, 3, 2, 1, 0)]
    assert [row.method for row in await rows(log, caller="accounts/a")] == ["Call3", "Call0"]
    assert [row.method for row in await rows(log, action_prefix="Call4")] == ["Call4"]
    assert len(await rows(log, action_prefix="datasets")) == 6
    assert await rows(log, action_prefix="DATASETS") == await rows(log, action_prefix="%") == []
    times = [row.time for row in await rows(log)]
    assert [row.time for row in await rows(log, since=times[3], until=times[1])] == times[2:4]
    assert await rows(log, ProjectName("other")) == []


@pytest.mark.parametrize("last", [[1 << 80, 1], ["now", 1], [1], [1, 2, 3]])
async def test_a_page_token_of_another_list_is_refused(log: AuditLog, last: list[str | int]) -> None:
    """So is one that was made up for this very list."""
    await log.failed(a_call(), "X")
    await log.failed(a_call(), "X")
    _, token = await log.page(AuditQuery(LINE), 1, "")
    assert token
    with pytest.raises(BadPageToken):
        await log.page(AuditQuery(ProjectName("other")), 1, token)
    with pytest.raises(BadPageToken):
        await log.page(AuditQuery(LINE, caller="accounts/anna"), 1, token)
    with pytest.raises(BadPageToken):
        await log.page(AuditQuery(LINE), 1, encode(f"audit {AuditQuery(LINE)}", last))
    with pytest.raises(InvalidArgument):
        await log.page(AuditQuery(LINE), -1, "")


async def test_old_rows_go_in_bounded_transactions(tables: Database, log: AuditLog, clock: Clock) -> None:
    """What is as old as it may be stays."""
    old = AuditEntry(int((clock.now - 11 * 86_400) * 1e6), "accounts/anna", project="line-7")
    many = PRUNED_AT_ONCE * 2 + 1
    async with tables.write() as connection:
        await connection.execute(ROWS.insert(), [vars(old)] * many)
        await connection.execute(ROWS.insert(), vars(replace(old, time=old.time + 86_400_000_000)))
    tables.writes = 0
    assert await log.prune(10) == many
    assert tables.writes == 3
    assert len(await rows(log)) == 1


async def test_the_log_keeps_itself_also_after_an_outage(
    tables: Database, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work goes on until it is cancelled."""
    monkeypatch.setattr(audit_log, "_HOUR", 0.0)
    tables.away = Unavailable("away", dependency="database")
    tables.writes = 0
    work = asyncio.create_task(log.keep(400))
    async with asyncio.timeout(5):
        while tables.writes < 3:
            await asyncio.sleep(0)
    assert not work.done()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


def test_callers_are_named_as_what_they_are() -> None:
    """An attempt by its job, since its account was not there."""
    grant = AttemptGrant(JobName("line-7", "j1"), 2)
    assert a_call(replace(ANNA, attempt=grant)).caller == "projects/line-7/jobs/j1"
    assert a_call(Caller(service="scheduler")).caller == "services/scheduler"


@pytest.mark.parametrize(
    ("request_made", "resource", "told"),
    [
        (
            lambda: account_service_pb2.CreateAccountRequest(
                account_id="bob", password="hidden", group="projects/p/groups/g", request_id="r",
                account={"display_name": 'B", outcome="OK'},
            ),
            "group",
            'account_id="bob", account.display_name="B\\", outcome=\\"OK"',
        ),
        (
            lambda: account_service_pb2.SetPasswordRequest(name="a", old_password="hidden", new_password="hidden"),
            "name",
            "",
        ),
        (lambda: session_service_pb2.LoginRequest(account="accounts/anna", password="hidden"), "account", ""),
        (lambda: session_service_pb2.LogoutRequest(refresh_token="hidden"), "", ""),
        (
            lambda: blob_service_pb2.UploadPicturesRequest(batch={"pictures": [{"data": b"hidden"}] * 3}),
            "",
            "batch.pictures=(3)",
        ),
        (
            lambda: dataset_service_pb2.CreateDatasetVersionRequest(header={"parent": "p", "strict": True}),
            "header.parent",
            "header.strict=true",
        ),
    ],
)  # fmt: skip
def test_a_summary_has_what_was_asked_for_and_no_secret(
    request_made: Callable[[], Any], resource: str, told: str
) -> None:
    """Texts are quoted, so that none looks like another field."""
    assert summary_of(request_made(), resource) == told


def test_a_summary_is_short_however_long_the_request() -> None:
    """Each value is cut, so that one does not hide the others; a second one still has its place."""
    request = dataset_service_pb2.CreateDatasetRequest(parent="p", dataset_id="x" * 70_000)
    request.dataset.display_name = "\x1b[2J" + "y" * 70_000
    told = summary_of(request, "parent")
    assert "dataset.display_name=" in told and len(told) < 400 and told.isprintable()
