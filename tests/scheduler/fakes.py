"""What the scheduler calls, small and honest, behind real gRPC servers with the mesh's own interceptors and TLS."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from loupe.access import Decision
from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc, session_service_pb2, session_service_pb2_grpc
from loupe.discovery import Discovery, Instance
from loupe.errors import (
    AttemptUnknown,
    FailedPrecondition,
    StaleAttempt,
    TrainerBusy,
    Unauthenticated,
    Unavailable,
    not_found,
)
from loupe.identity import Caller
from loupe.load import RunningAttempt, TrainerLoad, catalogue_name_of, key_of
from loupe.names import AccountName, ProjectName, TrainerName
from loupe.rpc.server import MeshServer
from loupe.settings import ServiceSettings
from loupe.storage.v1 import (
    algorithm_service_pb2,
    algorithm_service_pb2_grpc,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from loupe.storage.v1.algorithm_pb2 import AlgorithmVersion
from loupe.storage.v1.dataset_pb2 import DatasetVersion, LabelCount
from loupe.storage.v1.model_pb2 import ModelVersion
from loupe.trainer.v1 import attempt_service_pb2, attempt_service_pb2_grpc
from loupe.trainer.v1.attempt_pb2 import (
    Artifact,
    AttemptCheckpointed,
    AttemptEvent,
    AttemptFailed,
    AttemptFinished,
    AttemptKey,
    AttemptProgress,
    AttemptSpec,
    AttemptStarted,
    AttemptState,
)

MANIFEST = """
name = "finetune"
version = "1.2.0"
task = "classification"
entry = "main:train"
licence = "Apache-2.0"
summary = "Fine-tunes."

[parameters.epochs]
type = "int"
default = 30
min = 1
max = 1000
"""
DIGEST = "ab" * 32


async def eventually(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Return as soon as the condition holds; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "the condition did not come true"
        await asyncio.sleep(0.005)


def report_json(accuracy: float = 0.98, **more: object) -> str:
    """Make a report as loupe.algorithm writes it."""
    figures = dict.fromkeys(("accuracy", "balanced_accuracy", "lowest_recall"), accuracy)
    scores = {**figures, "pictures": 40}
    report = {"labels": ["good", "scratch"], "validation": scores, "test": scores, "label_errors": []}
    return json.dumps({**report, "checked": {"right": [20, 19], "pictures": [20, 20]}, **more})


def finished(outcome: str = "target_reached", accuracy: float = 0.98) -> AttemptFinished:
    """Make a result."""
    artifacts = [Artifact(filename="model.onnx", digest=DIGEST, size=7)]
    return AttemptFinished(
        outcome=outcome, artifacts=artifacts, report_json=report_json(accuracy), code_version="0.1.0"
    )


class NobodyVerifier:
    """Internal doors take certificates, and no token at all."""

    async def verify(self, token: str) -> Caller:
        raise Unauthenticated("no tokens here", problem="invalid")


class NobodyAuthorizer:
    """Internal doors ask nobody."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        raise Unavailable("nobody decides here")

    def changed(self) -> asyncio.Event:
        return self._changed


class Door:
    """A server that can go away and come back on its port."""

    def __init__(self, settings: ServiceSettings, servicers: list) -> None:
        self.settings = settings
        self._servicers = servicers
        self._server: MeshServer | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.settings.internal_port}"

    async def up(self) -> None:
        self._server = MeshServer(
            self.settings, verifier=NobodyVerifier(), authorizer=NobodyAuthorizer(), servicers=self._servicers
        )
        await self._server.start()

    async def down(self) -> None:
        if self._server is not None:
            await self._server.stop(drain=False)
        self._server = None


