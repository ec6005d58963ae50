"""Storage, auth and the trainers over gRPC, with mutual TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from google.protobuf.duration_pb2 import Duration

from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc
from loupe.errors import Unavailable
from loupe.names import AlgorithmVersionName, DatasetVersionName, JobName, ModelName, TrainerName
from loupe.storage.v1 import (
    algorithm_service_pb2,
    algorithm_service_pb2_grpc,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from loupe.storage.v1.algorithm_pb2 import AlgorithmVersion
from loupe.storage.v1.dataset_pb2 import DatasetVersion
from loupe.storage.v1.model_pb2 import ModelVersion
from loupe.trainer.v1 import attempt_service_pb2, attempt_service_pb2_grpc
from loupe.trainer.v1.attempt_pb2 import AttemptEvent, AttemptKey, AttemptSpec, AttemptState
from services.scheduler.clients.dependencies import StorageToken

ChannelSource = Callable[[], Awaitable[grpc.aio.Channel]]


class StorageClient:
    """The Catalogue and the Library. timeout in seconds."""

    def __init__(self, channel: ChannelSource, timeout: float) -> None:
        self._channel = channel
        self._timeout = timeout

    async def dataset_version(self, name: DatasetVersionName) -> DatasetVersion:
        """Return a version; "latest" is resolved."""
        stub = dataset_service_pb2_grpc.DatasetServiceStub(await self._channel())
        request = dataset_service_pb2.GetDatasetVersionRequest(name=str(name))
        return (await stub.GetDatasetVersion(request, timeout=self._timeout)).dataset_version

    async def algorithm_version(self, name: AlgorithmVersionName) -> AlgorithmVersion:
        """Return a version; "latest" is resolved."""
        stub = algorithm_service_pb2_grpc.AlgorithmServiceStub(await self._channel())
        request = algorithm_service_pb2.GetAlgorithmVersionRequest(name=str(name))
        return (await stub.GetAlgorithmVersion(request, timeout=self._timeout)).algorithm_version

    async def raise_fence(self, job: JobName, attempt: int) -> None:
        """Refuse what older attempts write from now on."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.RaiseFenceRequest(job=str(job), attempt=attempt)
        await stub.RaiseFence(request, timeout=self._timeout)

    async def publish(self, model: ModelName, version: ModelVersion) -> ModelVersion:
        """Return the job's one model version, made now or before."""
        stub = model_service_pb2_grpc.ModelServiceStub(await self._channel())
        request = model_service_pb2.PublishModelVersionRequest(parent=str(model), model_version=version)
        return (await stub.PublishModelVersion(request, timeout=self._timeout)).model_version


class AuthClient:
    """The Tokens. timeout in seconds."""

    def __init__(self, channel: ChannelSource, timeout: float) -> None:
        self._channel = channel
        self._timeout = timeout

    async def issue(self, submitter: str, job: JobName, attempt: int) -> StorageToken:
        """Return a token for one attempt."""
        stub = policy_service_pb2_grpc.PolicyServiceStub(await self._channel())
        request = policy_service_pb2.IssueAttemptTokenRequest(account=submitter, job=str(job), attempt=attempt)
        response = await stub.IssueAttemptToken(request, timeout=self._timeout)
        return StorageToken(response.token, response.lifetime.ToTimedelta().total_seconds())


class TrainerClient:
    """The Trainers: one channel to each, opened anew when Consul names another address.

    address: the trainer's last known internal address, empty when there never was one. open_channel: dials it.
    """

    def __init__(self, address: Callable[[TrainerName], str], open_channel: Callable[[str], grpc.aio.Channel]) -> None:
        self._address = address
        self._open = open_channel
        self._channels: dict[TrainerName, tuple[str, grpc.aio.Channel]] = {}

    async def _stub(self, trainer: TrainerName) -> attempt_service_pb2_grpc.AttemptServiceStub:
        address = self._address(trainer)
        if not address:
            raise Unavailable(f"no address of {trainer} is known", dependency="trainer")
        known = self._channels.get(trainer)
        if known is None or known[0] != address:
            self._channels[trainer] = (address, self._open(address))
            if known is not None:
                await known[1].close()
        return attempt_service_pb2_grpc.AttemptServiceStub(self._channels[trainer][1])

    async def start(self, trainer: TrainerName, spec: AttemptSpec, lease: float, patience: float) -> None:
        """Give an attempt to a trainer."""
        stub = await self._stub(trainer)
        request = attempt_service_pb2.StartAttemptRequest(spec=spec, lease=_duration(lease))
        await stub.StartAttempt(request, timeout=patience)

    async def watch(self, trainer: TrainerName, key: AttemptKey, after: int) -> AsyncIterator[AttemptEvent]:
        """Yield the attempt's events after a sequence to the last."""
        stub = await self._stub(trainer)
        request = attempt_service_pb2.WatchAttemptRequest(key=key, after_sequence=after)
        call = stub.WatchAttempt(request)
        try:
            async for response in call:
                yield response.event
        finally:
            call.cancel()

    async def renew(self, trainer: TrainerName, key: AttemptKey, lease: float, patience: float) -> AttemptState:
        """Give the attempt more time and return where it stands."""
        stub = await self._stub(trainer)
        request = attempt_service_pb2.RenewLeasesRequest(keys=[key], lease=_duration(lease))
        return (await stub.RenewLeases(request, timeout=patience)).states[0]

    async def replace_token(self, trainer: TrainerName, key: AttemptKey, token: str, patience: float) -> None:
        """Give the attempt a new storage token."""
        stub = await self._stub(trainer)
        request = attempt_service_pb2.ReplaceStorageTokenRequest(key=key, storage_token=token)
        await stub.ReplaceStorageToken(request, timeout=patience)

    async def cancel(self, trainer: TrainerName, key: AttemptKey, patience: float) -> None:
        """Stop the attempt."""
        stub = await self._stub(trainer)
        await stub.CancelAttempt(attempt_service_pb2.CancelAttemptRequest(key=key), timeout=patience)

    async def close(self) -> None:
        """Close every channel."""
        for _, channel in self._channels.values():
            await channel.close()
        self._channels.clear()


def _duration(seconds: float) -> Duration:
    return Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))
