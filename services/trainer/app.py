"""The composition root of the trainer: the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import shutil
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import structlog

from loupe.app import Background
from loupe.discovery import Discovery
from loupe.load import key_of
from loupe.rpc.channel import ServiceChannels
from loupe.rpc.server import MeshServer
from loupe.trainer.v1 import attempt_service_pb2_grpc
from services.trainer.attempts.access import NobodyElse
from services.trainer.attempts.attempts import Attempts
from services.trainer.attempts.servicer import AttemptServicer
from services.trainer.cache.decoders import Decoders
from services.trainer.cache.images import Images
from services.trainer.cache.packs import PackCache
from services.trainer.cache.pictures import PictureCache
from services.trainer.clients.storage_grpc import GrpcStorage
from services.trainer.heartbeat.heartbeat import Heartbeat
from services.trainer.runs.executor import Executor
from services.trainer.runs.job_folder import Resources
from services.trainer.sandbox.bubblewrap import Bubblewrap, SandboxUnavailable
from services.trainer.sandbox.code_folder import make_code_folder
from services.trainer.sandbox.plain_process import PlainProcess
from services.trainer.sandbox.sandbox import Sandbox
from services.trainer.sandbox.slots import SlotPlan, Slots
from services.trainer.settings import MIB, TrainerSettings

log = structlog.get_logger(__name__)


def boot_time() -> float:
    """Return monotonic seconds that go on while the machine sleeps: leases run out then, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def choose_sandbox(settings: TrainerSettings, code: Path) -> Sandbox:
    """Return bubblewrap where it works and may be used. Raises SandboxUnavailable where it must."""
    if settings.sandbox == "none":
        return PlainProcess(code)
    try:
        sandbox = Bubblewrap(code, settings.state / "seccomp.bpf", settings.uid_block)
        await sandbox.probe(settings.state)
    except SandboxUnavailable as error:
        if settings.sandbox == "bubblewrap":
            raise
        log.warning("no_sandbox", why=str(error), consequence="only built-in algorithm images run here")
        return PlainProcess(code)
    return sandbox


class TrainerApp:
    """One trainer process, built from its settings around a sandbox."""

    def __init__(self, settings: TrainerSettings, sandbox: Sandbox) -> None:
        self.settings = settings
        limits = settings.limits()
        state = settings.state
        self._discovery = Discovery(settings)
        self._channels = ServiceChannels(settings, self._discovery)
        self._slots = Slots(sandbox, state / "slots", self._plan(), boot_time)
        shutil.rmtree(state / "decoders", ignore_errors=True)
        self._decoders = Decoders(sandbox, state / "decoders", settings.slots, settings.decoder_count)
        packs = PackCache(state / "packs", settings.packs_mb * MIB)
        executor = Executor(
            storage=GrpcStorage(lambda: self._channels.get("storage")),
            slots=self._slots,
            images=Images(state / "images"),
            pictures=PictureCache(state / "pictures", packs, self._decoders, settings.pictures_mb * MIB),
            staging=state / "staging",
            resources=Resources(settings.job_threads, settings.job_device),
            limits=limits,
            clock=boot_time,
        )
        self._attempts = Attempts(
            executor.execute,
            slots=settings.slots,
            isolated=sandbox.isolated,
            grace=settings.stop_seconds,
            clock=boot_time,
            now=lambda: datetime.now(UTC),
        )
        self._heartbeat = Heartbeat(
            settings.name,
            uuid.uuid4().hex,
            sandboxed=sandbox.isolated,
            counts=lambda: self._slots.counts,
            running=lambda: [attempt.spec.key for attempt in self._attempts.live],
            milliseconds=lambda: time.time_ns() // 1_000_000,
        )
        self.server = MeshServer(
            settings,
            verifier=NobodyElse(),
            authorizer=NobodyElse(),
            servicers=[
                (
                    attempt_service_pb2_grpc.add_AttemptServiceServicer_to_server,
                    AttemptServicer(self._attempts, version("loupe")),
                )
            ],
        )
        self.background = Background()

    @classmethod
    async def create(cls, settings: TrainerSettings) -> TrainerApp:
        """Prepare the state folder and the sandbox. Raises SandboxUnavailable."""
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        code = await asyncio.to_thread(make_code_folder, settings.state / "code")
        return cls(settings, await choose_sandbox(settings, code))

    async def start(self) -> None:
        """Serve, warm the slots, and reports to Consul."""
        settings = self.settings
        await self.server.start()
        self._slots.start()
        self.background.add("leases", self._attempts.keep_time())
        self.background.add("gpus", self._heartbeat.watch_gpus())
        await self._discovery.register(
            "loupe-trainer",
            f"trainer-{settings.cluster}-{settings.trainer}",
            "",
            f"{settings.advertised}:{settings.internal_port}",
        )
        await self._discovery.hold(key_of(settings.name), lambda: self._heartbeat.report().to_json())

    async def stop(self) -> None:
        """Let running jobs save what they have, say how they ended, and leave nothing running.

        The door stays open meanwhile, for their last events.
        """
        await self._attempts.drain()
        await self.server.stop()
        await self._discovery.close()
        await self.background.cancel()
        await self._slots.close()
        await self._decoders.close()
        await self._channels.close()

    def _plan(self) -> SlotPlan:
        settings = self.settings
        return SlotPlan(
            count=settings.slots,
            warm=min(settings.warm, settings.slots),
            threads=settings.job_threads,
            gpu=settings.job_device == "cuda",
            limits=settings.limits(),
            runner=settings.runner,
            modules=tuple(filter(None, settings.warm_modules.split(","))),
        )
