"""The trainer's settings, read from environment variables named LOUPE_<FIELD>."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import psutil
from pydantic import Field, field_validator

from loupe.algorithm.pipe import RUNNER
from loupe.names import TrainerName, check_id
from loupe.settings import ServiceSettings
from services.trainer.sandbox.limits import Limits

MIB = 1 << 20
UIDS_FROM, UID_BLOCKS, UIDS_PER_TRAINER = 1_000_000, 8192, 128


class TrainerSettings(ServiceSettings):
    """What a trainer needs besides the settings of every service."""

    cluster: str
    """Id of the cluster that the trainer belongs to."""

    trainer: str
    """Id of the trainer in its cluster."""

    slots: int = Field(default=1, ge=1, le=64)
    """How many jobs run at once."""

    warm: int = Field(default=1, ge=0, le=64)
    """How many sandboxes wait with everything imported; each takes the memory of a process with torch in it."""

    threads: int = Field(default=0, ge=0)
    """CPU threads of a job; 0 divides the cores among the slots."""

    decoders: int = Field(default=0, ge=0, le=32)
    """Processes that decode pictures; 0 means one per core, four at most."""

    stop_seconds: float = Field(default=10.0, ge=0)
    """How long a job that was asked to stop may go on to save what it has."""

    packs_mb: int = Field(default=8192, ge=64)
    """Disk for picture files as they were uploaded, MiB."""

    pictures_mb: int = Field(default=16384, ge=64)
    """Disk for decoded pictures, MiB; one job may hold as much of it as there is for each slot."""

    job_memory_mb: int = Field(default=0, ge=0)
    """Memory of one job, MiB; 0 means three quarters of the machine's, divided among the slots."""

    job_disk_mb: int = Field(default=8192, ge=64)
    """Work folder of one job, MiB. It lies in memory: what a job has written counts to its memory, too."""

    job_processes: int = Field(default=512, ge=16)
    """Processes and threads of one job."""

    first_uid: int = Field(default=0, ge=0)
    """First of the user ids of jobs where the trainer is root; 0 derives a block from the trainer's name."""

    sandbox: str = Field(default="auto", pattern="^(auto|bubblewrap|none)$")
    """auto takes bubblewrap where it works; bubblewrap refuses to start without it; none runs built-in images only."""

    device: str = Field(default="auto", pattern="^(auto|cpu|cuda)$")
    """What jobs compute on; auto takes an NVIDIA GPU where there is one."""

    runner: str = RUNNER
    """What runs an algorithm image inside: module:function(folder, host)."""

    warm_modules: str = "loupe.algorithm.warm"
    """Modules that a warm sandbox has imported, separated by commas. The default has all that the usual job loads up to
    its first step (about 0.4 GB a slot beside what all slots share; torch with CUDA alone takes 0.3)."""

    idle_modules: str = (
        "torch.fx.experimental.symbolic_shapes,"
        "scipy.special,scipy.optimize,scipy.stats,pandas,sklearn.metrics,cleanlab.filter"
    )
    """Modules that a warm sandbox imports behind those as long as no job comes, separated by commas. The default has
    what networks are made with and what reports take (about 0.1 GB a slot); a job that comes earlier imports them."""

    @field_validator("cluster", "trainer")
    @classmethod
    def _is_id(cls, value: str) -> str:
        return check_id("cluster and trainer", value)

    @property
    def name(self) -> TrainerName:
        """The trainer's resource name."""
        return TrainerName(self.cluster, self.trainer)

    @property
    def job_threads(self) -> int:
        """How many CPU threads a job gets."""
        return self.threads or max(1, cores() // self.slots)

    @property
    def job_device(self) -> str:
        """What jobs compute on: "cpu" or "cuda"."""
        if self.device != "auto":
            return self.device
        return "cuda" if Path("/dev/nvidia0").exists() else "cpu"

    @property
    def decoder_count(self) -> int:
        """How many processes decode pictures."""
        return self.decoders or min(4, cores())

    @property
    def uid_block(self) -> int:
        """The first user id of this trainer's jobs; trainers on one machine must not share any."""
        block = zlib.crc32(str(self.name).encode()) % UID_BLOCKS
        return self.first_uid or UIDS_FROM + block * UIDS_PER_TRAINER

    def limits(self) -> Limits:
        """Return the bounds of one job."""
        share = psutil.virtual_memory().total * 3 // 4 // self.slots
        disk = self.job_disk_mb * MIB
        return Limits(memory=self.job_memory_mb * MIB or share, processes=self.job_processes, work=disk, file=disk)


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0))
