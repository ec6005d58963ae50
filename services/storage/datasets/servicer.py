"""DatasetService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from loupe.names import DatasetName, DatasetVersionName, ProjectName
from loupe.storage.v1 import dataset_service_pb2 as messages
from loupe.storage.v1 import dataset_service_pb2_grpc
from services.storage.datasets.datasets import Datasets
from services.storage.datasets.messages import item_messages
from services.storage.datasets.versions import Closing, DatasetVersions, VersionOrder, checked_item
from services.storage.streams import open_stream, parts, require_account

_PARTS = {
    "batch": lambda batch: [checked_item(each.digest, each.label, each.split, each.filename) for each in batch.items],
    "closing": lambda closing: Closing(closing.item_count),
}


class DatasetServicer(dataset_service_pb2_grpc.DatasetServiceServicer):
    """Serves loupe.storage.v1.DatasetService."""

    def __init__(self, datasets: Datasets, versions: DatasetVersions) -> None:
        self._datasets = datasets
        self._versions = versions

    async def CreateDataset(
        self, request: messages.CreateDatasetRequest, context: grpc.aio.ServicerContext
    ) -> messages.CreateDatasetResponse:
        project, display_name = ProjectName.parse(request.parent, "parent"), request.dataset.display_name
        dataset = await self._datasets.create(
            project, request.dataset_id, display_name, require_account(), request.request_id
        )
        return messages.CreateDatasetResponse(dataset=dataset)

    async def GetDataset(
        self, request: messages.GetDatasetRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetDatasetResponse:
        return messages.GetDatasetResponse(dataset=await self._datasets.get(DatasetName.parse(request.name)))

    async def ListDatasets(
        self, request: messages.ListDatasetsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListDatasetsResponse:
        project = ProjectName.parse(request.parent, "parent")
        page, more = await self._datasets.list(project, request.page_size, request.page_token)
        return messages.ListDatasetsResponse(datasets=page, next_page_token=more)

    async def CreateDatasetVersion(
        self, request_iterator: AsyncIterator[messages.CreateDatasetVersionRequest], context: grpc.aio.ServicerContext
    ) -> messages.CreateDatasetVersionResponse:
        header, rest = await open_stream(request_iterator)
        return await self._versions.create(_order(header), parts(rest, _PARTS))

    async def GetDatasetVersion(
        self, request: messages.GetDatasetVersionRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetDatasetVersionResponse:
        version = await self._datasets.get_version(DatasetVersionName.parse(request.name))
        return messages.GetDatasetVersionResponse(dataset_version=version)

    async def ListDatasetVersions(
        self, request: messages.ListDatasetVersionsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListDatasetVersionsResponse:
        name = DatasetName.parse(request.parent, "parent")
        page, more = await self._datasets.list_versions(name, request.page_size, request.page_token)
        return messages.ListDatasetVersionsResponse(dataset_versions=page, next_page_token=more)

    async def ReadDatasetItems(
        self, request: messages.ReadDatasetItemsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.ReadDatasetItemsResponse]:
        name = DatasetVersionName.parse(request.name)
        async for items in self._datasets.read_items(name, request.offset):
            yield messages.ReadDatasetItemsResponse(items=item_messages(items))


def _order(header: messages.DatasetVersionHeader) -> VersionOrder:
    split = header.split
    return VersionOrder(
        dataset=DatasetName.parse(header.parent, "header.parent"),
        fractions=(split.train_fraction, split.validation_fraction, split.test_fraction),
        seed=split.seed,
        strict=header.strict,
        request_id=header.request_id,
        creator=require_account(),
    )
