"""A storage service inside the test, behind real TLS, with an auth that is made up; and a client for it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import grpc
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from loupe.access import DEFAULT_THRESHOLDS, Decision
from loupe.errors import Unauthenticated, Unavailable
from loupe.identity import AttemptGrant, Caller
from loupe.names import SYSTEM, AccountName, JobName, ProjectName
from loupe.rpc.channel import internal_channel, terminal_channel
from loupe.rpc.server import MeshServer
from loupe.settings import ServiceSettings
from loupe.storage.v1 import (
    algorithm_service_pb2_grpc,
    blob_service_pb2,
    blob_service_pb2_grpc,
    dataset_pb2,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
)
from services.storage.app import Storage
from services.storage.database.session import MIGRATIONS
from services.storage.files.disk import Disk
from services.storage.pictures.decoders import Decoders
from services.storage.projects.store import ProjectTable
from services.storage.settings import StorageSettings
from tests.cutting_proxy import CuttingProxy
from tests.storage.photographs import sha256

LINE, OTHER = "projects/line-7", "projects/other"
ATTEMPT = re.compile(r"attempt (projects/[a-z0-9-]+/jobs/[a-z0-9-]+) (\d+)")


class SharedDecoders(Decoders):
    """Decoders that all tests of a run share, because starting a process takes longer than most tests."""

    async def close(self) -> None:
        """They end with the run."""


SHARED_DECODERS = SharedDecoders(1)


class NameIsToken:
    """Takes a token for who it names: "anna", or "attempt projects/line-7/jobs/j 2"."""

    async def verify(self, token: str) -> Caller:
        if match := ATTEMPT.fullmatch(token):
            return Caller(AccountName("anna"), attempt=AttemptGrant(JobName.parse(match[1]), int(match[2])))
        if not token.isalpha():
            raise Unauthenticated("no such token", problem="invalid")
        return Caller(AccountName(token), login="login")


class MadeUpAuth:
    """An auth with levels of accounts in projects; it is Authorizer and Memberships in one.

    asked: how many decisions it was asked for; an upload asks for one when its header has come.
    """

    def __init__(self) -> None:
        self.levels = {("anna", SYSTEM): 30, ("eve", SYSTEM): 30, ("vera", SYSTEM): 10}
        self.owners: dict[str, tuple[str, str]] = {}
        self.away = False
        self.forgotten: list[tuple[str, str]] = []
        self.asked = 0
        self._changed = asyncio.Event()

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        self.asked += 1
        level = self.levels.get((account.account, project.project))
        threshold = DEFAULT_THRESHOLDS[action]
        group = f"{project}/groups/g" if level is not None else ""
        return Decision(level is not None and level >= threshold, level is not None, group, level or 0, threshold, True)

    def changed(self) -> asyncio.Event:
        return self._changed

    async def ensure_project(self, project: ProjectName, uid: str, owner: AccountName) -> None:
        if self.away:
            raise Unavailable("auth is away", dependency="auth")
        if self.owners.setdefault(project.project, (uid, owner.account)) == (uid, owner.account):
            self.levels[owner.account, project.project] = 40

    async def of(self, account: AccountName) -> list[ProjectName]:
        return [ProjectName(project) for who, project in self.levels if who == account.account]

    async def may(self, account: AccountName, project: ProjectName, action: str, login: str) -> bool:
        return (await self.decide(account, project, action, login)).allowed

    async def forget_project(self, project: ProjectName, uid: str) -> None:
        if self.away:
            raise Unavailable("auth is away", dependency="auth")
        self.forgotten.append((project.project, uid))


def upgraded(connection: sa.Connection, revision: str) -> None:
    """upgraded makes the tables as they were at a revision."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    command.upgrade(config, revision)


T = TypeVar("T")


async def insist(call: Callable[[], Awaitable[T]]) -> T:
    """insist calls again when the answer was lost.

    gRPC's client loses the status of a stream that the server ends while a message is on its way, so a refusal may look
    like a cut. A terminal tries again then, and so do tests.
    """
    for _ in range(50):
        try:
            return await call()
        except Unavailable as error:
            if error.metadata.get("dependency"):
                raise
    return await call()


