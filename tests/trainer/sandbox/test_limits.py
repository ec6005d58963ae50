"""What a job takes where no process and no file name shows it: counted, or impossible. Each attack has its control."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from services.trainer.attempts.events import Failed, Finished
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.warm import SlotPlan
from tests.trainer.fakes import Rig, make_rig
from tests.trainer.sandbox.test_isolation import tried

pytestmark = pytest.mark.attack

SMALL = Limits(memory=200 << 20, processes=64, file=64 << 20, work=24 << 20, work_files=500, tmp=1 << 30, shm=1 << 30)
HEAD = """
import ctypes, mmap, os, socket, time
from loupe.algorithm.host import Outcome, Result

MIB = b"x" * (1 << 20)
libc = ctypes.CDLL(None, use_errno=True)

def syscall(number, *arguments):
    answer = libc.syscall(number, *map(ctypes.c_ulong, arguments))
    if answer == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer

def train(host):
    os.chdir(host.work)
    held = []
    attack(host, held)
    time.sleep(2)
    host.finish(Result(Outcome.PLATEAU, {}, {"held": len(held)}))

def attack(host, held):
"""


def may_lower_scores() -> bool:
    """Return whether this process has CAP_SYS_RESOURCE, without which the kernel keeps no floor under a score."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


async def attack(bubblewrap, tmp_path, body: str, limits: Limits = SMALL) -> Failed:
    """Run the body, which fills `held`, and return how the job failed."""
    async with make_rig(bubblewrap, tmp_path, limits=limits) as rig:
        last = (await rig.run(HEAD + body))[-1].what
    assert isinstance(last, Failed), last
    assert not last.retryable
    return last


@pytest.mark.parametrize(
    "body",
    [
        # Shared memory without a name: python's own, the same from /dev/zero, System V's, and two kinds of memfd.
        "    held.append(mmap.mmap(-1, 1 << 20))",
        "    held.append(mmap.mmap(os.open('/dev/zero', os.O_RDWR), 1 << 20))",
        "    held.append(syscall(29, 0, 1 << 20, 0o1600))",
        "    held.append(os.memfd_create('x'))",
        "    held.append(syscall(447, 0))",
        # Queues and rings in the kernel.
        "    held.append(syscall(425, 8, ctypes.addressof(ctypes.create_string_buffer(256))))",
        "    held.append(syscall(68, 0, 0o1600))",
        "    held.append(syscall(64, 0, 32000, 0o1600))",
        "    held.append(syscall(206, 65536, ctypes.addressof(ctypes.c_ulong(0))))",
        "    held.append(syscall(240, ctypes.addressof(ctypes.create_string_buffer(b'q')), 0o102, 0o600, 0))",
        # Larger buffers than those that are counted.
        "    held.append(socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20))",
    ],
    ids=[
        "mmap", "zero", "shmget", "memfd", "secretmem", "io_uring", "msgget", "semget", "io_setup", "mq_open", "sndbuf",
    ],
)  # fmt: skip
async def test_memory_that_nobody_could_count_is_not_given(bubblewrap, tmp_path, body: str) -> None:
    last = await attack(bubblewrap, tmp_path, body)
    assert last.reason == "ALGORITHM_FAILED"
    assert "PermissionError" in last.message or "OSError: [Errno 19]" in last.message, last.message


