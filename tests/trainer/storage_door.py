"""Storage as an attempt sees it, in memory behind real gRPC and TLS, failing on demand; and an attempt that uses it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from loupe.access import Decision
from loupe.errors import LoupeError, StaleAttempt, Unauthenticated, Unavailable
from loupe.identity import AttemptGrant, Caller, current_caller
from loupe.names import AccountName, JobName
from loupe.rpc.server import MeshServer
from loupe.settings import ServiceSettings
from loupe.storage.v1 import (
    algorithm_service_pb2,
    algorithm_service_pb2_grpc,
    blob_service_pb2,
    blob_service_pb2_grpc,
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from loupe.tasks.messages import pack_objective
from loupe.tasks.objective import Objective
from loupe.trainer.v1 import attempt_pb2
from services.trainer.attempts.spec import AttemptKey, AttemptSpec
from tests.trainer.fakes import ALGORITHM, JOB, MemoryStorage

DATASET = "projects/line-7/datasets/screws/versions/1"
TOKEN = "attempt-token"

ALGORITHM_CODE = """
import json
from loupe.algorithm.host import Outcome, Progress, Result
import numpy as np

def train(host):
    spec = host.spec()
    pixels = np.load(host.pictures(4, 4), mmap_mode="r")
    (host.work / "c").mkdir()
    (host.work / "c" / "state.json").write_text(json.dumps({"round": 1}))
    host.save_checkpoint(host.work / "c")
    host.report(Progress("head", epoch=1, metrics={"validation_accuracy": 0.95}))
    (host.work / "model.onnx").write_bytes(b"x" * 3_000_000)
    answers = np.zeros(np.count_nonzero(spec.dataset.splits == 2), int)
    report = {"pictures": len(pixels), "truth": host.reveal_test(answers), "rounds": spec.parameters["rounds"]}
    host.finish(Result(Outcome.TARGET_REACHED, {"model.onnx": host.work / "model.onnx"}, report))
"""


@dataclass
class Storage:
    """Serves a MemoryStorage over gRPC to attempts, and fails on demand."""

    memory: MemoryStorage = field(default_factory=MemoryStorage)
    token: str = TOKEN
    while_saving: Callable[[], Awaitable[None]] | None = None
    away: int = 0
    cut_after: int | None = None
    cut: LoupeError = field(default_factory=lambda: Unavailable("cut", dependency="storage"))
    downloaded: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    address: str = ""

    def _enter(self) -> None:
        assert current_caller().attempt == AttemptGrant(JobName("line-7", "j1"), 1)
        if self.away:
            self.away -= 1
            raise Unavailable("storage is away", dependency="storage")

    async def GetDatasetVersion(self, request, context):
        self._enter()
        data = self.memory.datasets[request.name]
        labels = [dataset_pb2.LabelCount(label=label) for label in data.labels]
        version = dataset_pb2.DatasetVersion(
            name=request.name, uid="u1", labels=labels, picture_count=len(data.digests)
        )
        return dataset_service_pb2.GetDatasetVersionResponse(dataset_version=version)

    async def ReadDatasetItems(self, request, context):
        self._enter()
        data = self.memory.datasets[request.name]
        for digest, kind, split in zip(data.digests, data.classes, data.splits, strict=True):
            item = dataset_pb2.DatasetItem(digest=digest, label=data.labels[kind], split=int(split) + 1)
            yield dataset_service_pb2.ReadDatasetItemsResponse(items=[item])

    async def DownloadAlgorithmVersion(self, request, context):
        self._enter()
        (packed,) = self.memory.images.values()
        for start in range(0, len(packed), 1000):
            yield algorithm_service_pb2.DownloadAlgorithmVersionResponse(chunk=packed[start : start + 1000])

    async def FindMissingBlobs(self, request, context):
        self._enter()
        missing = [digest for digest in request.digests if digest not in self.uploads]
        return blob_service_pb2.FindMissingBlobsResponse(digests=missing)

    async def QueryUpload(self, request, context):
        self._enter()
        held = self.memory.files.get(request.digest, b"")
        return blob_service_pb2.QueryUploadResponse(committed_size=len(held))

    async def UploadBlob(self, requests, context):
        self._enter()
        header = (await anext(requests)).header
        data = bytearray(self.memory.files.get(header.digest, b"")[: header.offset])
        async for request in requests:
            data += request.chunk
            if self.cut_after is not None and len(data) > self.cut_after:
                self.memory.files[header.digest] = bytes(data)
                self.cut_after = None
                raise self.cut
        assert hashlib.sha256(data).hexdigest() == header.digest and len(data) == header.size
        self.uploads[header.digest] = bytes(data)
        return blob_service_pb2.UploadBlobResponse(digest=header.digest)

    async def DownloadBlobs(self, request, context):
        self._enter()
        for digest in request.digests:
            data = self.memory.pictures.get(digest) or self.uploads[digest]
            if self.cut_after is not None and len(self.downloaded) == self.cut_after:
                self.cut_after = None
                raise Unavailable("cut", dependency="storage")
            self.downloaded.append(digest)
            for start in range(0, len(data), 50):
                piece = blob_service_pb2.BlobPiece(
                    digest=digest, offset=start, size=len(data), data=data[start : start + 50]
                )
                yield blob_service_pb2.DownloadBlobsResponse(pieces=[piece])

    async def SaveCheckpoint(self, request, context):
        self._enter()
        if request.checkpoint.attempt < self.memory.fences.get(request.checkpoint.job, 0):
            raise StaleAttempt("too old")
        if self.while_saving is not None:
            await self.while_saving()
        self.memory.checkpoints[request.checkpoint.job] = request.checkpoint
        return model_service_pb2.SaveCheckpointResponse()

    async def GetCheckpoint(self, request, context):
        self._enter()
        return model_service_pb2.GetCheckpointResponse(checkpoint=self.memory.checkpoints.get(request.job))


class Verifier:
    """Takes one token: the attempt's."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def verify(self, token: str) -> Caller:
        if token != self._storage.token:
            raise Unauthenticated("no such token", problem="invalid")
        return Caller(account=AccountName("anna"), attempt=AttemptGrant(JobName("line-7", "j1"), 1))