class Client:
    """What tests do with a storage service, as one account or service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.projects = project_service_pb2_grpc.ProjectServiceStub(channel)
        self.blobs = blob_service_pb2_grpc.BlobServiceStub(channel)
        self.datasets = dataset_service_pb2_grpc.DatasetServiceStub(channel)
        self.algorithms = algorithm_service_pb2_grpc.AlgorithmServiceStub(channel)
        self.models = model_service_pb2_grpc.ModelServiceStub(channel)

    async def make_project(self, name: str) -> None:
        project_id = name.removeprefix("projects/")
        await self.projects.CreateProject(project_service_pb2.CreateProjectRequest(project_id=project_id))

    async def upload(
        self, pictures: Sequence[bytes], project: str = LINE, batch: int = 50
    ) -> list[blob_service_pb2.UploadPicturesResponse]:
        return await self.stream(lambda: picture_stream(pictures, project, batch))

    async def stream(
        self, messages: Callable[[], AsyncIterator[blob_service_pb2.UploadPicturesRequest]]
    ) -> list[blob_service_pb2.UploadPicturesResponse]:
        async def once() -> list[blob_service_pb2.UploadPicturesResponse]:
            return [answer async for answer in self.blobs.UploadPictures(messages())]

        return await insist(once)

    async def missing(self, digests: Iterable[str], project: str = LINE) -> list[str]:
        request = blob_service_pb2.FindMissingBlobsRequest(parent=project, digests=digests)
        return list((await self.blobs.FindMissingBlobs(request)).digests)

    async def download(self, digests: Sequence[str], project: str = LINE, offset: int = 0) -> dict[str, bytes]:
        request = blob_service_pb2.DownloadBlobsRequest(parent=project, digests=digests, offset=offset)
        found: dict[str, bytes] = {}
        async for message in self.blobs.DownloadBlobs(request):
            for piece in message.pieces:
                found[piece.digest] = found.get(piece.digest, b"") + piece.data
        return found

    async def upload_blob(
        self, data: bytes, project: str = LINE, offset: int = 0, chunk: int = 1 << 18, closed: bool = True
    ) -> None:
        await self.stream_blob(lambda: blob_stream(data, project, offset, chunk, closed))

    async def stream_blob(self, messages: Callable[[], AsyncIterator[blob_service_pb2.UploadBlobRequest]]) -> None:
        async def once() -> None:
            await self.blobs.UploadBlob(messages())

        await insist(once)

    async def query(self, digest: str, project: str = LINE) -> tuple[int, bool]:
        answer = await self.blobs.QueryUpload(blob_service_pb2.QueryUploadRequest(parent=project, digest=digest))
        return answer.committed_size, answer.complete

    async def make_dataset(self, name: str, project: str = LINE) -> str:
        await self.datasets.CreateDataset(dataset_service_pb2.CreateDatasetRequest(parent=project, dataset_id=name))
        return f"{project}/datasets/{name}"

    async def make_version(
        self, dataset: str, items: Sequence[dataset_pb2.DatasetItem], **header: object
    ) -> dataset_service_pb2.CreateDatasetVersionResponse:
        return await self.stream_version(lambda: version_stream(dataset, items, **header))

    async def stream_version(
        self, messages: Callable[[], AsyncIterator[dataset_service_pb2.CreateDatasetVersionRequest]]
    ) -> dataset_service_pb2.CreateDatasetVersionResponse:
        async def once() -> dataset_service_pb2.CreateDatasetVersionResponse:
            return await self.datasets.CreateDatasetVersion(messages())

        return await insist(once)

    async def items(self, version: str, offset: int = 0) -> list[dataset_pb2.DatasetItem]:
        request = dataset_service_pb2.ReadDatasetItemsRequest(name=version, offset=offset)
        return [item async for message in self.datasets.ReadDatasetItems(request) for item in message.items]


async def picture_stream(
    pictures: Sequence[bytes], project: str = LINE, batch: int = 50, *, closed: bool = True
) -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
    """picture_stream is an upload's messages; without its closing where `closed` is False."""
    yield blob_service_pb2.UploadPicturesRequest(header={"parent": project})
    for start in range(0, len(pictures), batch):
        part = [{"digest": sha256(each), "data": each} for each in pictures[start : start + batch]]
        yield blob_service_pb2.UploadPicturesRequest(batch={"pictures": part})
    if closed:
        closing = {"picture_count": len(pictures), "byte_count": sum(len(each) for each in pictures)}
        yield blob_service_pb2.UploadPicturesRequest(closing=closing)


async def blob_stream(
    data: bytes, project: str, offset: int = 0, chunk: int = 1 << 18, closed: bool = True
) -> AsyncIterator[blob_service_pb2.UploadBlobRequest]:
    """blob_stream is a blob upload's messages."""
    announced = {"digest": sha256(data), "size": len(data)}
    yield blob_service_pb2.UploadBlobRequest(header={**announced, "parent": project, "offset": offset})
    for start in range(offset, len(data), chunk):
        yield blob_service_pb2.UploadBlobRequest(chunk=data[start : start + chunk])
    if closed:
        yield blob_service_pb2.UploadBlobRequest(closing=announced)


