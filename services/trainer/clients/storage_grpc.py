"""Storage over gRPC, as one attempt sees it: every call carries the attempt's token."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np

from loupe.algorithm.host import Split
from loupe.algorithm.region_file import RECORD, of_records
from loupe.annotations import BadAnnotation, Box, box
from loupe.backoff import Backoff
from loupe.errors import DataLoss, DigestMismatch, ResourceExhausted, Unavailable, UploadIncomplete
from loupe.limits import MAX_DIGESTS, MAX_IMAGE_BYTES
from loupe.names import project_of
from loupe.storage.v1 import (
    algorithm_service_pb2,
    blob_service_pb2,
    dataset_pb2,
    dataset_service_pb2,
    model_pb2,
    model_service_pb2,
)
from loupe.storage.v1.algorithm_service_pb2_grpc import AlgorithmServiceStub
from loupe.storage.v1.blob_service_pb2_grpc import BlobServiceStub
from loupe.storage.v1.dataset_service_pb2_grpc import DatasetServiceStub
from loupe.storage.v1.model_service_pb2_grpc import ModelServiceStub
from services.trainer.clients.storage import FILENAME, LabelledDataset, LocalFile, StoredFile

CHUNK = 1 << 20
CALL_SECONDS = 20.0
AWAY_SECONDS = 60.0
KEPT_DATASETS = 8
SPLITS = {
    dataset_pb2.SPLIT_TRAIN: Split.TRAIN,
    dataset_pb2.SPLIT_VALIDATION: Split.VALIDATION,
    dataset_pb2.SPLIT_TEST: Split.TEST,
}

Channels = Callable[[], Awaitable[grpc.aio.Channel]]
Request = TypeVar("Request")
T = TypeVar("T")


class GrpcStorage:
    """Storage behind a channel that is looked up for each call.

    timeout: how many seconds it may be away before a call fails as Unavailable.
    """

    def __init__(self, channel: Channels, timeout: float = AWAY_SECONDS) -> None:
        self.channel = channel
        self._timeout = timeout
        self._datasets: OrderedDict[str, LabelledDataset] = OrderedDict()

    def of(self, job: str, attempt: int, token: Callable[[], str]) -> GrpcAttemptStorage:
        return GrpcAttemptStorage(self, job, attempt, token)

    async def retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call again while storage is away, or an upload was cut, until the timeout.

        Two jobs that make the same bytes cut each other's uploads; whoever asks again finds the blob complete.
        """
        paused = 0.0

        async def pause(seconds: float) -> None:
            nonlocal paused
            paused += seconds
            await asyncio.sleep(seconds)

        # Only the pauses count: an upload that took minutes until it was cut was no silence.
        backoff = Backoff(self._timeout, clock=lambda: paused, sleep=pause)
        while True:
            try:
                return await call()
            except (Unavailable, UploadIncomplete) as error:
                await backoff.wait(error)

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

    def __init__(self, storage: GrpcStorage, job: str, attempt: int, token: Callable[[], str]) -> None:
        self._storage = storage
        self._job = job
        self._attempt = attempt
        self._parent = str(project_of(job))
        self._token = token

    async def dataset(self, version: str) -> LabelledDataset:
        return await self._storage.retry(partial(self._read_dataset, version))

    async def image(self, version: str) -> bytes:
        return await self._storage.retry(partial(self._download_image, version))

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
                await self._missing([])
            else:
                if len(left) == before:
                    raise DataLoss(f"storage sent none of {before} pictures that were asked for")

    async def file(self, digest: str, target: Path) -> None:
        await self._storage.retry(partial(self._download, digest, target))

    async def save_checkpoint(self, files: Sequence[LocalFile]) -> None:
        await self._upload(files)
        checkpoint = model_service_pb2.Checkpoint(
            job=self._job, attempt=self._attempt, files=[_model_file(file) for file in files]
        )
        request = model_service_pb2.SaveCheckpointRequest(checkpoint=checkpoint)
        await self._call(lambda channel: ModelServiceStub(channel).SaveCheckpoint, request)

    async def load_checkpoint(self, folder: Path) -> str:
        request = model_service_pb2.GetCheckpointRequest(job=self._job)
        response = await self._call(lambda channel: ModelServiceStub(channel).GetCheckpoint, request)
        if not response.HasField("checkpoint"):
            return ""
        await asyncio.to_thread(folder.mkdir)
        for file in response.checkpoint.files:
            if not FILENAME.fullmatch(file.filename):
                raise DataLoss(f"the checkpoint of {self._job} has a file {file.filename!r}")
            await self.file(file.digest, folder / file.filename)
        return response.checkpoint.job

    async def save_artifacts(self, files: Sequence[LocalFile]) -> tuple[StoredFile, ...]:
        await self._upload(files)
        return tuple(StoredFile(file.filename, file.digest, file.size) for file in files)

    async def _read_dataset(self, name: str) -> LabelledDataset:
        request = dataset_service_pb2.GetDatasetVersionRequest(name=name)
        stub = DatasetServiceStub(await self._storage.channel())
        response = await stub.GetDatasetVersion(request, metadata=self._metadata, timeout=CALL_SECONDS)
        version = response.dataset_version
        if (known := self._storage.known(version.uid)) is not None:
            return known
        items = dataset_service_pb2.ReadDatasetItemsRequest(name=version.name)
        dataset = await read_items(version, stub.ReadDatasetItems(items, metadata=self._metadata))
        self._storage.remember(version.uid, dataset)
        return dataset

    async def _download_image(self, version: str) -> bytes:
        request = algorithm_service_pb2.DownloadAlgorithmVersionRequest(name=version)
        stub = AlgorithmServiceStub(await self._storage.channel())
        packed = bytearray()
        async for response in stub.DownloadAlgorithmVersion(request, metadata=self._metadata):
            packed += response.chunk
            if len(packed) > MAX_IMAGE_BYTES:
                raise ResourceExhausted(
                    f"{version} is larger than {MAX_IMAGE_BYTES} bytes",
                    limit="algorithm_image_bytes",
                    value=MAX_IMAGE_BYTES,
                )
        return bytes(packed)

    async def _chunks(self, digests: Sequence[str]) -> AsyncIterator[blob_service_pb2.BlobPiece]:
        request = blob_service_pb2.DownloadBlobsRequest(parent=self._parent, digests=digests)
        stub = BlobServiceStub(await self._storage.channel())
        async for response in stub.DownloadBlobs(request, metadata=self._metadata):
            for chunk in response.pieces:
                yield chunk

    async def _files(self, digests: Sequence[str]) -> AsyncIterator[tuple[str, bytes]]:
        data = bytearray()
        async for chunk in self._chunks(digests):
            if chunk.offset != len(data):
                raise DataLoss(f"storage sent {chunk.digest} with a gap", digest=chunk.digest)
            if chunk.offset == 0 and len(chunk.data) == chunk.size:
                yield chunk.digest, chunk.data
                continue
            data += chunk.data
            if len(data) >= chunk.size:
                yield chunk.digest, bytes(data)
                data.clear()

    async def _download(self, digest: str, target: Path) -> None:
        received = hashlib.sha256()
        with target.open("wb") as stream:
            async for chunk in self._chunks([digest]):
                stream.write(chunk.data)
                received.update(chunk.data)
        if received.hexdigest() != digest:
            raise DigestMismatch("storage sent another file", announced=digest, received=received.hexdigest())

    async def _missing(self, digests: Sequence[str]) -> Sequence[str]:
        request = blob_service_pb2.FindMissingBlobsRequest(parent=self._parent, digests=digests)
        return (await self._call(lambda channel: BlobServiceStub(channel).FindMissingBlobs, request)).digests

    async def _upload(self, files: Sequence[LocalFile]) -> None:
        by_digest = {file.digest: file for file in files}
        for digest in await self._missing(list(by_digest)):
            await self._storage.retry(partial(self._upload_one, by_digest[digest]))

    async def _upload_one(self, file: LocalFile) -> None:
        stub = BlobServiceStub(await self._storage.channel())
        asked = blob_service_pb2.QueryUploadRequest(parent=self._parent, digest=file.digest)
        held = await stub.QueryUpload(asked, metadata=self._metadata, timeout=CALL_SECONDS)
        if not held.complete:
            await stub.UploadBlob(self._parts(file, held.committed_size), metadata=self._metadata)

    async def _parts(self, file: LocalFile, offset: int) -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
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

    async def _call(
        self, method: Callable[[grpc.aio.Channel], grpc.aio.UnaryUnaryMultiCallable[Request, T]], request: Request
    ) -> T:
        async def once() -> T:
            call = method(await self._storage.channel())
            return await call(request, metadata=self._metadata, timeout=CALL_SECONDS)

        return await self._storage.retry(once)

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token()}"),)


