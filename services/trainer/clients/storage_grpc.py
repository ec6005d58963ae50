"""Storage over gRPC, as one attempt sees it: every call carries the attempt's token."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np

from loupe.algorithm.host import Split
from loupe.errors import DataLoss, DigestMismatch, ResourceExhausted, Unavailable, UploadIncomplete
from loupe.names import project_of
from loupe.storage.v1 import (
    algorithm_service_pb2,
    algorithm_service_pb2_grpc,
    blob_service_pb2,
    blob_service_pb2_grpc,
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
)
from services.trainer.attempts.events import StoredFile
from services.trainer.attempts.spec import AttemptSpec
from services.trainer.clients.storage import LabelledDataset
from services.trainer.runs.intake import FILENAME
from services.trainer.runs.work_folder import CollectedFile

CHUNK = 1 << 20
MAX_DIGESTS = 20_000
MAX_IMAGE_BYTES = 64 << 20
CALL_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
FIRST_WAIT, LONGEST_WAIT = 0.1, 3.0
KEPT_DATASETS = 8
SPLITS = {
    dataset_pb2.SPLIT_TRAIN: Split.TRAIN,
    dataset_pb2.SPLIT_VALIDATION: Split.VALIDATION,
    dataset_pb2.SPLIT_TEST: Split.TEST,
}

Channels = Callable[[], Awaitable[grpc.aio.Channel]]
T = TypeVar("T")


class GrpcStorage:
    """Storage behind a channel that is looked up for each call.

    patience: how many seconds it may be away before a call fails as Unavailable.
    """

    def __init__(self, channel: Channels, patience: float = PATIENCE_SECONDS) -> None:
        self.channel = channel
        self._patience = patience
        self._datasets: OrderedDict[str, LabelledDataset] = OrderedDict()

    def of(self, spec: AttemptSpec, token: Callable[[], str]) -> GrpcAttemptStorage:
        return GrpcAttemptStorage(self, spec, token)

    async def retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call again while storage is away, or an upload was cut, as long as there is patience.

        Two jobs that make the same bytes cut each other's uploads; whoever asks again finds the blob complete.
        """
        wait, waited = FIRST_WAIT, 0.0
        while True:
            try:
                return await call()
            except (Unavailable, UploadIncomplete):
                if waited >= self._patience:
                    raise
            await asyncio.sleep(wait)
            waited += wait
            wait = min(wait * 2, LONGEST_WAIT)

    def known(self, uid: str) -> LabelledDataset | None:
        """Return a data set version that was read before; versions never change."""
        return self._datasets.get(uid)

    def remember(self, uid: str, dataset: LabelledDataset) -> None:
        """Keep the versions that were read last."""
        self._datasets[uid] = dataset
        while len(self._datasets) > KEPT_DATASETS:
            self._datasets.popitem(last=False)