async def version_stream(
    dataset: str, items: Sequence[dataset_pb2.DatasetItem], **header: object
) -> AsyncIterator[dataset_service_pb2.CreateDatasetVersionRequest]:
    """version_stream is a new version's messages."""
    yield dataset_service_pb2.CreateDatasetVersionRequest(header={"parent": dataset, **header})
    for start in range(0, len(items), 10_000):
        yield dataset_service_pb2.CreateDatasetVersionRequest(batch={"items": items[start : start + 10_000]})
    yield dataset_service_pb2.CreateDatasetVersionRequest(closing={"item_count": len(items)})


def open_channel(settings: StorageSettings, account: str, address: str = "") -> grpc.aio.Channel:
    """open_channel is an account's connection to a storage's public door, or to a proxy that stands before it."""

    async def token() -> str:
        return account

    door = address or f"127.0.0.1:{settings.public_port}"
    return terminal_channel(door, ca=settings.tls_ca.read_bytes(), token=token)


class House:
    """A running storage service."""

    def __init__(
        self,
        settings: StorageSettings,
        decoders: Decoders,
        disk: Disk | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.auth = MadeUpAuth()
        self.storage = Storage(settings, self.auth, disk=disk, decoders=decoders, now=now)
        self.server = MeshServer(
            settings,
            verifier=NameIsToken(),
            authorizer=self.auth,
            servicers=self.storage.registrations(),
            budget=self.storage.first_messages,
            recorder=self.storage.audit,
        )
        self._channels: list[grpc.aio.Channel] = []

    async def start(self) -> None:
        await self.storage.start()
        await self.server.start()

    async def stop(self) -> None:
        for channel in self._channels:
            await channel.close()
        await self.server.stop()
        await _cancelled_calls_end()
        await self.storage.stop()

    def client(self, account: str = "anna", address: str = "") -> Client:
        """client is an account at the public door, or an attempt: "attempt projects/line-7/jobs/j 1".

        address: of a proxy that stands before the door.
        """
        channel = open_channel(self.settings, account, address)
        self._channels.append(channel)
        return Client(channel)

    @asynccontextmanager
    async def cuttable(self, budgets: Sequence[int] = ()) -> AsyncIterator[tuple[Client, CuttingProxy]]:
        """cuttable is anna behind a proxy that cuts each next connection after so many bytes sent, or when told to."""
        proxy = CuttingProxy(self.settings.public_port, budgets)
        client = self.client(address=await proxy.start())
        try:
            yield client, proxy
        finally:
            await proxy.close()

    async def asked(self, before: int) -> None:
        """asked waits until auth was asked for more decisions than `before`."""
        async with asyncio.timeout(20):
            while self.auth.asked == before:
                await asyncio.sleep(0.01)

    def service(self, name: str) -> Client:
        """service is another service of the mesh at the internal door."""
        tls: Path = self.settings.tls_ca.parent
        values = {
            **self.settings.model_dump(),
            "tls_cert": tls / f"{name}.pem",
            "tls_key": tls / f"{name}.key",
        }
        own = ServiceSettings(**values)
        channel = internal_channel(own, f"127.0.0.1:{self.settings.internal_port}", service="storage")
        self._channels.append(channel)
        return Client(channel)


async def _cancelled_calls_end() -> None:
    """gRPC's server stops before the calls that it cancels have ended.

    One that is cancelled again while it gives its database connection back never ends, and the event loop with it.
    """
    calls = [task for task in asyncio.all_tasks() if task.get_name().startswith("HandleExceptions[")]
    if calls:
        await asyncio.wait(calls, timeout=5)


@asynccontextmanager
async def open_house(
    settings: StorageSettings,
    disk: Disk | None = None,
    decoders: Decoders | None = None,
    now: Callable[[], float] = time.time,
) -> AsyncIterator[House]:
    """open_house starts a storage service with the projects line-7 (anna's) and other (eve's)."""
    house = House(settings, decoders or SHARED_DECODERS, disk, now)
    await house.start()
    try:
        for owner, project in (("anna", LINE), ("eve", OTHER)):
            house.auth.owners.pop(project.removeprefix("projects/"), None)
            async with house.storage.database.read() as session:
                there = await ProjectTable(session).find(project.removeprefix("projects/"))
            if there is None:
                await house.client(owner).make_project(project)
            else:
                house.auth.levels[owner, project.removeprefix("projects/")] = 40
        yield house
    finally:
        await house.stop()
