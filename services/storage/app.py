"""The composition root of storage: the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import obstore.store

from loupe import database
from loupe.app import MeshApp
from loupe.audit_log import AuditLog
from loupe.byte_budget import ByteBudget
from loupe.common.v1.audit_service_pb2_grpc import add_AuditServiceServicer_to_server
from loupe.errors import FailedPrecondition
from loupe.idempotency import RequestLog
from loupe.limits import MAX_MESSAGE_BYTES
from loupe.rpc.audit_servicer import AuditServicer
from loupe.rpc.server import Registration
from loupe.storage.v1.algorithm_service_pb2_grpc import add_AlgorithmServiceServicer_to_server
from loupe.storage.v1.blob_service_pb2_grpc import add_BlobServiceServicer_to_server
from loupe.storage.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from loupe.storage.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from loupe.storage.v1.project_service_pb2_grpc import add_ProjectServiceServicer_to_server
from services.storage.algorithms.deletion import AlgorithmDeletion
from services.storage.algorithms.library import Algorithms
from services.storage.algorithms.servicer import AlgorithmServicer
from services.storage.blobs.blobs import Blobs
from services.storage.blobs.downloads import Downloads
from services.storage.blobs.fences import Fences
from services.storage.blobs.servicer import BlobServicer
from services.storage.blobs.staging import Staging
from services.storage.blobs.store import BlobTable
from services.storage.blobs.uploads import BlobUploads
from services.storage.clients.auth import AuthMemberships, Memberships
from services.storage.collection.collector import Collector, Keeping
from services.storage.database.session import Database, Session
from services.storage.datasets.datasets import Datasets
from services.storage.datasets.deletion import DatasetDeletion
from services.storage.datasets.differences import Differences
from services.storage.datasets.servicer import DatasetServicer
from services.storage.datasets.store import DatasetTable
from services.storage.datasets.versions import DatasetVersions
from services.storage.files.disk import Disk
from services.storage.files.files import Files, LocalFiles, ObjectFiles
from services.storage.models.checkpoints import Checkpoints
from services.storage.models.deletion import ModelDeletion
from services.storage.models.library import Models
from services.storage.models.servicer import ModelServicer
from services.storage.models.store import ModelTable
from services.storage.pictures.compaction import Compaction
from services.storage.pictures.decoders import Decoders
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.packs import Packs
from services.storage.pictures.store import PictureTable
from services.storage.pictures.uploads import PictureUploads
from services.storage.projects.deletion import ProjectDeletion
from services.storage.projects.projects import Projects
from services.storage.projects.quotas import Parts, Quota
from services.storage.projects.servicer import ProjectServicer
from services.storage.projects.usage import Quotas, Usages
from services.storage.settings import StorageSettings

# The first messages of calls are read apart from the parts of streams: neither keeps the other waiting.
_FIRST_BYTES = 8 * MAX_MESSAGE_BYTES
_FIRST_SECONDS = 2.0
_DAY = 24 * 3600.0


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
        state = settings.state
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        disk = disk or Disk(settings.reserve_bytes)
        files = _files(settings, disk)
        url = settings.database_url or database.sqlite_url(state, "storage")
        self.database = Database(database.create_engine(url), RequestLog(now))
        self.audit = AuditLog(self.database, lambda session: session.connection, now=now)
        self.first_messages = ByteBudget(_FIRST_BYTES, 2 * MAX_MESSAGE_BYTES, _FIRST_SECONDS)
        self._coming = _budget(settings.upload_bytes, settings.stalled_seconds)
        self._lock = state / "lock"
        self._packs = Packs(state / "open", files, disk, self.database, settings.pack_bytes)
        self._decoders = decoders or Decoders(settings.decoding_processes)
        self._indexer = Indexer(self.database, self._packs, self._decoders)
        self._staging = Staging(state / "staging" / "blobs", disk, now)
        kept_seconds = settings.keep_deleted_days * _DAY
        quotas = Quotas(Quota(settings.max_project_pictures, settings.max_project_bytes))
        self.blobs = Blobs(self.database, files, quotas, now)
        self.blob_uploads = BlobUploads(self.blobs, self._staging, settings.max_blob_bytes)
        self.picture_uploads = PictureUploads(self.database, self._packs, self._indexer, quotas)
        self.downloads = Downloads(
            self.database, self._packs, files, _budget(settings.download_bytes, settings.stalled_seconds), now
        )
        self.algorithms = Algorithms(self.database, files, disk, staging=state / "staging" / "algorithms", now=now)
        self._algorithm_deletion = AlgorithmDeletion(self.database, kept_seconds, now)
        self._projects = Projects(self.database, memberships, now)
        self._project_deletion = ProjectDeletion(self.database, kept_seconds, now)
        self._usages = Usages(self.database, quotas, _parts)
        self._datasets = Datasets(self.database, now)
        self._versions = DatasetVersions(self.database, self._indexer, now)
        self._differences = Differences(self.database)
        self._dataset_deletion = DatasetDeletion(self.database, kept_seconds, now)
        self._models = Models(self.database, now)
        self._model_deletion = ModelDeletion(self.database, kept_seconds, now)
        self.checkpoints = Checkpoints(self.database, self.blobs)
        compaction = Compaction(self._packs, files, disk, self.database, settings.pack_bytes)
        keeping = Keeping(settings.keep_unnamed_days * _DAY, settings.keep_unnamed_blobs_days * _DAY)
        self.collector = Collector(
            self.database,
            memberships,
            self.algorithms,
            self.blobs,
            self._staging,
            compaction=compaction,
            keeping=keeping,
            now=now,
        )
        self._closing = AsyncExitStack()

    def registrations(self) -> list[Registration]:
        """Return the gRPC services, for a MeshServer."""
        blobs = BlobServicer(self.picture_uploads, self.blobs, self.blob_uploads, self.downloads, self._coming)
        datasets = DatasetServicer(
            self._datasets, self._versions, self._differences, self._dataset_deletion, self._coming
        )
        models = ModelServicer(
            self._models, self._model_deletion, self.checkpoints, Fences(self.database), self.downloads
        )
        projects = ProjectServicer(self._projects, self._project_deletion, self._usages)
        algorithms = AlgorithmServicer(self.algorithms, self._algorithm_deletion, self._coming)
        return [
            (add_ProjectServiceServicer_to_server, projects),
            (add_BlobServiceServicer_to_server, blobs),
            (add_DatasetServiceServicer_to_server, datasets),
            (add_AlgorithmServiceServicer_to_server, algorithms),
            (add_ModelServiceServicer_to_server, models),
            (add_AuditServiceServicer_to_server, AuditServicer(self.audit)),
        ]

    async def start(self) -> None:
        """Make the schema if need be, and bring files and tables together after whatever happened before.

        Raises FailedPrecondition when another process works in this folder.
        """
        closing = self._closing
        closing.callback(os.close, _lock_folder(self._lock))
        closing.push_async_callback(self.database.close)
        await self.database.migrate()
        closing.push_async_callback(self._packs.close)
        await self._packs.recover()
        await self.blobs.recover()
        await asyncio.to_thread(self._staging.remove_old)
        await self.algorithms.recover()
        closing.push_async_callback(self._decoders.close)
        closing.push_async_callback(self._indexer.close)
        await self._indexer.start()

    async def stop(self) -> None:
        """End background work and close everything."""
        await self._closing.aclose()


class StorageApp(MeshApp[StorageSettings]):
    """One storage process, built from its settings."""

    service = "storage"
    max_message_bytes = MAX_MESSAGE_BYTES

    def __init__(self, settings: StorageSettings) -> None:
        super().__init__(settings)
        self._storage = Storage(settings, AuthMemberships(self.auth))
        self.serves(self._storage.registrations(), budget=self._storage.first_messages, recorder=self._storage.audit)

    async def start(self) -> None:
        """Recover, serve, and register in Consul."""
        self.closing.push_async_callback(self._storage.stop)
        await self._storage.start()
        self.work("audit", self._storage.audit.keep(self.settings.audit_days))
        self.work("collector", self._storage.collector.keep(self.settings.collect_seconds))
        await self.open_doors()
        await self.register(self.settings.instance)


def _budget(total: int, stalled_seconds: float) -> ByteBudget:
    return ByteBudget(total, total // 2, stalled_seconds)


async def _parts(session: Session, project: str) -> Parts:
    dataset_versions, deleted_dataset_versions = await DatasetTable(session).version_count(project)
    model_versions, deleted_model_versions = await ModelTable(session).version_count(project)
    return Parts(
        held=await BlobTable(session).held(project),
        dataset_versions=dataset_versions,
        model_versions=model_versions,
        deleted_dataset_versions=deleted_dataset_versions,
        deleted_model_versions=deleted_model_versions,
        unnamed=await PictureTable(session).marked(project),
        dead_bytes=await PictureTable(session).dead_bytes(project),
    )


def _files(settings: StorageSettings, disk: Disk) -> Files:
    if settings.objects_url:
        return ObjectFiles(obstore.store.from_url(settings.objects_url))
    return LocalFiles(settings.state / "files", disk)


def _lock_folder(path: os.PathLike[str]) -> int:
    """Keep a second process out of the folder: it would write over the first one's packs, which have one writer."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise FailedPrecondition(f"another storage process works in {path}; stop it first", resource=path) from error
    return descriptor
