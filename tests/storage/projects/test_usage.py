"""What projects hold is counted with the rows, and quotas are kept by every way in."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from loupe import database
from loupe.errors import InvalidArgument, NotFound, PermissionDenied, QuotaExceeded, UploadIncomplete
from loupe.idempotency import RequestLog
from loupe.names import SYSTEM
from loupe.settings import ServiceSettings
from loupe.storage.v1 import model_service_pb2
from loupe.storage.v1 import project_service_pb2 as messages
from loupe.storage.v1.project_pb2 import ProjectQuota, ProjectUsage, StoredCount
from services.storage.database.session import MIGRATIONS, Database
from services.storage.pictures.store import WHOLE, IndexRow, PictureTable
from services.storage.projects.quotas import Quota, Room, Usage
from services.storage.settings import StorageSettings
from tests.storage.house import LINE, Client, House, blob_stream, open_house, picture_stream
from tests.storage.photographs import jpeg, sha256

PICTURES = [jpeg(seed) for seed in range(40)]
DIGESTS = [sha256(each) for each in PICTURES]
TENSORS = [random.Random(seed).randbytes(300_000 + seed) for seed in range(3)]


@pytest.fixture
async def root(house: House) -> Client:
    """An administrator of the mesh, who is in no project."""
    house.auth.levels["root", SYSTEM] = 90
    return house.client("root")


async def usage(client: Client, project: str = LINE) -> ProjectUsage:
    return (await client.projects.GetProjectUsage(messages.GetProjectUsageRequest(name=project))).usage


async def set_quota(client: Client, project: str = LINE, **quota: int) -> ProjectQuota:
    return (await client.projects.SetProjectQuota(messages.SetProjectQuotaRequest(name=project, **quota))).quota


def counted(state: Path) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the counters of all projects, and what the rows come to."""
    kept = "SELECT pictures, picture_bytes, blobs, blob_bytes FROM projects ORDER BY project"
    parts = [
        f"(SELECT {what} FROM {table} WHERE {table}.project = projects.project)"
        for table in ("pictures", "blobs")
        for what in ("COUNT(*)", "COALESCE(SUM(size), 0)")
    ]
    with closing(sqlite3.connect(state / "storage.db")) as opened:
        recomputed = f"SELECT {', '.join(parts)} FROM projects ORDER BY project"
        return opened.execute(kept).fetchall(), opened.execute(recomputed).fetchall()


def test_as_many_fit_as_neither_quota_forbids() -> None:
    """In order, up to the first that does not fit; what is there already takes no room; 0 is no limit."""
    room = Room("p", Usage(pictures=8, picture_bytes=80, blobs=1, blob_bytes=10), Quota(pictures=10, bytes=100))
    assert room.fitting([5, 5]) == (2, None)
    assert room.fitting([None] * 50) == (50, None)
    fitting, refusal = room.fitting([1, None, 1, None, 1])
    assert fitting == 4 and refusal is not None
    assert (refusal.quota, refusal.used, refusal.limit, refusal.project) == ("pictures", 10, "10", "projects/p")
    fitting, refusal = room.fitting([11, 1])
    assert fitting == 0 and refusal is not None
    assert (refusal.quota, refusal.used, refusal.limit) == ("bytes", 90, "100")
    room.require(10)
    with pytest.raises(QuotaExceeded, match="projects/p is full"):
        room.require(11)
    free = Room("p", Usage(10**12, 10**15), Quota())
    assert not free.limited and free.fitting([1 << 40] * 3) == (3, None)
    free.require(1 << 60)


async def test_usage_tells_what_there_is_each_once(anna: Client, house: House) -> None:
    """Pictures sent twice count once; checkpoints are told apart from what belongs to nothing."""
    for _ in range(2):
        await anna.upload(PICTURES[:5])
        await anna.upload_blob(TENSORS[0])
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    await trainer.upload_blob(TENSORS[1])
    await trainer.models.SaveCheckpoint(checkpoint(TENSORS[1]))
    found = await usage(anna)
    assert found == ProjectUsage(
        project=LINE,
        pictures=StoredCount(count=5, byte_count=sum(map(len, PICTURES[:5]))),
        blobs=StoredCount(count=2, byte_count=len(TENSORS[0]) + len(TENSORS[1])),
        checkpoints=StoredCount(count=1, byte_count=len(TENSORS[1])),
        model_files=StoredCount(),
        quota=ProjectQuota(),
        unnamed_pictures=StoredCount(),
    )


