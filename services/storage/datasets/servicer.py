"""DatasetService: unpack, call, pack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from loupe.byte_budget import ByteBudget
from loupe.names import DatasetName, DatasetVersionName, ProjectName
from loupe.rpc.calls import acting_account
from loupe.storage.v1 import dataset_service_pb2 as rpc
from loupe.storage.v1.dataset_service_pb2_grpc import DatasetServiceServicer
from services.storage.datasets import messages
from services.storage.datasets.datasets import Datasets
from services.storage.datasets.differences import Differences
from services.storage.datasets.versions import DatasetVersions
from services.storage.streams import open_stream, parties, parts

_CHECKS_AT_ONCE = 2


class DatasetServicer(DatasetServiceServicer):
    """Serves loupe.storage.v1.DatasetService."""

    def __init__(
        self, datasets: Datasets, versions: DatasetVersions, differences: Differences, budget: ByteBudget
    ) -> None:
        self._datasets = datasets
        self._versions = versions
        self._differences = differences
        self._budget = budget
        self._checks = asyncio.Semaphore(_CHECKS_AT_ONCE)

    async def CreateDataset(self, request: rpc.CreateDatasetRequest, context: object) -> rpc.CreateDatasetResponse:
        """Make a data set without versions."""
        project, display_name = ProjectName.parse(request.parent, "parent"), request.dataset.display_name
        dataset = await self._datasets.create(
            project, request.dataset_id, display_name, acting_account(), request.request_id
        )
        return rpc.CreateDatasetResponse(dataset=messages.pack_dataset(dataset))

    async def GetDataset(self, request: rpc.GetDatasetRequest, context: object) -> rpc.GetDatasetResponse:
        """Return a data set."""
        dataset = await self._datasets.get(DatasetName.parse(request.name))
        return rpc.GetDatasetResponse(dataset=messages.pack_dataset(dataset))

    async def ListDatasets(self, request: rpc.ListDatasetsRequest, context: object) -> rpc.ListDatasetsResponse:
        """List a project's data sets, by id."""
        project = ProjectName.parse(request.parent, "parent")
        page, more = await self._datasets.page(project, request.page_size, request.page_token)
        return rpc.ListDatasetsResponse(datasets=map(messages.pack_dataset, page), next_page_token=more)

    async def CreateDatasetVersion(
        self, request_iterator: AsyncIterator[rpc.CreateDatasetVersionRequest], context: object
    ) -> rpc.CreateDatasetVersionResponse:
        """Make a version of pictures that were uploaded before."""
        header = await open_stream(request_iterator, lambda first: first.header)
        order = messages.unpack_order(header, acting_account())
        who = parties(ProjectName(order.dataset.project))
        sent = parts(request_iterator, messages.PARTS, self._budget, who)
        coming = messages.unpack_parts(sent, order, self._checks)
        return messages.pack_created(await self._versions.create(order, coming))

    async def GetDatasetVersion(
        self, request: rpc.GetDatasetVersionRequest, context: object
    ) -> rpc.GetDatasetVersionResponse:
        """Return a version without its items."""
        version = await self._datasets.get_version(DatasetVersionName.parse(request.name))
        return rpc.GetDatasetVersionResponse(dataset_version=messages.pack_version(version.document))

    async def ListDatasetVersions(
        self, request: rpc.ListDatasetVersionsRequest, context: object
    ) -> rpc.ListDatasetVersionsResponse:
        """List a data set's versions, newest first."""
        name = DatasetName.parse(request.parent, "parent")
        page, more = await self._datasets.page_versions(name, request.page_size, request.page_token)
        packed = [messages.pack_version(version.document) for version in page]
        return rpc.ListDatasetVersionsResponse(dataset_versions=packed, next_page_token=more)

    async def ReadDatasetItems(
        self, request: rpc.ReadDatasetItemsRequest, context: object
    ) -> AsyncIterator[rpc.ReadDatasetItemsResponse]:
        """Send a version's items in their order."""
        name = DatasetVersionName.parse(request.name)
        async for page in self._datasets.read_items(name, request.offset):
            yield await asyncio.to_thread(messages.pack_items, page)

    async def DiffDatasetVersions(
        self, request: rpc.DiffDatasetVersionsRequest, context: object
    ) -> AsyncIterator[rpc.DiffDatasetVersionsResponse]:
        """Send what a version has otherwise than another one."""
        base, name, most = messages.unpack_diff(request)
        summary = await self._differences.summarise(base, name)
        yield messages.pack_summary(summary)
        async for differences in self._differences.read(summary, most):
            yield messages.pack_differences(differences)
