"""Data sets, and reading their versions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from loupe import paging
from loupe.errors import AlreadyExists, DataLoss, invalid, not_found
from loupe.idempotency import Request
from loupe.identity import AttemptGrant
from loupe.lifetimes import PURGED
from loupe.names import AccountName, DatasetName, DatasetVersionName, ProjectName, check_id
from services.storage.database.lifetimes import READING_SECONDS, list_scope
from services.storage.database.session import Database, Session
from services.storage.datasets.digest import VersionDigest
from services.storage.datasets.messages import decode_dataset, digest_of, encode_dataset
from services.storage.datasets.store import DatasetRow, DatasetTable, ItemPage, VersionRow
from services.storage.pictures.store import PictureTable
from services.storage.projects.projects import find_project

log = structlog.get_logger(__name__)

_ITEMS_AT_ONCE = 5_000
_ANNOTATION_CHARACTERS_AT_ONCE = 1 << 20
_NO_LIMIT = 1 << 30


class Datasets:
    """Creates data sets and reads what they hold.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, now: Callable[[], float]) -> None:
        self._database = database
        self._now = now

    async def create(
        self, project: ProjectName, dataset_id: str, display_name: str, caller: AccountName, request_id: str
    ) -> DatasetRow:
        """Make a data set without versions. Raises AlreadyExists, NotFound, InvalidArgument."""
        name = DatasetName(project.project, check_id("dataset_id", dataset_id))
        if len(display_name) > 200:
            raise invalid("dataset.display_name", display_name, "at most 200 characters")
        row = DatasetRow(project.project, dataset_id, uuid.uuid4().hex, display_name, 0, self._now())
        request = Request(str(caller), "CreateDataset", request_id, repr((str(name), display_name)).encode())
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return decode_dataset(answer)
            await find_project(session, project)
            table = DatasetTable(session)
            there = await table.find(project.project, dataset_id, lock=True)
            if there is None:
                await table.add(row)
            elif there.purged == PURGED:
                await table.revive(row)
            else:
                state = "DELETED" if there.deleted else None
                hint = ", deleted; restore it, or choose another id" if there.deleted else ""
                raise AlreadyExists(f"{name} is there already{hint}", resource=name, state=state)
            await session.record(request, encode_dataset(row))
        return row

    async def get(self, name: DatasetName, *, show_deleted: bool = False) -> DatasetRow:
        """Return a data set, a deleted one only when it is asked for. Raises NotFound."""
        async with self._database.read() as session:
            return await find_dataset(session, name, show_deleted=show_deleted)

    async def page(
        self, project: ProjectName, page_size: int, page_token: str, *, show_deleted: bool = False
    ) -> tuple[Sequence[DatasetRow], str]:
        """Return a page of data sets by id, and the next page's token; deleted ones only when they are asked for."""
        scope, size = list_scope(f"datasets of {project}", show_deleted=show_deleted), paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await find_project(session, project)
            after = str(last[0]) if last else ""
            rows = await DatasetTable(session).page(project.project, after, size + 1, show_deleted=show_deleted)
        more = paging.encode(scope, [rows[size - 1].dataset]) if len(rows) > size else ""
        return rows[:size], more

    async def get_version(
        self, name: DatasetVersionName, *, show_deleted: bool = False, grant: AttemptGrant | None = None
    ) -> VersionRow:
        """Return a version; "latest" is the newest. Raises NotFound, also for a deleted one unless it is asked for.

        grant: the attempt that reads. It reads on what was deleted after its job began, and puts off that it is purged.
        """
        async with self._database.read() as session:
            version = await find_version(session, name, show_deleted=show_deleted or grant is not None)
        until = self._now() + READING_SECONDS
        if grant is not None and version.expire_time is not None and version.expire_time < until:
            async with self._database.write() as session:
                await DatasetTable(session).extend(version.uid, until)
                return await find_version(session, name, show_deleted=True)
        return version

    async def page_versions(
        self, name: DatasetName, page_size: int, page_token: str, *, show_deleted: bool = False
    ) -> tuple[Sequence[VersionRow], str]:
        """Return a page of versions, newest first, and the next page's token. Raises NotFound.

        Deleted ones are among them only when they are asked for.
        """
        scope, size = list_scope(f"versions of {name}", show_deleted=show_deleted), paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await find_dataset(session, name, show_deleted=show_deleted)
            before, table = int(last[0]) if last else _NO_LIMIT, DatasetTable(session)
            rows = await table.versions(name.project, name.dataset, before, size + 1, show_deleted=show_deleted)
        more = paging.encode(scope, [rows[size - 1].number]) if len(rows) > size else ""
        return rows[:size], more

    async def read_items(
        self, name: DatasetVersionName, offset: int, grant: AttemptGrant | None = None
    ) -> AsyncIterator[ItemPage]:
        """Yield a version's items in their order, from an offset on, with the sizes of their pictures.

        grant: see get_version.

        Reading from the start is checked against the version's digest: DataLoss at its end when the table has changed.
        """
        if offset < 0:
            raise invalid("offset", offset, "0 or more")
        version = await self.get_version(name, grant=grant)
        digest = digest_of(version.document)
        total, page = VersionDigest(), await self._item_page(version, offset)
        while page.items:
            await asyncio.to_thread(total.add, page.items)
            following = await self._item_page(version, page.offset + len(page.items))
            if not following.items:
                break
            yield page
            page = following
        if offset == 0 and total.hexdigest() != digest:
            log.error("the items of a version have changed", version=str(version.name))
            raise DataLoss(f"the items of {version.name} are no longer what was stored", digest=digest)
        if page.items:
            yield page

    async def _item_page(self, version: VersionRow, offset: int) -> ItemPage:
        async with self._database.read() as session:
            items = await DatasetTable(session).items_within(
                version.uid, offset, _ITEMS_AT_ONCE, _ANNOTATION_CHARACTERS_AT_ONCE
            )
            sizes = await PictureTable(session).sizes(version.project, [item.digest for item in items])
        return ItemPage(offset, items, sizes)


async def find_dataset(
    session: Session, name: DatasetName, *, lock: bool = False, show_deleted: bool = False
) -> DatasetRow:
    """Return a data set; see DatasetTable.find. Raises NotFound, with show_deleted only where none can be restored."""
    await find_project(session, ProjectName(name.project), name)
    row = await DatasetTable(session).find(name.project, name.dataset, lock=lock)
    if row is None or not row.visible(show_deleted=show_deleted):
        raise not_found(name)
    return row


async def find_version(session: Session, name: DatasetVersionName, *, show_deleted: bool = False) -> VersionRow:
    """Return a version; "latest" is the newest that is not deleted. Raises NotFound, see find_dataset."""
    await find_project(session, ProjectName(name.project), name)
    table = DatasetTable(session)
    if name.number == "latest":
        dataset = await table.find(name.project, name.dataset)
        number = dataset.latest if dataset else 0
    else:
        number = int(name.number)
    version = await table.version(name.project, name.dataset, number)
    if version is None or not version.visible(show_deleted=show_deleted):
        raise not_found(name)
    return version
