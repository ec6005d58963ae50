"""BlobService: unpack, call, pack."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from loupe.identity import current_caller
from loupe.names import ProjectName
from loupe.storage.v1 import blob_service_pb2 as messages
from loupe.storage.v1 import blob_service_pb2_grpc
from services.storage.blobs import uploads as blobs
from services.storage.blobs.downloads import Downloads
from services.storage.blobs.uploads import BlobOrder, Blobs
from services.storage.datasets.messages import verdict_messages
from services.storage.pictures import uploads as picture_uploads
from services.storage.pictures.admission import UploadedPicture
from services.storage.pictures.uploads import PictureUploads
from services.storage.streams import open_stream, parts

_PICTURE_PARTS = {
    "batch": lambda batch: [UploadedPicture(each.digest, each.data) for each in batch.pictures],
    "closing": lambda closing: picture_uploads.Closing(closing.picture_count, closing.byte_count),
}
_BLOB_PARTS = {"chunk": bytes, "closing": lambda closing: blobs.Closing(closing.digest, closing.size)}


class BlobServicer(blob_service_pb2_grpc.BlobServiceServicer):
    """Serves loupe.storage.v1.BlobService."""

    def __init__(self, uploads: PictureUploads, large: Blobs, downloads: Downloads) -> None:
        self._uploads = uploads
        self._blobs = large
        self._downloads = downloads

    async def FindMissingBlobs(
        self, request: messages.FindMissingBlobsRequest, context: grpc.aio.ServicerContext
    ) -> messages.FindMissingBlobsResponse:
        project = ProjectName.parse(request.parent, "parent")
        missing = await self._blobs.find_missing(project, request.digests, current_caller().attempt)
        return messages.FindMissingBlobsResponse(digests=missing)

    async def UploadPictures(
        self, request_iterator: AsyncIterator[messages.UploadPicturesRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.UploadPicturesResponse]:
        header, rest = await open_stream(request_iterator)
        project = ProjectName.parse(header.parent, "header.parent")
        async for answer in self._uploads.receive(project, parts(rest, _PICTURE_PARTS)):
            yield messages.UploadPicturesResponse(
                stored_count=answer.stored_count, verdicts=verdict_messages(answer.verdicts), complete=answer.complete
            )

    async def UploadBlob(
        self, request_iterator: AsyncIterator[messages.UploadBlobRequest], context: grpc.aio.ServicerContext
    ) -> messages.UploadBlobResponse:
        header, rest = await open_stream(request_iterator)
        project = ProjectName.parse(header.parent, "header.parent")
        order = BlobOrder(project, header.digest, header.size, header.offset, current_caller().attempt)
        await self._blobs.receive(order, parts(rest, _BLOB_PARTS))
        return messages.UploadBlobResponse(digest=header.digest)

    async def QueryUpload(
        self, request: messages.QueryUploadRequest, context: grpc.aio.ServicerContext
    ) -> messages.QueryUploadResponse:
        project = ProjectName.parse(request.parent, "parent")
        committed, complete = await self._blobs.query(project, request.digest, current_caller().attempt)
        return messages.QueryUploadResponse(committed_size=committed, complete=complete)

    async def DownloadBlobs(
        self, request: messages.DownloadBlobsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[messages.DownloadBlobsResponse]:
        project = ProjectName.parse(request.parent, "parent")
        async for pieces in self._downloads.read(project, request.digests, request.offset):
            yield messages.DownloadBlobsResponse(
                pieces=[
                    messages.BlobPiece(digest=each.digest, offset=each.offset, size=each.size, data=each.data)
                    for each in pieces
                ]
            )
