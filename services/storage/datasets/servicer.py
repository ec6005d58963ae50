"""DatasetService: unpack, call, pack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from loupe.byte_budget import ByteBudget
from loupe.identity import current_caller
from loupe.names import DatasetName, DatasetVersionName, ProjectName
from loupe.rpc.calls import acting_account, idempotent
from loupe.storage.v1 import dataset_service_pb2 as rpc
from loupe.storage.v1.dataset_service_pb2_grpc import DatasetServiceServicer
from services.storage.datasets import messages
from services.storage.datasets.datasets import Datasets
from services.storage.datasets.deletion import DatasetDeletion
from services.storage.datasets.differences import Differences
from services.storage.datasets.versions import DatasetVersions
from services.storage.streams import open_stream, parties, parts

_CHECKS_AT_ONCE = 2


class DatasetServicer(DatasetServiceServicer):
    """Serves loupe.storage.v1.DatasetService."""

    def __init__(
        self,
        datasets: Datasets,
        versions: DatasetVersions,
        differences: Differences,
        deletion: DatasetDeletion,
        budget: ByteBudget,
    ) -> None:
        self._datasets = datasets
        self._deletion = deletion
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
        dataset = await self._datasets.get(DatasetName.parse(request.name), show_deleted=request.show_deleted)
        return rpc.GetDatasetResponse(dataset=messages.pack_dataset(dataset))

    async def ListDatasets(self, request: rpc.ListDatasetsRequest, context: object) -> rpc.ListDatasetsResponse:
        """List a project's data sets, by id."""
        project = ProjectName.parse(request.parent, "parent")
        page, more = await self._datasets.page(
            project, request.page_size, request.page_token, show_deleted=request.show_deleted
        )
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
        version = await self._datasets.get_version(
            DatasetVersionName.parse(request.name),
            show_deleted=request.show_deleted,
            grant=current_caller().attempt,
        )
        return rpc.GetDatasetVersionResponse(dataset_version=messages.pack_row(version))

    async def ListDatasetVersions(
        self, request: rpc.ListDatasetVersionsRequest, context: object
    ) -> rpc.ListDatasetVersionsResponse:
        """List a data set's versions, newest first."""
        name = DatasetName.parse(request.parent, "parent")
        page, more = await self._datasets.page_versions(
            name, request.page_size, request.page_token, show_deleted=request.show_deleted
        )
        packed = map(messages.pack_row, page)
        return rpc.ListDatasetVersionsResponse(dataset_versions=packed, next_page_token=more)

    async def ReadDatasetItems(
        self, request: rpc.ReadDatasetItemsRequest, context: object
    ) -> AsyncIterator[rpc.ReadDatasetItemsResponse]:
        """Send a version's items in their order."""
        name = DatasetVersionName.parse(request.name)
        async for page in self._datasets.read_items(name, request.offset, current_caller().attempt):
            yield await asyncio.to_thread(messages.pack_items, page)

    async def DeleteDatasetVersion(
        self, request: rpc.DeleteDatasetVersionRequest, context: object
    ) -> rpc.DeleteDatasetVersionResponse:
        """Delete a version."""
        name = DatasetVersionName.parse(request.name)
        answer = await self._deletion.delete_version(name, idempotent("DeleteDatasetVersion", request))
        return rpc.DeleteDatasetVersionResponse.FromString(answer)

    async def UndeleteDatasetVersion(
        self, request: rpc.UndeleteDatasetVersionRequest, context: object
    ) -> rpc.UndeleteDatasetVersionResponse:
        """Restore a version."""
        name = DatasetVersionName.parse(request.name)
        answer = await self._deletion.restore_version(name, idempotent("UndeleteDatasetVersion", request))
        return rpc.UndeleteDatasetVersionResponse.FromString(answer)

    async def DeleteDataset(self, request: rpc.DeleteDatasetRequest, context: object) -> rpc.DeleteDatasetResponse:
        """Delete a data set with its versions."""
        answer = await self._deletion.delete(DatasetName.parse(request.name), idempotent("DeleteDataset", request))
        return rpc.DeleteDatasetResponse.FromString(answer)

    async def UndeleteDataset(
        self, request: rpc.UndeleteDatasetRequest, context: object
    ) -> rpc.UndeleteDatasetResponse:
        """Restore a data set, and the versions that were deleted with it."""
        answer = await self._deletion.restore(DatasetName.parse(request.name), idempotent("UndeleteDataset", request))
        return rpc.UndeleteDatasetResponse.FromString(answer)

    async def DiffDatasetVersions(
        self, request: rpc.DiffDatasetVersionsRequest, context: object
    ) -> AsyncIterator[rpc.DiffDatasetVersionsResponse]:
        """Send what a version has otherwise than another one."""
        base, name, most = messages.unpack_diff(request)
        summary = await self._differences.summarise(base, name)
        yield messages.pack_summary(summary)
        async for differences in self._differences.read(summary, most):
            yield messages.pack_differences(differences)
