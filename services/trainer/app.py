"""The composition root of the trainer: the only file that names concrete adapters."""

from __future__ import annotations

import asyncio
import time
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Self

import structlog

from loupe.app import MeshApp
from loupe.discovery import Discovery
from loupe.load import catalogue_name_of, key_of
from loupe.trainer.v1.attempt_service_pb2_grpc import add_AttemptServiceServicer_to_server
from services.trainer.attempts.access import DenyAll
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
from services.trainer.sandbox.bubblewrap import Bubblewrap
from services.trainer.sandbox.cgroup import Cgroups
from services.trainer.sandbox.code_folder import make_code_folder
from services.trainer.sandbox.plain_process import PlainProcess
from services.trainer.sandbox.sandbox import NoSandbox, Sandbox
from services.trainer.sandbox.slots import Slots
from services.trainer.sandbox.warm import SlotPlan
from services.trainer.settings import MIB, TrainerSettings

log = structlog.get_logger(__name__)


def boot_time() -> float:
    """Return monotonic seconds that go on while the machine sleeps: leases run out then, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def choose_sandbox(settings: TrainerSettings, code: Path) -> Sandbox:
    """Return bubblewrap where it works and may be used. Raises NoSandbox where it must."""
    if settings.sandbox == "none":
        return PlainProcess(code)
    try:
        sandbox = Bubblewrap(code, settings.state / "seccomp.bpf", settings.uid_block, Cgroups.find())
        await sandbox.probe(settings.state)
    except NoSandbox as error:
        if settings.sandbox == "bubblewrap":
            raise
        log.warning("no_sandbox", why=str(error), consequence="only built-in algorithm images run here")
        return PlainProcess(code)
    return sandbox


class TrainerApp(MeshApp[TrainerSettings]):
    """One trainer process, built from its settings around a sandbox.

    discovery: what tells where storage is; Consul when None is given.
    """

    service = "trainer"

    def __init__(self, settings: TrainerSettings, sandbox: Sandbox, discovery: Discovery | None = None) -> None:
        super().__init__(settings, discovery)
        state = settings.state
        self._slots = Slots(sandbox, state / "slots", self._plan(), boot_time)
        self._decoders = Decoders(sandbox, state / "decoders", settings.slots, settings.decoder_count)
        self._executor = self._make_executor()
        self._attempts = Attempts(
            self._executor.execute,
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
        servicer = AttemptServicer(self._attempts, version("loupe"))
        self.serves(
            [(add_AttemptServiceServicer_to_server, servicer)],
            verifier=DenyAll(),
            authorizer=DenyAll(),
        )

    @classmethod
    async def create(cls, settings: TrainerSettings, discovery: Discovery | None = None) -> Self:
        """Prepare the state folder and the sandbox. Raises NoSandbox."""
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        code = await asyncio.to_thread(make_code_folder, settings.state / "code")
        return cls(settings, await choose_sandbox(settings, code), discovery)

    @classmethod
    def instance(cls, settings: TrainerSettings) -> str:
        """Return what stands on the trainer's certificate, too: "trainer-<cluster>-<trainer>"."""
        return f"trainer-{settings.cluster}-{settings.trainer}"

    @classmethod
    def catalogue_name(cls, settings: TrainerSettings) -> str:
        """Return a name of this trainer's own, so that Consul lets no other one register under it."""
        return catalogue_name_of(settings.name)

    async def start(self) -> None:
        """Serve, warm the slots, and report to Consul."""
        self.closing.push_async_callback(self._decoders.close)
        self.closing.push_async_callback(self._slots.close)
        await self.open_doors()
        self._slots.start()
        clearing = asyncio.create_task(self._clear())
        self.closing.callback(clearing.cancel)
        self.work("leases", self._attempts.keep_time())
        self.work("gpus", self._heartbeat.watch_gpus())
        await self.register()
        # Pushed last, so undone first: while running jobs save what they have, their leases and the end of their grace
        # are still watched, the scheduler still finds this trainer, and the door is open for their last events.
        self.closing.push_async_callback(self._attempts.drain)
        await self.discovery.hold(key_of(self.settings.name), lambda: self._heartbeat.report().to_json())

    async def _clear(self) -> None:
        """Remove what an earlier trainer left in the folders of this one."""
        await self._decoders.clear()
        await self._executor.clear()

    def _make_executor(self) -> Executor:
        settings, state = self.settings, self.settings.state
        packs = PackCache(state / "packs", settings.packs_mb * MIB)
        return Executor(
            storage=GrpcStorage(self.storage),
            slots=self._slots,
            images=Images(state / "images"),
            pictures=PictureCache(
                state / "pictures", packs, self._decoders, settings.pictures_mb * MIB, jobs=settings.slots
            ),
            staging=state / "staging",
            resources=Resources(settings.job_threads, settings.job_device),
            limits=settings.limits(),
            clock=boot_time,
        )

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
            idle_modules=tuple(filter(None, settings.idle_modules.split(","))),
        )
