"""BlobService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from loupe.byte_budget import ByteBudget
from loupe.identity import current_caller
from loupe.names import ProjectName
from loupe.storage.v1 import blob_service_pb2 as rpc
from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceServicer
from services.storage.blobs.blobs import Blobs
from services.storage.blobs.downloads import Downloads
from services.storage.blobs.messages import BLOB_PARTS, PICTURE_PARTS, pack_answer, pack_chunks, unpack_order
from services.storage.blobs.uploads import BlobUploads
from services.storage.pictures.uploads import PictureUploads
from services.storage.streams import held_parts, open_stream, parties, parts


class BlobServicer(BlobServiceServicer):
    """Serves loupe.storage.v1.BlobService."""

    def __init__(
        self,
        pictures: PictureUploads,
        blobs: Blobs,
        uploads: BlobUploads,
        downloads: Downloads,
        budget: ByteBudget,
    ) -> None:
        self._pictures = pictures
        self._blobs = blobs
        self._uploads = uploads
        self._downloads = downloads
        self._budget = budget

    async def FindMissingBlobs(
        self, request: rpc.FindMissingBlobsRequest, context: object
    ) -> rpc.FindMissingBlobsResponse:
        """Say which blobs a project does not have."""
        project = ProjectName.parse(request.parent, "parent")
        missing = await self._blobs.find_missing(project, request.digests, current_caller().attempt)
        return rpc.FindMissingBlobsResponse(digests=missing)

    async def UploadPictures(
        self, request_iterator: AsyncIterator[rpc.UploadPicturesRequest], context: object
    ) -> AsyncIterator[rpc.UploadPicturesResponse]:
        """Take pictures, and answer each batch when it is durable."""
        header = await open_stream(request_iterator, lambda first: first.header)
        project = ProjectName.parse(header.parent, "header.parent")
        coming = held_parts(request_iterator, PICTURE_PARTS, self._budget, parties(project))
        async for answer in self._pictures.receive(project, coming):
            yield pack_answer(answer)

    async def UploadBlob(
        self, request_iterator: AsyncIterator[rpc.UploadBlobRequest], context: object
    ) -> rpc.UploadBlobResponse:
        """Take one blob of any size."""
        header = await open_stream(request_iterator, lambda first: first.header)
        order = unpack_order(header, current_caller().attempt)
        coming = parts(request_iterator, BLOB_PARTS, self._budget, parties(order.project))
        await self._uploads.receive(order, coming)
        return rpc.UploadBlobResponse(digest=order.digest)

    async def QueryUpload(self, request: rpc.QueryUploadRequest, context: object) -> rpc.QueryUploadResponse:
        """Say how much of a blob is durable."""
        project = ProjectName.parse(request.parent, "parent")
        committed, complete = await self._uploads.query(project, request.digest, current_caller().attempt)
        return rpc.QueryUploadResponse(committed_size=committed, complete=complete)

    async def DownloadBlobs(
        self, request: rpc.DownloadBlobsRequest, context: object
    ) -> AsyncIterator[rpc.DownloadBlobsResponse]:
        """Send blobs in the order asked for."""
        project = ProjectName.parse(request.parent, "parent")
        grant = current_caller().attempt
        found = self._downloads.read(project, request.digests, request.offset, grant, parties(project))
        async with aclosing(found):
            async for chunks in found:
                yield pack_chunks(chunks)
