"""The algorithm image library: what is in it, and publishing an image of one's own."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from loupe.algorithm import image, manifest
from loupe.errors import BadAlgorithm
from loupe.storage.v1 import algorithm_pb2
from loupe.storage.v1 import algorithm_service_pb2 as service
from loupe.storage.v1.algorithm_service_pb2_grpc import AlgorithmServiceStub
from loupe.terminal.connection import Connection, Service, flatten

CHUNK = 1 << 20


class Algorithms:
    """The library that all projects share."""

    def __init__(self, connection: Connection) -> None:
        self._algorithms = Service(connection, AlgorithmServiceStub)

    def list(self, algorithm: str = "") -> AsyncIterator[algorithm_pb2.AlgorithmVersion]:
        """Yield the newest version of each algorithm, or all versions of "algorithms/{algorithm}"."""
        request = service.ListAlgorithmVersionsRequest(algorithm=algorithm)
        return flatten(
            self._algorithms.pages(lambda stub: stub.ListAlgorithmVersions, request),
            lambda page: page.algorithm_versions,
        )

    async def version(self, name: str) -> algorithm_pb2.AlgorithmVersion:
        """Return a version; it may be "latest". Raises NotFound."""
        request = service.GetAlgorithmVersionRequest(name=name)
        return (await self._algorithms.call(lambda stub: stub.GetAlgorithmVersion, request)).algorithm_version

    async def push(self, folder: Path) -> algorithm_pb2.AlgorithmVersion:
        """Pack a folder with algorithm.toml and publish it; the same image again is the same version.

        Raises BadAlgorithm when the folder breaks a rule of the format.
        """
        try:
            packed = await asyncio.to_thread(image.pack, folder)
        except (image.BadImage, manifest.BadManifest, OSError) as error:
            raise BadAlgorithm(f"{folder} is not an algorithm image: {error}", entry=folder) from error
        digest, size = hashlib.sha256(packed).hexdigest(), len(packed)

        async def requests() -> AsyncIterator[service.PublishAlgorithmVersionRequest]:
            request = service.PublishAlgorithmVersionRequest
            yield request(header=service.AlgorithmVersionHeader(digest=digest, size=size))
            for start in range(0, size, CHUNK):
                yield request(chunk=packed[start : start + CHUNK])
            yield request(closing=service.AlgorithmVersionClosing(digest=digest, size=size))

        response = await self._algorithms.send(lambda stub: stub.PublishAlgorithmVersion(requests()))
        return response.algorithm_version

    async def delete(self, name: str) -> algorithm_pb2.AlgorithmVersion:
        """Delete a version; until its expire_time it can be restored. Raises NotFound, FailedPrecondition."""
        request = service.DeleteAlgorithmVersionRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._algorithms.call(lambda stub: stub.DeleteAlgorithmVersion, request)).algorithm_version

    async def undelete(self, name: str) -> algorithm_pb2.AlgorithmVersion:
        """Restore a version. Raises NotFound once it is purged, AlreadyExists."""
        request = service.UndeleteAlgorithmVersionRequest(name=name, request_id=str(uuid.uuid4()))
        return (await self._algorithms.call(lambda stub: stub.UndeleteAlgorithmVersion, request)).algorithm_version

    async def deleted(self, algorithm: str = "") -> AsyncGenerator[algorithm_pb2.AlgorithmVersion]:
        """Yield the versions that are deleted and can be restored, of all algorithms or of one."""
        if algorithm:
            async for one in self._list(algorithm):
                if one.HasField("delete_time"):
                    yield one
            return
        async for newest in self._list(""):
            async for one in self.deleted(newest.name.partition("/versions/")[0]):
                yield one

    def _list(self, algorithm: str) -> AsyncIterator[algorithm_pb2.AlgorithmVersion]:
        request = service.ListAlgorithmVersionsRequest(algorithm=algorithm, show_deleted=True)
        pages = self._algorithms.pages(lambda stub: stub.ListAlgorithmVersions, request)
        return flatten(pages, lambda page: page.algorithm_versions)
