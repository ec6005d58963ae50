"""Labels and notes: what is taken, what is refused, and that jobs are found by them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy.ext.asyncio import AsyncEngine

from loupe import database
from loupe.database import transaction
from loupe.errors import BadPageToken, InvalidArgument, NotFound, PermissionDenied, RequestIdReused
from loupe.idempotency import Request, RequestLog
from loupe.names import JobName, ProjectName
from loupe.scheduler.v1 import training_job_service_pb2 as rpc
from loupe.scheduler.v1.training_job_pb2 import TrainingJob
from services.scheduler.database.session import MIGRATIONS, Database
from services.scheduler.jobs.annotations import MAX_LABELS, Annotation, check_labels, check_note
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.listing import list_jobs
from services.scheduler.jobs.rows import row_of
from services.scheduler.jobs.states import State
from services.scheduler.jobs.store import JobStore, _page_query
from services.scheduler.jobs.transitions import note
from tests.scheduler.conftest import Rig
from tests.scheduler.samples import NOW, make_job, placed

LINE_7 = ProjectName("line-7")
NOBODY = Request("accounts/anna", "SubmitTrainingJob", "", b"")
UPDATE = Request("accounts/anna", "UpdateTrainingJob", "", b"")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    made = database.create_engine(database.sqlite_url(tmp_path, "scheduler"))
    await Database(made).migrate()
    yield made
    await made.dispose()


@pytest.fixture
def store(engine: AsyncEngine) -> JobStore:
    return JobStore(Database(engine), RequestLog())


async def accept(store: JobStore, **fields: Any) -> Job:
    return await store.submit(make_job(**fields), NOBODY)


async def found(store: JobStore, labels: dict[str, str], states: tuple[State, ...] = (), size: int = 2) -> list[str]:
    """Read every page of a list."""
    uids, token = [], ""
    while True:
        page, token = await list_jobs(store, LINE_7, list(map(int, states)), size, token, labels=labels)
        uids += [job.uid for job in page]
        if not token:
            return uids


@pytest.mark.parametrize(
    "labels",
    [
        {},
        {"line": "7"},
        {"a.b_c-9": ""},
        {"x" * 63: "y" * 63},
        {"halle": "größe 零件"},
        {f"k{n}": "" for n in range(64)},
    ],
)
def test_labels_that_are_taken(labels: dict[str, str]) -> None:
    assert check_labels("labels", labels) == labels


def test_a_value_typed_on_two_systems_is_one() -> None:
    assert check_labels("labels", {"a": "gro\u0308ße"}) == check_labels("labels", {"a": "gr\u00f6ße"})


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"": "x"}, "keys of a lower-case letter"),
        ({"Line": "7"}, "keys of a lower-case letter"),
        ({"7": "line"}, "keys of a lower-case letter"),
        ({"line\n": "7"}, "keys of a lower-case letter"),
        ({"lïne": "7"}, "keys of a lower-case letter"),
        ({"x" * 64: "7"}, "up to 62 letters"),
        ({"line": "7" * 64}, r"labels\[line\].*at most 63 visible"),
        ({"line": "\x1b[2J"}, "visible"),
        ({"line": "a\u202eb"}, "visible"),
        ({"line": "a\u200bb"}, "visible"),
        ({"line": "\U000e0041"}, "visible"),
        ({"line": "a\nb"}, "visible"),
        ({f"k{n}": "" for n in range(MAX_LABELS + 1)}, "65 labels.*at most 64"),
    ],
)
def test_labels_that_are_refused(labels: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_labels("labels", labels)


@pytest.mark.parametrize("text", ["", "after the new lamp", "零件 👍 e\u0301", "x" * 2_000])
def test_notes_that_are_taken(text: str) -> None:
    assert check_note("note", text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x" * 2_001, "at most 2,000 characters; it has 2,001"),
        ("a\nb", r"one line .* U\+000A"),
        ("\x1b]0;owned\x07", r"U\+001B"),
        ("a\u202eb", r"U\+202E"),
        ("a\u2066b", r"U\+2066"),
        ("\x9b31m", r"U\+009B"),
    ],
)
def test_notes_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        check_note("note", text)


async def test_jobs_are_found_by_all_of_their_labels_and_state(store: JobStore) -> None:
    """Newest first, through pages of two, in this project alone."""
    made = [await accept(store, labels={"line": str(n % 2), "shift": "late" if n > 3 else "early"}) for n in range(8)]
    await accept(store, project="other", labels={"line": "1", "shift": "late"})
    assert await found(store, {"line": "1"}) == [made[n].uid for n in (7, 5, 3, 1)]
    assert await found(store, {"line": "1", "shift": "late"}) == [made[n].uid for n in (7, 5)]
    assert await found(store, {"line": "2"}) == await found(store, {"lin": "1"}) == []
    await store.commit(placed(made[5]))
    assert await found(store, {"line": "1"}, (State.QUEUED,)) == [made[n].uid for n in (7, 3, 1)]
    assert await found(store, {"line": "1"}, (State.DISPATCHING, State.FAILED)) == [made[5].uid]


async def test_a_page_token_is_bound_to_the_labels(store: JobStore) -> None:
    for _ in range(3):
        await accept(store, labels={"line": "7", "a": "b"})
    _, token = await list_jobs(store, LINE_7, [], 1, "", labels={"line": "7", "a": "b"})
    assert (await list_jobs(store, LINE_7, [], 5, token, labels={"a": "b", "line": "7"}))[0]
    for other in ({"line": "8"}, {"line": "7"}, {}, {"line": "7", "a": "c"}):
        with pytest.raises(BadPageToken):
            await list_jobs(store, LINE_7, [], 1, token, labels=other)


async def test_labels_and_note_change_in_any_state_and_nothing_else_does(store: JobStore) -> None:
    """A transition that was made from an older copy keeps them, and a job is found by its new labels alone."""
    job = await accept(store, labels={"line": "7", "old": "x"}, note="first")
    moved = await store.commit(placed(job))
    changed = await store.annotate(job.name, Annotation(labels={"line": "8"}), UPDATE)
    assert changed == replace(moved, labels={"line": "8"})
    noted = await store.annotate(job.name, Annotation(note="second"), UPDATE)
    assert noted == replace(changed, note="second")
    after = await store.commit(note(moved, "waits", NOW))
    assert (after.labels, after.note) == ({"line": "8"}, "second")
    assert await found(store, {"line": "8"}) == [job.uid]
    assert await found(store, {"line": "7"}) == await found(store, {"old": "x"}) == []
    await store.annotate(job.name, Annotation(labels={}), UPDATE)
    assert await found(store, {"line": "8"}) == [] and (await store.get(job.name)).labels == {}


async def test_the_same_update_has_one_effect(store: JobStore) -> None:
    job = await accept(store)
    once = replace(UPDATE, request_id="r", body=b"1")
    first = await asyncio.gather(*(store.annotate(job.name, Annotation(note="a"), once) for _ in range(10)))
    assert {each.note for each in first} == {"a"}
    await store.annotate(job.name, Annotation(note="b"), UPDATE)
    assert (await store.annotate(job.name, Annotation(note="a"), once)).note == "b"
    with pytest.raises(RequestIdReused):
        await store.annotate(job.name, Annotation(note="c"), replace(once, body=b"2"))
    with pytest.raises(NotFound):
        await store.annotate(JobName("line-7", "nothing"), Annotation(note="a"), UPDATE)


async def test_pages_are_read_in_the_order_of_an_index(engine: AsyncEngine) -> None:
    """No scan of all jobs, and no sorting, whatever is asked for."""
    after = (1, "0")
    for states, labels in (
        ([], []),
        ([State.FAILED], []),
        ([], [("a", "1")]),
        ([State.FAILED], [("a", "1"), ("b", "2")]),
    ):
        query = _page_query(LINE_7, states, labels, 51, after)
        text = query.compile(dialect=engine.sync_engine.dialect, compile_kwargs={"literal_binds": True})
        async with engine.connect() as connection:
            plan = str((await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")).all())
        assert ("job_labels_by_age" if labels else "jobs_by_age") in plan
        assert "SCAN" not in plan and "TEMP B-TREE" not in plan, plan


async def test_jobs_from_before_there_were_labels_have_none(tmp_path: Path) -> None:
    """What an older scheduler wrote is read, labelled and found."""
    made = database.create_engine(database.sqlite_url(tmp_path, "old"))
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def upgrade(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")

    async with transaction(made) as connection:
        await connection.run_sync(upgrade)
        since = {"labels", "note", "resumes", "delete_time", "expire_time"}
        columns = {name: value for name, value in row_of(make_job()).items() if name not in since}
        old = sa.table("jobs", *(sa.column(name) for name in columns))
        await connection.execute(sa.insert(old).values(**columns))
    await Database(made).migrate()
    store = JobStore(Database(made), RequestLog())
    (job,) = await store.page(LINE_7, [], {}, 5, None)
    assert (job.labels, job.note, job.spec.rerun_of, job.delete_time) == ({}, "", "", None)
    await store.annotate(job.name, Annotation(labels={"line": "7"}), UPDATE)
    assert await found(store, {"line": "7"}) == [job.uid]
    await made.dispose()


async def update(rig: Rig, name: str, *paths: str, request_id: str = "", **fields: Any) -> TrainingJob:
    job = TrainingJob(name=name, **fields)
    request = rpc.UpdateTrainingJobRequest(training_job=job, update_mask=FieldMask(paths=paths), request_id=request_id)
    return (await rig.jobs.UpdateTrainingJob(request, timeout=10)).training_job


async def test_a_job_is_labelled_at_submission_and_later(rig: Rig) -> None:
    """Over gRPC: what the mask names changes, an empty mask means what is given, and a list finds it."""
    await rig.start_scheduler()
    job = await rig.submit(labels={"line": "7"}, note="after the new lamp")
    assert (dict(job.labels), job.note) == ({"line": "7"}, "after the new lamp")
    await rig.submit(labels={"line": "8"})
    page = await rig.jobs.ListTrainingJobs(rpc.ListTrainingJobsRequest(parent="projects/line-7", labels={"line": "7"}))
    assert [each.name for each in page.training_jobs] == [job.name]
    assert dict((await update(rig, job.name, labels={"line": "9"})).labels) == {"line": "9"}
    changed = await update(rig, job.name, "labels", labels={"a": "b"}, note="ignored", seed=9)
    assert (dict(changed.labels), changed.note, changed.seed) == ({"a": "b"}, "after the new lamp", 0)
    assert (await update(rig, job.name, "note", request_id="r")).note == ""
    assert not (await update(rig, job.name, "labels", request_id="s")).labels


@pytest.mark.parametrize(
    ("paths", "fields", "words"),
    [
        (("seed",), {}, 'update_mask is \'seed\'; expected "labels" or "note"'),
        (("labels", "state"), {}, "update_mask is 'state'"),
        (("labels.line",), {}, "update_mask is 'labels.line'"),
        (("*",), {}, "update_mask"),
        ((), {}, "update_mask"),
        (("labels",), {"labels": {"Line": "7"}}, "training_job.labels is 'Line'"),
        (("note",), {"note": "a\nb"}, "training_job.note"),
        (("note",), {"name": "jobs/j"}, "training_job.name"),
    ],
)
async def test_bad_updates_are_refused(rig: Rig, paths: tuple[str, ...], fields: dict[str, Any], words: str) -> None:
    await rig.start_scheduler()
    name = (await rig.submit()).name
    with pytest.raises(InvalidArgument, match=words):
        await update(rig, fields.pop("name", "projects/line-7/x") if "name" in fields else name, *paths, **fields)


async def test_bad_labels_make_no_job(rig: Rig) -> None:
    await rig.start_scheduler()
    for fields in ({"labels": {"Line": "7"}}, {"note": "\x1b"}):
        with pytest.raises(InvalidArgument, match=r"training_job\."):
            await rig.submit(**fields)
    with pytest.raises(InvalidArgument, match="labels is 'Line'"):
        await rig.jobs.ListTrainingJobs(rpc.ListTrainingJobsRequest(parent="projects/line-7", labels={"Line": "7"}))
    assert not (await rig.jobs.ListTrainingJobs(rpc.ListTrainingJobsRequest(parent="projects/line-7"))).training_jobs


async def test_who_may_not_submit_may_not_label(rig: Rig) -> None:
    """And what stands in other projects does not exist."""
    rig.auth.denied.add("jobs.submit")
    await rig.start_scheduler()
    with pytest.raises(PermissionDenied, match=r"jobs\.submit"):
        await update(rig, "projects/line-7/jobs/j1", "note", note="x")
    with pytest.raises(NotFound):
        await update(rig, "projects/other/jobs/j1", "note", note="x")