class FakeStorage(
    dataset_service_pb2_grpc.DatasetServiceServicer,
    algorithm_service_pb2_grpc.AlgorithmServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """Data set versions by name, one algorithm, fences that only go up, one model version a job.

    checkpoints: by job, who wrote it.
    """

    def __init__(self) -> None:
        self.versions = {"projects/line-7/datasets/screws/versions/latest": self.version("screws", 3)}
        finetune = self.algorithm("finetune", "1.2.0", MANIFEST)
        self.algorithms = {"algorithms/finetune/versions/latest": finetune, finetune.name: finetune}
        self.models: dict[str, ModelVersion] = {}
        self.fences: dict[str, int] = {}
        self.checkpoints: dict[str, str] = {}
        self.calls: list[tuple[str, str, int]] = []
        self.published: dict[str, ModelVersion] = {}
        self.publish_calls = 0
        self.before_publish: Callable[[], Awaitable[object]] | None = None

    @staticmethod
    def version(dataset: str, number: int, *labels: tuple[str, int, int]) -> DatasetVersion:
        counts = labels or (("good", 30, 20), ("scratch", 30, 20))
        return DatasetVersion(
            name=f"projects/line-7/datasets/{dataset}/versions/{number}",
            digest="cd" * 32,
            labels=[LabelCount(label=name, train_count=t, validation_count=v) for name, t, v in counts],
        )

    @staticmethod
    def algorithm(name: str, version: str, manifest: str) -> AlgorithmVersion:
        return AlgorithmVersion(
            name=f"algorithms/{name}/versions/{version}", digest=DIGEST, manifest_toml=manifest, built_in=True
        )

    async def GetDatasetVersion(self, request, context):
        if request.name not in self.versions:
            raise not_found(request.name)
        return dataset_service_pb2.GetDatasetVersionResponse(dataset_version=self.versions[request.name])

    async def GetAlgorithmVersion(self, request, context):
        if request.name not in self.algorithms:
            raise not_found(request.name)
        return algorithm_service_pb2.GetAlgorithmVersionResponse(algorithm_version=self.algorithms[request.name])

    async def GetModelVersion(self, request, context):
        if request.name not in self.models:
            raise not_found(request.name)
        return model_service_pb2.GetModelVersionResponse(model_version=self.models[request.name])

    async def RaiseFence(self, request, context):
        self.calls.append(("fence", request.job, request.attempt))
        self.fences[request.job] = max(self.fences.get(request.job, 0), request.attempt)
        return model_service_pb2.RaiseFenceResponse(attempt=self.fences[request.job])

    async def GetCheckpoint(self, request, context):
        written_by = self.checkpoints.get(request.job)
        kept = model_service_pb2.Checkpoint(job=written_by) if written_by else None
        return model_service_pb2.GetCheckpointResponse(checkpoint=kept)

    async def CopyCheckpoint(self, request, context):
        if request.job not in self.checkpoints:
            if request.source not in self.checkpoints:
                raise FailedPrecondition(f"{request.source} has no checkpoint", resource=request.source)
            self.checkpoints[request.job] = self.checkpoints[request.source]
        return model_service_pb2.CopyCheckpointResponse()

    async def RemoveCheckpoint(self, request, context):
        self.calls.append(("remove", request.job, 0))
        self.checkpoints.pop(request.job, None)
        return model_service_pb2.RemoveCheckpointResponse()

    async def PublishModelVersion(self, request, context):
        self.publish_calls += 1
        if self.before_publish is not None:
            await self.before_publish()
        lineage = request.model_version.lineage
        if lineage.attempt < self.fences.get(lineage.job, 0):
            raise StaleAttempt("a newer attempt is at work", job=lineage.job)
        if lineage.job not in self.published:
            version = ModelVersion()
            version.CopyFrom(request.model_version)
            version.name = f"{request.parent}/versions/{len(self.published) + 1}"
            self.published[lineage.job] = version
        return model_service_pb2.PublishModelVersionResponse(model_version=self.published[lineage.job])


class FakeAuth(policy_service_pb2_grpc.PolicyServiceServicer, session_service_pb2_grpc.SessionServiceServicer):
    """Accounts are allowed everything in line-7, and are members of nothing else; tokens are real EdDSA JWTs."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        self.issued: list[tuple[str, str, int]] = []
        self.refused: Exception | None = None
        self.lifetime = 86_400.0
        self.parameter = 40
        self.denied: set[str] = set()

    def token(self, account: str = "anna") -> str:
        now = int(time.time())
        claims = {"iss": "loupe", "aud": "loupe", "sub": f"accounts/{account}", "login": "l1", "jti": "j"}
        times = {"iat": now, "nbf": now, "exp": now + 600}
        return jwt.encode({**claims, **times}, self._key, algorithm="EdDSA", headers={"kid": "k1", "typ": "access"})

    async def GetJwks(self, request, context):
        key = OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True) | {"kid": "k1", "alg": "EdDSA", "use": "sig"}
        return session_service_pb2.GetJwksResponse(jwks_json=json.dumps({"keys": [key]}))

    async def Authorize(self, request, context):
        member = request.project == "projects/line-7"
        decision = policy_service_pb2.Decision(
            allowed=member and request.action not in self.denied,
            member=member,
            active=True,
            parameter=self.parameter,
            threshold=10,
        )
        return policy_service_pb2.AuthorizeResponse(decision=decision, revision=1)

    async def WatchPolicy(self, request, context) -> AsyncIterator[policy_service_pb2.WatchPolicyResponse]:
        while True:
            yield policy_service_pb2.WatchPolicyResponse(revision=1)
            await asyncio.sleep(1)

    async def IssueAttemptToken(self, request, context):
        if self.refused is not None:
            raise self.refused
        self.issued.append((request.account, request.job, request.attempt))
        response = policy_service_pb2.IssueAttemptTokenResponse(token=f"token-{len(self.issued)}")
        response.lifetime.FromTimedelta(timedelta(seconds=self.lifetime))
        return response


@dataclass
class FakeAttempt:
    """An attempt on a fake trainer: the test says what happens in it."""

    spec: AttemptSpec
    events: list[AttemptEvent] = field(default_factory=list)
    state: int = AttemptState.ATTEMPT_STATE_PREPARING
    renewals: int = 0
    tokens: list[str] = field(default_factory=list)
    cancelled: bool = False
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def emit(self, **what: Any) -> None:
        event = AttemptEvent(sequence=len(self.events) + 1, **what)
        event.time.FromDatetime(datetime.now(UTC))
        self.events.append(event)
        self.news.set()
        self.news = asyncio.Event()

    @property
    def live(self) -> bool:
        return self.state in (AttemptState.ATTEMPT_STATE_PREPARING, AttemptState.ATTEMPT_STATE_RUNNING)

    def started(self, *, resumed: bool = False) -> None:
        self.state = AttemptState.ATTEMPT_STATE_RUNNING
        self.emit(started=AttemptStarted(warm=True, resumed=resumed))

    def progress(self, step: int) -> None:
        self.emit(progress=AttemptProgress(phase="head", step=step, metrics={"loss": 1.0 / step}))

    def checkpoint(self) -> None:
        self.emit(checkpointed=AttemptCheckpointed(size=3))

    def finish(self, outcome: str = "target_reached", accuracy: float = 0.98) -> None:
        self.end_with(finished(outcome, accuracy))

    def end_with(self, result: AttemptFinished) -> None:
        self.state = AttemptState.ATTEMPT_STATE_FINISHED
        self.emit(finished=result)

    def fail(self, *, retryable: bool, reason: str = "ALGORITHM_FAILED", message: str = "it crashed") -> None:
        self.state = AttemptState.ATTEMPT_STATE_FAILED
        self.emit(failed=AttemptFailed(reason=reason, message=message, retryable=retryable))

    def run_to_end(self) -> None:
        self.started()
        for step in range(1, 4):
            self.progress(step)
        self.finish()


Key = tuple[str, int]


class FakeTrainer(attempt_service_pb2_grpc.AttemptServiceServicer):
    """A trainer that keeps attempts in memory: script(attempt) is called with each new one."""

    def __init__(self, name: TrainerName, script: Callable[[FakeAttempt], None], slots: int = 1) -> None:
        self.name = name
        self.script = script
        self.slots = slots
        self.attempts: dict[Key, FakeAttempt] = {}
        self.starts: list[Key] = []
        self.cancels: list[Key] = []
        self.cpu_use = 0.1
        self.beat = 0
        self.incarnation = "incarnation0"
        self.silent = False
        self.door: Door | None = None

    @property
    def live(self) -> list[Key]:
        return [key for key, attempt in self.attempts.items() if attempt.live]

    def restart(self) -> None:
        """Forget everything, as a new process does."""
        self.attempts.clear()
        self.incarnation = f"incarnation{len(self.starts) + 1}x"
        self.beat = 0

    def report(self) -> TrainerLoad:
        self.beat += 1
        return TrainerLoad(
            name=str(self.name),
            incarnation=self.incarnation,
            beat=self.beat,
            at_ms=int(time.time() * 1000),
            cpu_use=self.cpu_use,
            memory_used=1 << 30,
            memory_total=8 << 30,
            slots=self.slots,
            busy_slots=min(len(self.live), self.slots),
            warm_slots=max(self.slots - len(self.live), 0),
            sandboxed=True,
            attempts=tuple(RunningAttempt(job, number) for job, number in self.live),
        )

    def _find(self, key: AttemptKey) -> FakeAttempt:
        attempt = self.attempts.get((key.job, key.attempt))
        if attempt is None:
            raise AttemptUnknown("never heard of it", job=key.job, attempt=key.attempt)
        return attempt

    async def StartAttempt(self, request, context):
        key = (request.spec.key.job, request.spec.key.attempt)
        if key not in self.attempts:
            if any(job == key[0] and number > key[1] for job, number in self.attempts):
                raise StaleAttempt("too old", job=key[0])
            if len(self.live) >= self.slots:
                raise TrainerBusy(f"all {self.slots} slots are taken", slots=self.slots)
            self.starts.append(key)
            self.attempts[key] = FakeAttempt(request.spec)
            self.script(self.attempts[key])
        return attempt_service_pb2.StartAttemptResponse(state=self.attempts[key].state)

    async def WatchAttempt(self, request, context):
        attempt, after = self._find(request.key), request.after_sequence
        while True:
            news = attempt.news
            for event in attempt.events[after:]:
                yield attempt_service_pb2.WatchAttemptResponse(event=event)
                after = event.sequence
            if not attempt.live and after >= len(attempt.events):
                return
            if after >= len(attempt.events):
                await news.wait()

    async def RenewLeases(self, request, context):
        states = []
        for key in request.keys:
            attempt = self.attempts.get((key.job, key.attempt))
            if attempt is not None:
                attempt.renewals += 1
            states.append(attempt.state if attempt else AttemptState.ATTEMPT_STATE_UNSPECIFIED)
        return attempt_service_pb2.RenewLeasesResponse(states=states)

    async def ReplaceStorageToken(self, request, context):
        self._find(request.key).tokens.append(request.storage_token)
        return attempt_service_pb2.ReplaceStorageTokenResponse()

    async def CancelAttempt(self, request, context):
        key = (request.key.job, request.key.attempt)
        self.cancels.append(key)
        if (attempt := self.attempts.get(key)) is not None and attempt.live:
            attempt.cancelled = True
            attempt.fail(retryable=False, reason="CANCELLED", message="cancelled")
        return attempt_service_pb2.CancelAttemptResponse()


class FakeDiscovery(Discovery):
    """Consul in memory. Trainers report every `interval` seconds unless they are silent."""

    def __init__(self, interval: float = 0.05) -> None:
        self.interval = interval
        self.places: dict[str, list[Instance]] = {}
        self.trainers: list[FakeTrainer] = []
        self.forged: dict[str, bytes] = {}
        self.leader = True
        self.away = False
        self._changed = asyncio.Event()
        self._entries: dict[str, bytes] = {}

    def set_leader(self, leading: bool) -> None:
        self.leader = leading
        self._changed.set()
        self._changed = asyncio.Event()

    async def register(self, name: str, instance: str, public: str, internal: str) -> None:
        self.places[name] = [Instance(instance, public, internal)]

    async def instances(self, name: str) -> list[Instance]:
        return self.places.get(name, [])

    def add(self, trainer: FakeTrainer, address: str) -> None:
        self.trainers.append(trainer)
        self.places[catalogue_name_of(trainer.name)] = [Instance("any", "", address)]

    async def watch_prefix(self, prefix: str) -> AsyncGenerator[dict[str, bytes], None]:
        while True:
            if not self.away:
                for trainer in self.trainers:
                    if not trainer.silent:
                        self._entries[key_of(trainer.name)] = trainer.report().to_json()
                yield {**self._entries, **self.forged}
            await asyncio.sleep(self.interval)

    async def leadership(self, key: str) -> AsyncGenerator[bool, None]:
        told = False
        while True:
            changed = self._changed
            if told != self.leader:
                told = self.leader
                yield told
            await changed.wait()

    async def close(self) -> None:
        pass


def forged_report(trainer: FakeTrainer, **changes: Any) -> bytes:
    """Make a report with some fields changed."""
    return replace(trainer.report(), **changes).to_json()