def checkpoint(*data: bytes) -> model_service_pb2.SaveCheckpointRequest:
    files = [{"filename": f"f{number}", "digest": sha256(each), "size": len(each)} for number, each in enumerate(data)]
    return model_service_pb2.SaveCheckpointRequest(checkpoint={"job": f"{LINE}/jobs/j1", "attempt": 1, "files": files})


async def test_the_counters_are_what_the_rows_come_to_after_many_acts(anna: Client, house: House) -> None:
    """Uploads, twice and cut, damage and healing, blobs, and checkpoints that replace others, in any order."""
    chosen = random.Random(7)
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")

    def some() -> list[bytes]:
        return chosen.sample(PICTURES, chosen.randint(1, 12))

    async def cut() -> None:
        with contextlib.suppress(UploadIncomplete):
            await anna.stream(lambda: picture_stream(some(), batch=3, closed=False))

    async def cut_blob() -> None:
        with contextlib.suppress(UploadIncomplete):
            await anna.stream_blob(lambda: blob_stream(TENSORS[2] + b"!", LINE, 0, 1 << 17, closed=False))

    async def damage() -> None:
        async with house.storage.database.write() as session:
            await PictureTable(session).set_damaged("line-7", chosen.sample(DIGESTS, 5))

    async def save() -> None:
        data = chosen.choice(TENSORS)
        await trainer.upload_blob(data)
        await trainer.models.SaveCheckpoint(checkpoint(data))

    async def side_by_side() -> None:
        await asyncio.gather(*(anna.upload(some(), batch=4) for _ in range(3)))

    async def blob() -> None:
        await anna.upload_blob(chosen.choice(TENSORS))

    async def pictures() -> None:
        await anna.upload(some(), batch=5)

    for act in chosen.choices((pictures, cut, cut_blob, damage, save, side_by_side, blob), k=40):
        await act()
        kept, recomputed = counted(house.settings.state)
        assert kept == recomputed, act.__name__
    assert kept[0][0] > 20 and kept[0][2] >= 1


async def test_a_picture_quota_that_is_reached_in_mid_upload(anna: Client, root: Client, house: House) -> None:
    """What fits is stored to the last picture, the next one refused; once it is raised, only the rest is sent."""
    assert await set_quota(root, max_pictures=25) == ProjectQuota(max_pictures=25)
    with pytest.raises(QuotaExceeded) as caught:
        await anna.upload(PICTURES, batch=10)
    assert caught.value.quota == "pictures" and caught.value.limit == "25" and caught.value.project == LINE
    assert await anna.missing(DIGESTS) == DIGESTS[25:]
    before = packs_size(house.settings.state)
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            await anna.upload(PICTURES[20:], batch=10)
    assert packs_size(house.settings.state) == before
    await set_quota(root, max_pictures=0)
    await anna.upload(PICTURES[25:])
    assert (await usage(anna)).pictures.count == 40
    assert list((await anna.download(DIGESTS)).values()) == PICTURES


def packs_size(state: Path) -> int:
    return sum(path.stat().st_size for part in ("open", "files") for path in (state / part).rglob("*"))


async def test_what_was_acknowledged_before_the_quota_was_reached_stays(anna: Client, root: Client) -> None:
    """The answers that came count pictures that are there."""
    await set_quota(root, max_pictures=25)
    stored = 0
    with pytest.raises(QuotaExceeded):
        async for answer in anna.blobs.UploadPictures(picture_stream(PICTURES, batch=10)):
            stored = answer.stored_count
    assert stored in (0, 10, 20)  # none, where the refusal overtook the answers
    assert await anna.missing(DIGESTS[:stored]) == []


async def test_two_uploads_side_by_side_do_not_both_slip_under_the_quota(
    anna: Client, root: Client, house: House
) -> None:
    """Several at once fill it to the last picture and not beyond."""
    await set_quota(root, max_pictures=13)
    parts = [PICTURES[start : start + 10] for start in range(0, 40, 10)]
    outcomes = await asyncio.gather(*(anna.upload(part, batch=1) for part in parts), return_exceptions=True)
    assert sum(isinstance(each, QuotaExceeded) for each in outcomes) >= 3
    assert (await usage(anna)).pictures.count == 13
    kept, recomputed = counted(house.settings.state)
    assert kept == recomputed