class Allow:
    """Allows the submitter everything."""

    async def decide(self, account, project, action, login):
        return Decision(True, True, "projects/line-7/groups/g", 100, 0, True)

    def changed(self) -> asyncio.Event:
        return asyncio.Event()


def servicer(base: type, storage: Storage) -> object:
    """Return a generated servicer whose methods are the storage's."""
    methods = {name: getattr(storage, name) for name in dir(base) if name[0].isupper() and hasattr(storage, name)}
    return type("Servicer", (base,), {name: staticmethod(method) for name, method in methods.items()})()


@asynccontextmanager
async def serve_storage(settings: ServiceSettings) -> AsyncIterator[Storage]:
    """Give a storage that is up."""
    storage = Storage()
    server = MeshServer(
        settings,
        verifier=Verifier(storage),
        authorizer=Allow(),
        servicers=[
            (add, servicer(base, storage))
            for add, base in (
                (blob_service_pb2_grpc.add_BlobServiceServicer_to_server, blob_service_pb2_grpc.BlobServiceServicer),
                (
                    dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server,
                    dataset_service_pb2_grpc.DatasetServiceServicer,
                ),
                (
                    algorithm_service_pb2_grpc.add_AlgorithmServiceServicer_to_server,
                    algorithm_service_pb2_grpc.AlgorithmServiceServicer,
                ),
                (
                    model_service_pb2_grpc.add_ModelServiceServicer_to_server,
                    model_service_pb2_grpc.ModelServiceServicer,
                ),
            )
        ],
    )
    await server.start()
    storage.address = f"127.0.0.1:{settings.internal_port}"
    yield storage
    await server.stop()


def attempt_spec(storage: Storage, folder, code: str = ALGORITHM_CODE) -> AttemptSpec:
    storage.memory.add_dataset(DATASET, [0, 200, 30, 220, 60, 240])
    return AttemptSpec(
        key=AttemptKey(JOB, 1),
        dataset_version=DATASET,
        algorithm_version=ALGORITHM,
        algorithm_digest=storage.memory.add_image(folder / "source", code),
        objective=Objective("accuracy", 0.9),
        storage_token=TOKEN,
        built_in=True,
    )


def message(spec: AttemptSpec) -> attempt_pb2.AttemptSpec:
    result = attempt_pb2.AttemptSpec(
        key={"job": spec.key.job, "attempt": spec.key.attempt},
        dataset_version=spec.dataset_version,
        algorithm_version=spec.algorithm_version,
        algorithm_digest=spec.algorithm_digest,
        built_in=spec.built_in,
        objective=pack_objective(spec.objective),
        storage_token=spec.storage_token,
    )
    result.parameters["rounds"] = 5
    return result
