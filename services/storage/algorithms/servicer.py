"""AlgorithmService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from loupe.byte_budget import ByteBudget
from loupe.identity import current_caller
from loupe.names import AlgorithmVersionName
from loupe.rpc.calls import idempotent
from loupe.storage.v1 import algorithm_service_pb2 as rpc
from loupe.storage.v1.algorithm_service_pb2_grpc import AlgorithmServiceServicer
from services.storage.algorithms.deletion import AlgorithmDeletion
from services.storage.algorithms.library import Algorithms, ImageClosing
from services.storage.algorithms.messages import pack_version
from services.storage.streams import open_stream, parties, parts

_PARTS: Mapping[str, Callable[[rpc.PublishAlgorithmVersionRequest], bytes | ImageClosing]] = {
    "chunk": lambda part: part.chunk,
    "closing": lambda part: ImageClosing(part.closing.digest, part.closing.size),
}


class AlgorithmServicer(AlgorithmServiceServicer):
    """Serves loupe.storage.v1.AlgorithmService."""

    def __init__(self, algorithms: Algorithms, deletion: AlgorithmDeletion, budget: ByteBudget) -> None:
        self._algorithms = algorithms
        self._deletion = deletion
        self._budget = budget

    async def PublishAlgorithmVersion(
        self, request_iterator: AsyncIterator[rpc.PublishAlgorithmVersionRequest], context: object
    ) -> rpc.PublishAlgorithmVersionResponse:
        """Verify an image and put it into the library."""
        header = await open_stream(request_iterator, lambda first: first.header)
        announced = ImageClosing(header.digest, header.size)
        # The one caller without an account is the deployment, which brings the built-in images.
        creator = current_caller().account
        coming = parts(request_iterator, _PARTS, self._budget, parties())
        version = await self._algorithms.publish(announced, coming, creator)
        return rpc.PublishAlgorithmVersionResponse(algorithm_version=pack_version(version))

    async def GetAlgorithmVersion(
        self, request: rpc.GetAlgorithmVersionRequest, context: object
    ) -> rpc.GetAlgorithmVersionResponse:
        """Return a version."""
        name, grant = AlgorithmVersionName.parse(request.name), current_caller().attempt
        version = await self._algorithms.get(name, show_deleted=request.show_deleted, grant=grant)
        return rpc.GetAlgorithmVersionResponse(algorithm_version=pack_version(version))

    async def ListAlgorithmVersions(
        self, request: rpc.ListAlgorithmVersionsRequest, context: object
    ) -> rpc.ListAlgorithmVersionsResponse:
        """List the newest version of each algorithm, or all versions of one."""
        page, more = await self._algorithms.page(
            request.algorithm, request.page_size, request.page_token, show_deleted=request.show_deleted
        )
        packed = [pack_version(version) for version in page]
        return rpc.ListAlgorithmVersionsResponse(algorithm_versions=packed, next_page_token=more)

    async def DownloadAlgorithmVersion(
        self, request: rpc.DownloadAlgorithmVersionRequest, context: object
    ) -> AsyncIterator[rpc.DownloadAlgorithmVersionResponse]:
        """Send a packed image."""
        name, grant = AlgorithmVersionName.parse(request.name), current_caller().attempt
        async for chunk in self._algorithms.download(name, grant):
            yield rpc.DownloadAlgorithmVersionResponse(chunk=chunk)

    async def DeleteAlgorithmVersion(
        self, request: rpc.DeleteAlgorithmVersionRequest, context: object
    ) -> rpc.DeleteAlgorithmVersionResponse:
        """Delete a version that does not ship with Loupe."""
        name = AlgorithmVersionName.parse(request.name)
        answer = await self._deletion.delete(name, idempotent("DeleteAlgorithmVersion", request))
        return rpc.DeleteAlgorithmVersionResponse.FromString(answer)

    async def UndeleteAlgorithmVersion(
        self, request: rpc.UndeleteAlgorithmVersionRequest, context: object
    ) -> rpc.UndeleteAlgorithmVersionResponse:
        """Restore a version."""
        name = AlgorithmVersionName.parse(request.name)
        answer = await self._deletion.restore(name, idempotent("UndeleteAlgorithmVersion", request))
        return rpc.UndeleteAlgorithmVersionResponse.FromString(answer)
