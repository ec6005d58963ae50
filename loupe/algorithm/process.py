"""How a process that trains is set up: what its libraries read once, when they are loaded."""

from __future__ import annotations

import os
import sys


def training_environment(threads: int) -> dict[str, str]:
    """Return the environment variables of a process that trains on so many threads; they are read when it starts.

    Threads that spin while they wait make everything crawl as soon as somebody else needs a core: waiting is passive
    (libgomp manual, GOMP_SPINCOUNT). Memory that was freed is kept for the next batch: by default glibc hands the large
    blocks back and has them zeroed again at every step (mallopt(3)); the mmap threshold is the largest it takes.
    """
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
        "MALLOC_TOP_PAD_": str(64 << 20),
    }


def restart_for_training(module: str, threads: int) -> None:
    """Replace this process by `python -m module` with the same arguments, unless it is set up to train."""
    environment = training_environment(threads)
    if any(name not in os.environ for name in environment):
        os.environ.update(environment)
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])