class GrpcAttemptStorage:
    """AttemptStorage with the token that the attempt has when it calls."""

    def __init__(self, storage: GrpcStorage, spec: AttemptSpec, token: Callable[[], str]) -> None:
        self._storage = storage
        self._spec = spec
        self._parent = str(project_of(spec.key.job))
        self._token = token

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token()}"),)

    async def dataset(self) -> LabelledDataset:
        return await self._storage.retry(self._dataset)

    async def image(self) -> bytes:
        return await self._storage.retry(self._image)

    async def fetch(self, digests: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        left = dict.fromkeys(digests)
        while left:
            before = len(left)
            try:
                async for digest, data in self._files(list(left)[:MAX_DIGESTS]):
                    left.pop(digest, None)
                    yield digest, data
            except Unavailable:
                # What came is kept; the rest is asked for again once storage answers.
                await self._storage.retry(self._reachable)
            else:
                if len(left) == before:
                    raise DataLoss(f"storage sent none of {before} pictures that were asked for")

    async def file(self, digest: str, target: Path) -> None:
        await self._storage.retry(lambda: self._download(digest, target))

    async def save_checkpoint(self, files: Sequence[CollectedFile]) -> None:
        await self._upload(files)
        checkpoint = model_service_pb2.Checkpoint(
            job=self._spec.key.job, attempt=self._spec.key.attempt, files=[_file(file) for file in files]
        )
        request = model_service_pb2.SaveCheckpointRequest(checkpoint=checkpoint)
        await self._call(model_service_pb2_grpc.ModelServiceStub, "SaveCheckpoint", request)

    async def load_checkpoint(self, folder: Path) -> bool:
        request = model_service_pb2.GetCheckpointRequest(job=self._spec.key.job)
        response = await self._call(model_service_pb2_grpc.ModelServiceStub, "GetCheckpoint", request)
        if not response.HasField("checkpoint"):
            return False
        await asyncio.to_thread(folder.mkdir)
        for file in response.checkpoint.files:
            if not FILENAME.fullmatch(file.filename):
                raise DataLoss(f"the checkpoint of {self._spec.key.job} has a file {file.filename!r}")
            await self.file(file.digest, folder / file.filename)
        return True

    async def save_artifacts(self, files: Sequence[CollectedFile]) -> tuple[StoredFile, ...]:
        await self._upload(files)
        return tuple(StoredFile(file.filename, file.digest, file.size) for file in files)

    async def _dataset(self) -> LabelledDataset:
        name = self._spec.dataset_version
        request = dataset_service_pb2.GetDatasetVersionRequest(name=name)
        stub = dataset_service_pb2_grpc.DatasetServiceStub(await self._storage.channel())
        response = await stub.GetDatasetVersion(request, metadata=self._metadata, timeout=CALL_SECONDS)
        version = response.dataset_version
        if (known := self._storage.known(version.uid)) is not None:
            return known
        items = dataset_service_pb2.ReadDatasetItemsRequest(name=version.name)
        dataset = await read_items(version, stub.ReadDatasetItems(items, metadata=self._metadata))
        self._storage.remember(version.uid, dataset)
        return dataset

    async def _image(self) -> bytes:
        request = algorithm_service_pb2.DownloadAlgorithmVersionRequest(name=self._spec.algorithm_version)
        stub = algorithm_service_pb2_grpc.AlgorithmServiceStub(await self._storage.channel())
        packed = bytearray()
        async for response in stub.DownloadAlgorithmVersion(request, metadata=self._metadata):
            packed += response.chunk
            if len(packed) > MAX_IMAGE_BYTES:
                raise ResourceExhausted(
                    f"{self._spec.algorithm_version} is larger than {MAX_IMAGE_BYTES} bytes",
                    limit="algorithm_image_bytes",
                    value=MAX_IMAGE_BYTES,
                )
        return bytes(packed)

    async def _pieces(self, digests: Sequence[str]) -> AsyncIterator[Any]:
        request = blob_service_pb2.DownloadBlobsRequest(parent=self._parent, digests=digests)
        stub = blob_service_pb2_grpc.BlobServiceStub(await self._storage.channel())
        async for response in stub.DownloadBlobs(request, metadata=self._metadata):
            for piece in response.pieces:
                yield piece

    async def _files(self, digests: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        data = bytearray()
        async for piece in self._pieces(digests):
            if piece.offset != len(data):
                raise DataLoss(f"storage sent {piece.digest} with a gap", digest=piece.digest)
            if piece.offset == 0 and len(piece.data) == piece.size:
                yield piece.digest, piece.data
                continue
            data += piece.data
            if len(data) >= piece.size:
                yield piece.digest, bytes(data)
                data.clear()

    async def _download(self, digest: str, target: Path) -> None:
        received = hashlib.sha256()
        with target.open("wb") as stream:
            async for piece in self._pieces([digest]):
                stream.write(piece.data)
                received.update(piece.data)
        if received.hexdigest() != digest:
            raise DigestMismatch("storage sent another file", announced=digest, received=received.hexdigest())

    async def _reachable(self) -> None:
        request = blob_service_pb2.FindMissingBlobsRequest(parent=self._parent)
        stub = blob_service_pb2_grpc.BlobServiceStub(await self._storage.channel())
        await stub.FindMissingBlobs(request, metadata=self._metadata, timeout=CALL_SECONDS)

    async def _upload(self, files: Sequence[CollectedFile]) -> None:
        digests = list({file.digest: None for file in files})
        request = blob_service_pb2.FindMissingBlobsRequest(parent=self._parent, digests=digests)
        response = await self._call(blob_service_pb2_grpc.BlobServiceStub, "FindMissingBlobs", request)
        by_digest = {file.digest: file for file in files}
        for digest in response.digests:
            file = by_digest[digest]
            await self._storage.retry(lambda file=file: self._upload_one(file))

    async def _upload_one(self, file: CollectedFile) -> None:
        stub = blob_service_pb2_grpc.BlobServiceStub(await self._storage.channel())
        asked = blob_service_pb2.QueryUploadRequest(parent=self._parent, digest=file.digest)
        held = await stub.QueryUpload(asked, metadata=self._metadata, timeout=CALL_SECONDS)
        if not held.complete:
            await stub.UploadBlob(self._parts(file, held.committed_size), metadata=self._metadata)

    async def _parts(self, file: CollectedFile, offset: int) -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
        part = blob_service_pb2.UploadBlobRequest
        header = blob_service_pb2.UploadBlobHeader(
            parent=self._parent, digest=file.digest, size=file.size, offset=offset
        )
        yield part(header=header)
        with file.path.open("rb") as stream:
            stream.seek(offset)
            while block := await asyncio.to_thread(stream.read, CHUNK):
                yield part(chunk=block)
        yield part(closing=blob_service_pb2.UploadBlobClosing(digest=file.digest, size=file.size))

    async def _call(self, stub: type, method: str, request: Any) -> Any:
        async def once() -> Any:
            call = getattr(stub(await self._storage.channel()), method)
            return await call(request, metadata=self._metadata, timeout=CALL_SECONDS)

        return await self._storage.retry(once)


async def read_items(version: dataset_pb2.DatasetVersion, responses: AsyncIterator[Any]) -> LabelledDataset:
    """Put a version's stream of items into columns. Raises DataLoss when they are not the version's."""
    labels = [label.label for label in version.labels]
    index = {label: number for number, label in enumerate(labels)}
    digests: list[str] = []
    classes: list[int] = []
    splits: list[int] = []
    async for response in responses:
        for item in response.items:
            if item.label not in index or item.split not in SPLITS:
                raise DataLoss(f"{version.name} has an item that does not belong to it", digest=item.digest)
            digests.append(item.digest)
            classes.append(index[item.label])
            splits.append(SPLITS[item.split])
    if len(digests) != version.picture_count:
        raise DataLoss(f"{version.name} has {version.picture_count} pictures; storage sent {len(digests)}")
    return LabelledDataset(
        version.name, labels, np.array(classes, dtype=np.int32), np.array(splits, dtype=np.uint8), digests
    )


def _file(file: CollectedFile) -> model_pb2.ModelFile:
    return model_pb2.ModelFile(filename=file.filename, digest=file.digest, size=file.size)