@pytest.mark.parametrize(
    "area",
    ["mmap.mmap(-1, 60 << 20)", "mmap.mmap(large(os.memfd_create('x')), 60 << 20)"],
    ids=["mmap", "memfd"],
)
async def test_a_slot_with_a_gpu_may_share_memory_and_it_counts(bubblewrap, tmp_path, area: str) -> None:
    """Drivers share memory with the kernel without a file: what is mapped of it counts for the job as a whole."""
    body = f"""
    def large(descriptor):
        os.truncate(descriptor, 60 << 20)
        return descriptor
    for number in range(10):
        held.append({area})
        for _ in range(60):
            held[-1].write(MIB)
    """
    plan = SlotPlan(count=1, warm=0, gpu=True, limits=SMALL, runner="bare_runner:run_image")
    async with make_rig(bubblewrap, tmp_path, limits=SMALL, plan=plan) as rig:
        last = (await rig.run(HEAD + body))[-1].what
    assert isinstance(last, Failed) and "more memory than it may" in last.message, last


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        # Files of every memory file system: written, mapped and forgotten, without a name, in every process.
        (
            """
    for number in range(700):
        with open(f"/dev/shm/{number}", "wb", 0) as stream:
            stream.write(MIB)
        held.append(number)
            """,
            "memory",
        ),
        (
            """
    for number in range(20):
        stream = open(f"/tmp/{number}", "w+b")
        os.unlink(stream.name)
        stream.truncate(40 << 20)
        area = mmap.mmap(stream.fileno(), 40 << 20)
        for _ in range(40):
            area.write(MIB)
        area.madvise(mmap.MADV_DONTNEED)      # no process has these pages any more, the file has
        held.append(area)
            """,
            "memory",
        ),
        (
            """
    for number in range(10):
        if os.fork() == 0:
            hog = bytearray(b"x") * (60 << 20)
            time.sleep(600)
        held.append(number)
            """,
            "memory",
        ),
        # Sockets full of what nobody reads, with and without a descriptor; pipes; tables of pages.
        (
            """
    for child in range(40):
        if os.fork() == 0:
            for _ in range(500):
                pair = socket.socketpair()
                pair[0].setblocking(False)
                try:
                    while True:
                        pair[0].send(MIB[:60000])
                except BlockingIOError:
                    held.append(pair)
            time.sleep(600)
            """,
            "memory",
        ),
        (
            """
    for child in range(60):
        if os.fork() == 0:
            for _ in range(500):
                ends = os.pipe()
                os.set_blocking(ends[1], False)
                try:
                    while True:
                        os.write(ends[1], MIB[:4096])
                except BlockingIOError:
                    held.append(ends)
            time.sleep(600)
            """,
            "memory",
        ),
        (
            """
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for _ in range(20):
        size = 10 << 30
        area = libc.mmap(None, size, 1, 0x4022, -1, 0)      # read-only: the kernel's bound on data leaves it out
        libc.madvise(area, size, 15)                        # no huge pages
        for place in range(0, size, 2 << 20):
            ctypes.string_at(area + place, 1)
            """,
            "memory",
        ),
        # The work folder: files without a name, with holes filled, with many names, and many of them.
        (
            """
    for number in range(10):
        stream = open("x", "wb", 0)
        os.unlink("x")
        held.append(stream)
        try:
            for _ in range(60):
                stream.write(MIB)
        except OSError:
            pass
            """,
            "disk",
        ),
        (
            """
    with open("sparse", "wb", 0) as stream:
        stream.truncate(60 << 20)
        for place in range(0, 60 << 20, 4096):
            stream.seek(place)
            stream.write(b"x")
            """,
            "disk",
        ),
        (
            """
    open("x", "wb").close()
    for number in range(700):
        os.link("x", str(number))
            """,
            "files",
        ),
        (
            """
    for number in range(3000):
        os.mkdir("d")
        os.chdir("d")
            """,
            "files",
        ),
        (
            """
    for number in range(700):
        held.append(open("x", "wb"))
        os.unlink("x")
            """,
            "files",
        ),
    ],
    ids=[
        "shm", "unmapped", "fork", "sockets", "pipes", "page-tables", "unlinked", "sparse", "hard-links", "deep",
        "unlinked-many",
    ],
)  # fmt: skip
async def test_what_a_job_hides_counts_all_the_same(bubblewrap, tmp_path, body: str, limit: str) -> None:
    last = await attack(bubblewrap, tmp_path, body)
    assert last.reason == "RESOURCE_EXHAUSTED" and f"more {limit} than it may" in last.message, last.message


async def test_a_file_system_of_the_job_is_never_larger_than_its_bound(bubblewrap, tmp_path) -> None:
    """Between two looks of the watcher the kernel keeps the work folder's size; the host's disk is not touched."""
    seen: list[int] = []
    body = """
    try:
        for number in range(100):
            held.append(open(str(number), "wb", 0))
            os.unlink(str(number))
            held[-1].write(MIB * 4)
    except OSError:
        pass
    """
    async with make_rig(bubblewrap, tmp_path, limits=SMALL) as rig:
        spec = rig.spec(HEAD + body)
        rig.attempts.start(spec, 60)
        attempt = rig.attempts._attempts[spec.key]
        while attempt.live:
            for busy in psutil.Process().children(recursive=True):
                try:
                    found = os.statvfs(f"/proc/{busy.pid}/root/job/work")
                except OSError:
                    continue
                if found.f_blocks * found.f_frsize < 1 << 30:
                    seen.append((found.f_blocks - found.f_bfree) * found.f_frsize)
            await asyncio.sleep(0.01)
    assert SMALL.work < max(seen) <= SMALL.work + (1 << 20)


async def test_nothing_outside_the_three_folders_can_be_written(isolated: Rig) -> None:
    """Every file system that a job can write to is one that is bounded and counted."""
    seen = await tried(
        isolated,
        """
        writable = []
        for line in open("/proc/self/mounts"):
            _, place, kind, options, *_ = line.split()
            if os.path.isdir(place) and kind != "proc":
                try:
                    open(place + "/written", "w").close()
                    writable.append(place)
                except OSError:
                    pass
        seen["writable"] = sorted(writable)
        """,
    )
    assert seen["writable"] == ["/dev/shm", "/job/work", "/tmp"]


async def test_the_kernel_ends_jobs_before_services(isolated: Rig) -> None:
    """Should the machine run out of memory between two looks, it is a job that goes; it cannot take that back."""
    seen = await tried(
        isolated,
        """
        seen["score"] = attempt(lambda: Path("/proc/self/oom_score_adj").read_text().strip())
        seen["lower"] = attempt(lambda: Path("/proc/self/oom_score_adj").write_text("0"))
        """,
    )
    assert seen["score"] == "'1000'"
    if may_lower_scores():
        assert seen["lower"].startswith("refused")


async def test_shared_memory_for_workers_still_works(bubblewrap, tmp_path) -> None:
    """What multiprocessing and torch share goes through /dev/shm, and counts once."""
    body = """
    from multiprocessing import get_context, shared_memory
    context = get_context("fork")
    block = shared_memory.SharedMemory(create=True, size=40 << 20)
    block.buf[:] = b"x" * (40 << 20)
    queue = context.Queue()
    def work(number):
        seen = shared_memory.SharedMemory(name=block.name)
        queue.put(sum(seen.buf[:100]))
    workers = [context.Process(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    held += [queue.get(timeout=30) for _ in workers]
    for worker in workers:
        worker.join()
    block.close()
    block.unlink()
    """
    async with make_rig(bubblewrap, tmp_path, limits=replace(SMALL, memory=300 << 20)) as rig:
        last = (await rig.run(HEAD + body))[-1].what
    assert isinstance(last, Finished), last
    assert last.report == {"held": 4}
