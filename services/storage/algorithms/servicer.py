"""AlgorithmService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from loupe.byte_budget import ByteBudget
from loupe.identity import current_caller
from loupe.names import AlgorithmVersionName
from loupe.storage.v1 import algorithm_service_pb2 as rpc
from loupe.storage.v1.algorithm_service_pb2_grpc import AlgorithmServiceServicer
from services.storage.algorithms.library import Algorithms, ImageClosing
from services.storage.algorithms.messages import pack_version
from services.storage.streams import open_stream, parties, parts

_PARTS: Mapping[str, Callable[[rpc.PublishAlgorithmVersionRequest], bytes | ImageClosing]] = {
    "chunk": lambda part: part.chunk,
    "closing": lambda part: ImageClosing(part.closing.digest, part.closing.size),
}


class AlgorithmServicer(AlgorithmServiceServicer):
    """Serves loupe.storage.v1.AlgorithmService."""

    def __init__(self, algorithms: Algorithms, budget: ByteBudget) -> None:
        self._algorithms = algorithms
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
        return rpc.PublishAlgorithmVersionResponse(algorithm_version=pack_version(version.document))

    async def GetAlgorithmVersion(
        self, request: rpc.GetAlgorithmVersionRequest, context: object
    ) -> rpc.GetAlgorithmVersionResponse:
        """Return a version."""
        version = await self._algorithms.get(AlgorithmVersionName.parse(request.name))
        return rpc.GetAlgorithmVersionResponse(algorithm_version=pack_version(version.document))

    async def ListAlgorithmVersions(
        self, request: rpc.ListAlgorithmVersionsRequest, context: object
    ) -> rpc.ListAlgorithmVersionsResponse:
        """List the newest version of each algorithm, or all versions of one."""
        page, more = await self._algorithms.page(request.algorithm, request.page_size, request.page_token)
        packed = [pack_version(version.document) for version in page]
        return rpc.ListAlgorithmVersionsResponse(algorithm_versions=packed, next_page_token=more)

    async def DownloadAlgorithmVersion(
        self, request: rpc.DownloadAlgorithmVersionRequest, context: object
    ) -> AsyncIterator[rpc.DownloadAlgorithmVersionResponse]:
        """Send a packed image."""
        async for chunk in self._algorithms.download(AlgorithmVersionName.parse(request.name)):
            yield rpc.DownloadAlgorithmVersionResponse(chunk=chunk)
