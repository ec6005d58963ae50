"""AlgorithmService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from loupe.identity import current_caller
from loupe.names import AlgorithmVersionName
from loupe.storage.v1 import algorithm_service_pb2 as messages
from loupe.storage.v1 import algorithm_service_pb2_grpc
from services.storage.algorithms.library import Algorithms, Closing
from services.storage.streams import open_stream, parts

_PARTS = {"chunk": bytes, "closing": lambda closing: Closing(closing.digest, closing.size)}


class AlgorithmServicer(algorithm_service_pb2_grpc.AlgorithmServiceServicer):
    """Serves loupe.storage.v1.AlgorithmService."""

    def __init__(self, algorithms: Algorithms) -> None:
        self._algorithms = algorithms

    async def PublishAlgorithmVersion(
        self,
        request_iterator: AsyncIterator[messages.PublishAlgorithmVersionRequest],
        context: grpc.aio.ServicerContext,
    ) -> messages.PublishAlgorithmVersionResponse:
        header, rest = await open_stream(request_iterator)
        announced = Closing(header.digest, header.size)
        # The one caller without an account is the deployment, which brings the built-in images.
        version = await self._algorithms.publish(announced, parts(rest, _PARTS), current_caller().account)
        return messages.PublishAlgorithmVersionResponse(algorithm_version=version)

    async def GetAlgorithmVersion(
        self, request: messages.GetAlgorithmVersionRequest, context: grpc.aio.ServicerContext
    ) -> messages.GetAlgorithmVersionResponse:
        version = await self._algorithms.get(AlgorithmVersionName.parse(request.name))
        return messages.GetAlgorithmVersionResponse(algorithm_version=version)

    async def ListAlgorithmVersions(
        self, request: messages.ListAlgorithmVersionsRequest, context: grpc.aio.ServicerContext
    ) -> messages.ListAlgorithmVersionsResponse:
        page, more = await self._algorithms.list(request.algorithm, request.page_size, request.page_token)
        return messages.ListAlgorithmVersionsResponse(algorithm_versions=page, next_page_token=more)

    async def DownloadAlgorithmVersion(
        self, request: messages.DownloadAlgorithmVersionRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.DownloadAlgorithmVersionResponse]:
        async for chunk in self._algorithms.download(AlgorithmVersionName.parse(request.name)):
            yield messages.DownloadAlgorithmVersionResponse(chunk=chunk)
