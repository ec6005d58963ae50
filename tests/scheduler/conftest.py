"""A scheduler among fakes of what it calls, all behind real gRPC servers on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from loupe.auth.v1 import policy_service_pb2_grpc, session_service_pb2_grpc
from loupe.common.v1.objective_pb2 import Objective
from loupe.discovery import Instance
from loupe.names import TrainerName
from loupe.rpc.channel import terminal_channel
from loupe.scheduler.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    training_job_pb2,
    training_job_service_pb2,
    training_job_service_pb2_grpc,
)
from loupe.settings import ServiceSettings
from loupe.storage.v1 import (
    algorithm_service_pb2_grpc,
    dataset_service_pb2_grpc,
    model_service_pb2_grpc,
)
from loupe.trainer.v1 import attempt_service_pb2_grpc
from services.scheduler.app import SchedulerApp
from services.scheduler.settings import SchedulerSettings
from tests.scheduler.fakes import Door, FakeAttempt, FakeAuth, FakeDiscovery, FakeStorage, FakeTrainer

LATEST = "projects/line-7/datasets/screws/versions/latest"


class Rig:
    """The scheduler under test and everything around it."""

    def __init__(self, make_settings: Callable[..., Any]) -> None:
        self._make = make_settings
        self.storage = FakeStorage()
        self.auth = FakeAuth()
        self.discovery: Any = FakeDiscovery()
        self.trainers: list[FakeTrainer] = []
        self.settings: SchedulerSettings | None = None
        self.app: SchedulerApp | None = None
        self.storage_door = Door(
            make_settings("storage"),
            [
                (dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server, self.storage),
                (algorithm_service_pb2_grpc.add_AlgorithmServiceServicer_to_server, self.storage),
                (model_service_pb2_grpc.add_ModelServiceServicer_to_server, self.storage),
            ],
        )
        self.auth_door = Door(
            make_settings("auth"),
            [
                (policy_service_pb2_grpc.add_PolicyServiceServicer_to_server, self.auth),
                (session_service_pb2_grpc.add_SessionServiceServicer_to_server, self.auth),
            ],
        )
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        for service, door in (("storage", self.storage_door), ("auth", self.auth_door)):
            await door.up()
            self.discovery.places[f"loupe-{service}"] = [Instance(service, "", door.address)]

    async def add_trainer(
        self,
        script: Callable[[FakeAttempt], None] = FakeAttempt.run_to_end,
        name: TrainerName = TrainerName("north", "a"),  # noqa: B008 - immutable
        slots: int = 1,
        certificate: TrainerName | None = None,
    ) -> FakeTrainer:
        trainer, shown = FakeTrainer(name, script, slots), certificate or name
        trainer.door = Door(
            self._make(f"trainer-{shown.cluster}-{shown.trainer}"),
            [(attempt_service_pb2_grpc.add_AttemptServiceServicer_to_server, trainer)],
        )
        await trainer.door.up()
        self.trainers.append(trainer)
        self.discovery.add(trainer, trainer.door.address)
        return trainer

    async def start_scheduler(self, **fields: Any) -> None:
        """Start the process under test; a second call is its restart, on the same state."""
        if self.settings is None:
            defaults = {
                "load_threshold": 0.8,
                "lease_seconds": 1.0,
                "sweep_seconds": 0.1,
                "nats_url": "nats://127.0.0.1:1",
            }
            self.settings = self._make("scheduler", SchedulerSettings, **{**defaults, **fields})
        self.app = SchedulerApp(self.settings, self.discovery)
        await self.app.start()

    async def stop_scheduler(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
        if self.app is not None:
            await self.app.stop()
            self.app = None

    async def close(self) -> None:
        await self.stop_scheduler()
        for door in (self.storage_door, self.auth_door, *(each.door for each in self.trainers)):
            await door.down()

    @property
    def channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            assert self.settings is not None

            async def token() -> str:
                return self.auth.token()

            ca = Path(self.settings.tls_ca).read_bytes()
            self._channel = terminal_channel(f"127.0.0.1:{self.settings.public_port}", ca=ca, token=token)
        return self._channel

    @property
    def jobs(self) -> training_job_service_pb2_grpc.TrainingJobServiceAsyncStub:
        return training_job_service_pb2_grpc.TrainingJobServiceStub(self.channel)

    async def submit(self, request_id: str = "", job_id: str = "", **fields: Any) -> training_job_pb2.TrainingJob:
        given = {"dataset_version": LATEST, "objective": Objective(at_least=0.95), **fields}
        asked = training_job_pb2.TrainingJob(**given)
        request = training_job_service_pb2.SubmitTrainingJobRequest(
            parent="projects/line-7", job_id=job_id, training_job=asked, request_id=request_id
        )
        return (await self.jobs.SubmitTrainingJob(request, timeout=10)).training_job

    async def get(self, name: str) -> training_job_pb2.TrainingJob:
        request = training_job_service_pb2.GetTrainingJobRequest(name=name)
        return (await self.jobs.GetTrainingJob(request, timeout=10)).training_job

    async def cancel(self, name: str) -> training_job_pb2.TrainingJob:
        request = training_job_service_pb2.CancelTrainingJobRequest(name=name)
        return (await self.jobs.CancelTrainingJob(request, timeout=10)).training_job

    async def watch(self, name: str, after: int = 0) -> AsyncIterator[training_job_pb2.JobEvent]:
        request = training_job_service_pb2.WatchTrainingJobRequest(name=name, after_sequence=after)
        async for response in self.jobs.WatchTrainingJob(request, timeout=30):
            yield response.event

    async def to_end(self, name: str) -> list[training_job_pb2.JobEvent]:
        """Return all events of a job, when it has its final state."""
        return [event async for event in self.watch(name)]

    async def until(self, name: str, state: str, after: int = 0) -> training_job_pb2.JobEvent:
        """Return the first event after a sequence in which the job enters a state."""
        wanted = training_job_pb2.JobState.Value(f"JOB_STATE_{state}")
        async for event in self.watch(name, after):
            if event.state_change.state == wanted:
                return event
        raise AssertionError(f"{name} ended without being {state}")

    async def clusters(self) -> list:
        stub = cluster_service_pb2_grpc.ClusterServiceStub(self.channel)
        return list((await stub.ListClusters(cluster_service_pb2.ListClustersRequest(), timeout=10)).clusters)


@pytest.fixture
async def rig(service_settings: Callable[..., ServiceSettings]) -> AsyncIterator[Rig]:
    """What the scheduler calls is up; the test starts the scheduler."""
    made = Rig(service_settings)
    await made.start()
    yield made
    await made.close()


def states(events: list[training_job_pb2.JobEvent]) -> list[str]:
    """Return the states that a job went through, repetitions left out."""
    names: list[str] = []
    for event in events:
        if event.WhichOneof("event") == "state_change":
            name = training_job_pb2.JobState.Name(event.state_change.state).removeprefix("JOB_STATE_")
            if not names or names[-1] != name:
                names.append(name)
    return names
