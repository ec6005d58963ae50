"""Uploads and downloads as the contract's messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from loupe.identity import AttemptGrant
from loupe.names import ProjectName
from loupe.storage.v1 import blob_service_pb2 as rpc
from services.storage.blobs.downloads import Chunk
from services.storage.blobs.uploads import BlobClosing, BlobOrder
from services.storage.pictures import uploads as pictures
from services.storage.pictures.admission import UploadedPicture
from services.storage.pictures.messages import pack_verdicts

PICTURE_PARTS: Mapping[str, Callable[[rpc.UploadPicturesRequest], pictures.Part]] = {
    "batch": lambda part: [UploadedPicture(each.digest, each.data) for each in part.batch.pictures],
    "closing": lambda part: pictures.PictureClosing(part.closing.picture_count, part.closing.byte_count),
}
"""What may come in a stream of pictures after its header."""

BLOB_PARTS: Mapping[str, Callable[[rpc.UploadBlobRequest], bytes | BlobClosing]] = {
    "chunk": lambda part: part.chunk,
    "closing": lambda part: BlobClosing(part.closing.digest, part.closing.size),
}
"""What may come in the stream of a blob after its header."""


def unpack_order(header: rpc.UploadBlobHeader, grant: AttemptGrant | None) -> BlobOrder:
    """Unpack the header of a blob's stream. Raises InvalidArgument."""
    project = ProjectName.parse(header.parent, "header.parent")
    return BlobOrder(project, header.digest, header.size, header.offset, grant)


def pack_answer(answer: pictures.Answer) -> rpc.UploadPicturesResponse:
    """Pack what is said of a batch of pictures."""
    return rpc.UploadPicturesResponse(
        stored_count=answer.stored_count, verdicts=pack_verdicts(answer.verdicts), complete=answer.complete
    )


def pack_chunks(chunks: Iterable[Chunk]) -> rpc.DownloadBlobsResponse:
    """Pack a message of a download."""
    return rpc.DownloadBlobsResponse(
        pieces=[
            rpc.BlobPiece(digest=each.digest, offset=each.offset, size=each.size, data=each.data) for each in chunks
        ]
    )