async def test_two_blobs_side_by_side_do_not_both_slip_under_the_quota(anna: Client, root: Client) -> None:
    """One of them is refused, also where both were let begin."""
    await set_quota(root, max_bytes=len(TENSORS[0]) + 1000)
    outcomes = await asyncio.gather(*(anna.upload_blob(each) for each in TENSORS[:2]), return_exceptions=True)
    assert [type(each) for each in outcomes if each is not None] == [QuotaExceeded]
    assert (await usage(anna)).blobs.count == 1


async def test_the_check_counts_that_is_made_in_the_writing_transaction(
    anna: Client, root: Client, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where everybody was told before that there is room, the transaction refuses all the same."""
    quotas = house.storage.picture_uploads._quotas
    asked = quotas.room

    async def blind(session, project, *, lock=False):
        room = await asked(session, project, lock=lock)
        return room if lock else Room(project, Usage(), Quota())

    monkeypatch.setattr(quotas, "room", blind)
    await set_quota(root, max_pictures=7, max_bytes=200_000)
    with pytest.raises(QuotaExceeded):
        await anna.upload(PICTURES, batch=5)
    with pytest.raises(QuotaExceeded):
        await anna.upload_blob(TENSORS[0])
    monkeypatch.undo()
    found = await usage(anna)
    assert (found.pictures.count, found.blobs.count) == (7, 0)
    await set_quota(root, max_pictures=0)
    await anna.upload(PICTURES)
    assert list((await anna.download(DIGESTS)).values()) == PICTURES


async def test_a_damaged_picture_heals_in_a_full_project(anna: Client, root: Client, house: House) -> None:
    """It counts already, so it takes no room; a new one beside it is refused."""
    await anna.upload(PICTURES[:5])
    await set_quota(root, max_pictures=5, max_bytes=1)
    async with house.storage.database.write() as session:
        await PictureTable(session).set_damaged("line-7", DIGESTS[1:3])
    assert await anna.missing(DIGESTS[:5]) == DIGESTS[1:3]
    await anna.upload(PICTURES[:5])
    assert await anna.missing(DIGESTS[:5]) == []
    with pytest.raises(QuotaExceeded):
        await anna.upload(PICTURES[:6])


async def test_what_is_damaged_stays_so_when_its_decoding_ends_later(anna: Client, house: House) -> None:
    """The decoder had read it before; else a picture that is gone would count as there."""
    await anna.upload(PICTURES[:1])
    async with house.storage.database.write() as session:
        table = PictureTable(session)
        await table.set_damaged("line-7", DIGESTS[:1])
        await table.set_index("line-7", [IndexRow(DIGESTS[0], len(PICTURES[0]), WHOLE, "", b"\0" * 8, b"\0" * 256)])
    assert await anna.missing(DIGESTS[:1]) == DIGESTS[:1]


async def test_a_blob_that_does_not_fit_goes_on_where_it_was_once_it_does(anna: Client, root: Client) -> None:
    """It is refused before its bytes come; those that came before stay, and only the rest is sent."""
    blob, cut = TENSORS[0], 1 << 18
    with pytest.raises(UploadIncomplete):
        await anna.stream_blob(lambda: blob_stream(blob[:cut] + blob[cut:], LINE, 0, cut, closed=False))
    came, _ = await anna.query(sha256(blob))
    await set_quota(root, max_bytes=len(blob) - 1)
    with pytest.raises(QuotaExceeded) as caught:
        await anna.upload_blob(blob, offset=came)
    assert (caught.value.quota, caught.value.used, caught.value.limit) == ("bytes", 0, str(len(blob) - 1))
    assert await anna.query(sha256(blob)) == (came, False)
    await set_quota(root, max_bytes=len(blob))
    await anna.upload_blob(blob, offset=came)
    assert await anna.query(sha256(blob)) == (len(blob), True)


async def test_a_training_that_finds_no_room_keeps_its_last_checkpoint(house: House, root: Client) -> None:
    """The next checkpoint's files are refused; the one before is there for the next attempt."""
    trainer = house.client(f"attempt {LINE}/jobs/j1 1")
    await trainer.upload_blob(TENSORS[0])
    await trainer.models.SaveCheckpoint(checkpoint(TENSORS[0]))
    await set_quota(root, max_bytes=len(TENSORS[0]) + 1000)
    with pytest.raises(QuotaExceeded):
        await trainer.upload_blob(TENSORS[1])
    kept = await trainer.models.GetCheckpoint(model_service_pb2.GetCheckpointRequest(job=f"{LINE}/jobs/j1"))
    assert [each.digest for each in kept.checkpoint.files] == [sha256(TENSORS[0])]
    assert (await trainer.download([sha256(TENSORS[0])]))[sha256(TENSORS[0])] == TENSORS[0]


async def test_a_setting_holds_for_projects_without_a_quota_of_their_own(
    service_settings: Callable[..., ServiceSettings],
) -> None:
    """An administrator's quota goes before it, also one of 0."""
    settings = service_settings("storage", StorageSettings, max_project_pictures=3)
    assert isinstance(settings, StorageSettings)
    async with open_house(settings) as house:
        house.auth.levels["root", SYSTEM] = 90
        anna, root = house.client("anna"), house.client("root")
        assert (await usage(anna)).quota == ProjectQuota(max_pictures=3)
        with pytest.raises(QuotaExceeded):
            await anna.upload(PICTURES)
        assert await set_quota(root, max_bytes=10**9) == ProjectQuota(max_pictures=3, max_bytes=10**9)
        assert await set_quota(root, max_pictures=0) == ProjectQuota(max_bytes=10**9)
        await anna.upload(PICTURES)
        assert (await usage(anna)).quota == ProjectQuota(max_bytes=10**9)


async def test_only_administrators_of_the_mesh_set_quotas(anna: Client, eve: Client, root: Client) -> None:
    """A project's owner may see its quota and not change it; another's project is not there."""
    with pytest.raises(PermissionDenied) as caught:
        await set_quota(anna, max_pictures=0)
    assert (caught.value.action, caught.value.threshold, caught.value.project) == (
        "quotas.write",
        90,
        "projects/system",
    )
    with pytest.raises(NotFound):
        await usage(eve)
    with pytest.raises(NotFound):
        await set_quota(root, "projects/absent", max_pictures=1)


@pytest.mark.parametrize("field", ["max_pictures", "max_bytes"])
@pytest.mark.parametrize("value", [-1, -(2**63)])
async def test_a_negative_quota_is_refused(root: Client, anna: Client, field: str, value: int) -> None:
    """It changes nothing, also where the other one is right."""
    with pytest.raises(InvalidArgument) as caught:
        await set_quota(root, LINE, **({"max_pictures": 5, "max_bytes": 5} | {field: value}))
    assert caught.value.field == field
    assert (await usage(anna)).quota == ProjectQuota()
    assert await set_quota(root, LINE, **{field: 2**63 - 1}) == ProjectQuota(**{field: 2**63 - 1})
    await anna.upload(PICTURES[:2])


@pytest.mark.parametrize("value", [float("nan"), 2**63, 1.5])
def test_the_contract_has_no_other_values(value: float) -> None:
    """NaN, halves and what is over 64 bits cannot be said."""
    with pytest.raises((ValueError, TypeError)):
        messages.SetProjectQuotaRequest(name=LINE, max_pictures=value)  # type: ignore[arg-type]  # it is the point


async def test_the_migration_counts_what_is_there(tmp_path: Path) -> None:
    """A database with rows that were written before anything was counted."""
    engine = database.create_engine(database.sqlite_url(tmp_path, "storage"))

    def before(connection: sa.Connection) -> None:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "0001")
        for statement in ROWS:
            connection.exec_driver_sql(statement)

    async with database.transaction(engine) as connection:
        await connection.run_sync(before)
    tables = Database(engine, RequestLog())
    await tables.migrate()
    await tables.close()
    kept, recomputed = counted(tmp_path)
    assert kept == recomputed == [(2, 30, 1, 2**40), (0, 0, 0, 0)]


ROWS: Sequence[str] = (
    "INSERT INTO projects VALUES ('a', '0', '', 'accounts/anna', 1, 0), ('b', '1', '', 'accounts/anna', 1, 0)",
    "INSERT INTO packs VALUES ('k', 'a', 30, 0)",
    "INSERT INTO pictures VALUES ('a', 'd1', 10, 'k', 0, 1, '', NULL, NULL)",
    "INSERT INTO pictures VALUES ('a', 'd2', 20, 'k', 10, 3, '', NULL, NULL)",
    f"INSERT INTO blobs VALUES ('a', 'd3', {2**40}, X'00', NULL)",
)
