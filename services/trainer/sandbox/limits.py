"""What one job may use: bounds that the kernel keeps, and bounds that the trainer watches."""

from __future__ import annotations

import shutil
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of one job. Sizes in bytes.

    memory: of the job as a whole, its file systems included, watched by the trainer; of each process, kept by the
    kernel. processes: processes and threads of the job, kept by the kernel where the job has a user id of its own.
    work: the work folder, kept by the kernel; work_files: its files, watched. file: one file. tmp, shm: the other file
    systems of the sandbox. All three lie in memory, and take it only as far as they are filled.
    """

    memory: int = 8 << 30
    processes: int = 512
    open_files: int = 1024
    file: int = 4 << 30
    work: int = 8 << 30
    work_files: int = 20_000
    tmp: int = 1 << 30
    shm: int = 1 << 30

    def prefix(self, *, count_processes: bool) -> list[str]:
        """Return the command that puts the kernel's bounds on the command behind it; it may be empty.

        count_processes: whether to bound the number of processes, which the kernel counts by user id.
        """
        prlimit = shutil.which("prlimit")
        if prlimit is None:
            return []
        bounds = {"core": 0, "data": self.memory, "fsize": self.file, "nofile": self.open_files}
        if count_processes:
            bounds["nproc"] = self.processes
        return [prlimit, *(f"--{name}={value}:{value}" for name, value in bounds.items()), "--"]
