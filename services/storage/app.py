"""The composition root of storage: the only file that names concrete adapters."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable

import obstore.store
import structlog

from loupe import database
from loupe.app import Background
from loupe.auth.v1 import session_service_pb2, session_service_pb2_grpc
from loupe.discovery import Discovery
from loupe.errors import FailedPrecondition
from loupe.idempotency import RequestLog
from loupe.identity import JwksVerifier
from loupe.rpc.authorizer import RemoteAuthorizer
from loupe.rpc.channel import ServiceChannels
from loupe.rpc.server import MeshServer, Registration
from loupe.storage.v1 import (
    algorithm_service_pb2_grpc,
    blob_service_pb2_grpc,
    dataset_service_pb2_grpc,
    model_service_pb2_grpc,
    project_service_pb2_grpc,
)
from services.storage.algorithms.library import Algorithms
from services.storage.algorithms.servicer import AlgorithmServicer
from services.storage.blobs.disk import Disk
from services.storage.blobs.downloads import Downloads
from services.storage.blobs.fences import Fences
from services.storage.blobs.files import Files, LocalFiles, ObjectFiles
from services.storage.blobs.packs import Packs
from services.storage.blobs.servicer import BlobServicer
from services.storage.blobs.uploads import Blobs
from services.storage.clients.auth import AuthMemberships
from services.storage.database.session import Database
from services.storage.datasets.datasets import Datasets
from services.storage.datasets.servicer import DatasetServicer
from services.storage.datasets.versions import DatasetVersions
from services.storage.models.checkpoints import Checkpoints
from services.storage.models.library import Models
from services.storage.models.servicer import ModelServicer
from services.storage.pictures.decoders import Decoders
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.uploads import PictureUploads
from services.storage.projects.projects import Memberships, Projects
from services.storage.projects.servicer import ProjectServicer
from services.storage.settings import StorageSettings

log = structlog.get_logger(__name__)

_CALL_SECONDS = 5


class Storage:
    """What this service does, over one folder and one database.

    Files below `state`: storage.db, open/ (packs that grow), files/ (finished packs, blobs, images), staging/.
    """

    def __init__(
        self,
        settings: StorageSettings,
        memberships: Memberships,
        *,
        disk: Disk | None = None,
        decoders: Decoders | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._state = settings.state
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk = disk or Disk(settings.reserve_bytes)
        url = settings.database_url or database.sqlite_url(settings.state, "storage")
        self.database = Database(database.create_engine(url), RequestLog(now))
        files = _files(settings, disk)
        staging = settings.state / "staging"
        self._packs = Packs(settings.state / "open", files, disk, self.database, settings.pack_bytes)
        self._decoders = decoders or Decoders(settings.decoding_processes)
        self._indexer = Indexer(self.database, self._packs, self._decoders)
        self.blobs = Blobs(
            self.database, files, disk, staging=staging / "blobs", max_bytes=settings.max_blob_bytes, now=now
        )
        self._algorithms = Algorithms(self.database, files, disk, staging=staging / "algorithms", now=now)
        self.downloads = Downloads(self.database, self._packs, files)
        self.uploads = PictureUploads(self.database, self._packs, self._indexer)
        self._projects = Projects(self.database, memberships, now)
        self._datasets = Datasets(self.database, now)
        self._versions = DatasetVersions(self.database, self._indexer, now)
        self._models = Models(self.database, now)
        self._lock: int | None = None

    def registrations(self) -> list[Registration]:
        """Return the gRPC services, for a MeshServer."""
        checkpoints, fences = Checkpoints(self.database, self.blobs), Fences(self.database)
        return [
            (
                project_service_pb2_grpc.add_ProjectServiceServicer_to_server,
                ProjectServicer(self._projects),
            ),
            (
                blob_service_pb2_grpc.add_BlobServiceServicer_to_server,
                BlobServicer(self.uploads, self.blobs, self.downloads),
            ),
            (
                dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server,
                DatasetServicer(self._datasets, self._versions),
            ),
            (
                algorithm_service_pb2_grpc.add_AlgorithmServiceServicer_to_server,
                AlgorithmServicer(self._algorithms),
            ),
            (
                model_service_pb2_grpc.add_ModelServiceServicer_to_server,
                ModelServicer(self._models, checkpoints, fences, self.downloads),
            ),
        ]

    async def start(self) -> None:
        """Make the schema if need be, and bring files and tables together after whatever happened before.

        Raises FailedPrecondition when another process works in this folder.
        """
        self._lock = _lock_folder(self._state / "lock")
        await self.database.migrate()
        await self._packs.recover()
        await self.blobs.recover()
        await self._algorithms.recover()
        self._indexer.start()

    async def stop(self) -> None:
        """End background work and close everything."""
        await self._indexer.close()
        await self._decoders.close()
        await self._packs.close()
        await self.database.close()
        if self._lock is not None:
            os.close(self._lock)


class StorageApp:
    """One storage process, built from its settings."""

    def __init__(self, settings: StorageSettings) -> None:
        self.settings = settings
        self.background = Background()
        self._discovery = Discovery(settings)
        self._channels = ServiceChannels(settings, self._discovery)
        self._authorizer = RemoteAuthorizer(lambda: self._channels.get("auth"))
        self._storage = Storage(settings, AuthMemberships(lambda: self._channels.get("auth")))
        self.server = MeshServer(
            settings,
            verifier=JwksVerifier(self._jwks),
            authorizer=self._authorizer,
            servicers=self._storage.registrations(),
        )

    async def _jwks(self) -> str:
        stub = session_service_pb2_grpc.SessionServiceStub(await self._channels.get("auth"))
        return (await stub.GetJwks(session_service_pb2.GetJwksRequest(), timeout=_CALL_SECONDS)).jwks_json

    async def start(self) -> None:
        """Recover, serve, and registers in Consul."""
        settings = self.settings
        await self._storage.start()
        await self.server.start()
        self._authorizer.start()
        await self._discovery.register(
            "loupe-storage",
            settings.instance,
            f"{settings.advertised}:{settings.public_port}",
            f"{settings.advertised}:{settings.internal_port}",
        )

    async def stop(self) -> None:
        """Leave the catalogue, let running calls end and close everything."""
        await self._discovery.close()
        await self.server.stop()
        await self._authorizer.close()
        await self._channels.close()
        await self._storage.stop()


def _files(settings: StorageSettings, disk: Disk) -> Files:
    if settings.objects_url:
        return ObjectFiles(obstore.store.from_url(settings.objects_url))
    return LocalFiles(settings.state / "files", disk)


def _lock_folder(path: os.PathLike[str]) -> int:
    """Packs have one writer: a second process in the same folder would write over the first one's pictures."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FailedPrecondition(f"another storage process works in {path}; stop it first", resource=path) from error
    return descriptor