async def read_items(
    version: dataset_pb2.DatasetVersion, responses: AsyncIterable[dataset_service_pb2.ReadDatasetItemsResponse]
) -> LabelledDataset:
    """Put a version's stream of items into columns. Raises DataLoss when they are not the version's."""
    index = {label.label: number for number, label in enumerate(version.labels)}
    columns = _Columns(index)
    async for response in responses:
        for item in response.items:
            try:
                columns.add(item)
            except (KeyError, BadAnnotation) as error:
                raise DataLoss(
                    f"{version.name} has an item that does not belong to it: {error}", digest=item.digest
                ) from error
    if len(columns.digests) != version.picture_count:
        raise DataLoss(f"{version.name} has {version.picture_count} pictures; storage sent {len(columns.digests)}")
    return columns.dataset(version.name)


class _Columns:
    """Gathers the items of a version. index: the number of each class."""

    def __init__(self, index: Mapping[str, int]) -> None:
        self._index = index
        self.digests: list[str] = []
        self._items: list[tuple[int, int, bool, int, int]] = []
        self._regions: list[tuple[int, int, Box, float]] = []

    def add(self, item: dataset_pb2.DatasetItem) -> None:
        """Add an item. Raises KeyError for a class or a split that is none here, BadAnnotation."""
        looked_at = item.nothing_there or bool(item.annotations)
        kind = self._index[item.label] if item.label else -1
        split = SPLITS[item.split] if item.label or looked_at else Split.UNLABELLED
        row = len(self.digests)
        self._regions += [(row, self._index[each.label], _bounds(each), 0.0) for each in item.annotations]
        self._items.append((kind, split, looked_at, item.width, item.height))
        self.digests.append(item.digest)

    def dataset(self, name: str) -> LabelledDataset:
        """Return what was added."""
        kinds, splits, looked_at, *sides = np.array(self._items, np.int64).reshape(-1, 5).T
        return LabelledDataset(
            name,
            list(self._index),
            kinds.astype(np.int32),
            splits.astype(np.uint8),
            self.digests,
            of_records(np.array(self._regions, RECORD)),
            looked_at.astype(bool),
            np.stack(sides, axis=1).astype(np.int32),
        )


def _bounds(annotation: dataset_pb2.Annotation) -> Box:
    """Return the box around an annotation. Raises BadAnnotation."""
    edges, corners = annotation.box, annotation.polygon.coordinates
    if annotation.WhichOneof("region") == "polygon":
        xs, ys = corners[::2] or [0.0], corners[1::2] or [0.0]
        return box(annotation.label, (min(xs), min(ys), max(xs), max(ys))).bounds
    return box(annotation.label, (edges.x_min, edges.y_min, edges.x_max, edges.y_max)).bounds


def _model_file(file: LocalFile) -> model_pb2.ModelFile:
    return model_pb2.ModelFile(filename=file.filename, digest=file.digest, size=file.size)
