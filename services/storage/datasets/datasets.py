"""Data sets, and reading their versions."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence

import structlog

from loupe import paging
from loupe.errors import AlreadyExists, DataLoss, invalid, not_found
from loupe.names import AccountName, DatasetName, DatasetVersionName, ProjectName, check_id
from loupe.storage.v1 import dataset_pb2
from services.storage.clock import timestamp
from services.storage.database.session import Database, Session
from services.storage.datasets.store import DatasetRow, ItemRow

log = structlog.get_logger(__name__)

_ITEMS_AT_ONCE = 5_000
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
    ) -> dataset_pb2.Dataset:
        """Make a data set without versions. Raises AlreadyExists, NotFound, InvalidArgument."""
        name = DatasetName(project.project, check_id("dataset_id", dataset_id))
        if len(display_name) > 200:
            raise invalid("dataset.display_name", display_name, "at most 200 characters")
        row = DatasetRow(project.project, dataset_id, uuid.uuid4().hex, display_name, 0, self._now())
        async with self._database.write() as session:

            async def effect() -> bytes:
                if await session.projects.find(project.project) is None:
                    raise not_found(project)
                if await session.datasets.find(project.project, dataset_id) is not None:
                    raise AlreadyExists(f"{name} is there already", resource=name)
                await session.datasets.add(row)
                return _dataset(row).SerializeToString(deterministic=True)

            body = repr((str(name), display_name)).encode()
            answer = await session.once(str(caller), "CreateDataset", request_id, body, effect)
        return dataset_pb2.Dataset.FromString(answer)

    async def get(self, name: DatasetName) -> dataset_pb2.Dataset:
        """Return a data set. Raises NotFound."""
        async with self._database.read() as session:
            return _dataset(await _find(session, name))

    async def list(
        self, project: ProjectName, page_size: int, page_token: str
    ) -> tuple[Sequence[dataset_pb2.Dataset], str]:
        """Return a page of data sets by id, and the next page's token."""
        scope, size = f"datasets of {project}", paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            rows = await session.datasets.page(project.project, str(last[0]) if last else "", size + 1)
        more = paging.encode(scope, [rows[size - 1].dataset]) if len(rows) > size else ""
        return [_dataset(row) for row in rows[:size]], more

    async def get_version(self, name: DatasetVersionName) -> dataset_pb2.DatasetVersion:
        """Return a version; "latest" is the newest. Raises NotFound."""
        async with self._database.read() as session:
            number = int(name.number) if name.number != "latest" else None
            if number is None:
                dataset = await session.datasets.find(name.project, name.dataset)
                number = dataset.latest if dataset else 0
            document = await session.datasets.version(name.project, name.dataset, number)
        if document is None:
            raise not_found(name)
        return dataset_pb2.DatasetVersion.FromString(document)

    async def list_versions(
        self, name: DatasetName, page_size: int, page_token: str
    ) -> tuple[Sequence[dataset_pb2.DatasetVersion], str]:
        """Return a page of versions, newest first, and the next page's token. Raises NotFound."""
        scope, size = f"versions of {name}", paging.page_size(page_size)
        last = paging.decode(scope, page_token)
        async with self._database.read() as session:
            await _find(session, name)
            before = int(last[0]) if last else _NO_LIMIT
            rows = await session.datasets.versions(name.project, name.dataset, before, size + 1)
        more = paging.encode(scope, [rows[size - 1][0]]) if len(rows) > size else ""
        return [dataset_pb2.DatasetVersion.FromString(document) for _, document in rows[:size]], more

    async def read_items(self, name: DatasetVersionName, offset: int) -> AsyncIterator[Sequence[ItemRow]]:
        """Yield a version's items in their order, from an offset on.

        Reading from the start is checked against the version's digest: DataLoss at its end when the table has changed.
        """
        if offset < 0:
            raise invalid("offset", offset, "0 or more")
        version = await self.get_version(name)
        total, position = hashlib.sha256(), offset
        while True:
            async with self._database.read() as session:
                items = await session.datasets.items(version.uid, position, _ITEMS_AT_ONCE)
            for item in items:
                total.update(f"{item.digest}\0{item.label}\0{item.split}\n".encode())
            position += len(items)
            if len(items) < _ITEMS_AT_ONCE:
                if offset == 0 and total.hexdigest() != version.digest:
                    log.error("the items of a version have changed", version=version.name)
                    raise DataLoss(f"the items of {version.name} are no longer what was stored", digest=version.digest)
                if items:
                    yield items
                return
            yield items


async def _find(session: Session, name: DatasetName) -> DatasetRow:
    row = await session.datasets.find(name.project, name.dataset)
    if row is None:
        raise not_found(name)
    return row


def _dataset(row: DatasetRow) -> dataset_pb2.Dataset:
    name = DatasetName(row.project, row.dataset)
    return dataset_pb2.Dataset(
        name=str(name),
        uid=row.uid,
        display_name=row.display_name,
        latest_version=f"{name}/versions/{row.latest}" if row.latest else "",
        create_time=timestamp(row.create_time),
    )
