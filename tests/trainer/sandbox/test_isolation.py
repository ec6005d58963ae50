"""What a run cannot do in bubblewrap: reach anything, see anything, take everything. Each refusal has its control."""

from __future__ import annotations

import asyncio
import os
import socket
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from services.trainer.attempts.events import Failed, Finished, Logged, Progressed
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.plain_process import PlainProcess
from tests.trainer.fakes import JOB, LIMITS, Rig, make_rig

TRY = """
import os, socket, subprocess, sys
from pathlib import Path
from loupe.algorithm.host import Outcome, Result

def attempt(action):
    try:
        return repr(action())
    except BaseException as error:
        return f"refused: {{type(error).__name__}}"

def train(host):
    seen = {{}}
{body}
    host.finish(Result(Outcome.PLATEAU, {{}}, seen))
"""


async def tried(rig: Rig, body: str, attempt: int = 1) -> dict[str, Any]:
    """Run the body inside, which fills `seen`, and return that."""
    code = TRY.format(body=textwrap.indent(textwrap.dedent(body), "    "))
    last = (await rig.run(code, attempt=attempt))[-1].what
    assert isinstance(last, Finished), last
    return cast(dict[str, Any], last.report)


class Listeners:
    """Doors of the host that a run must not reach: TCP, an abstract and a named unix socket."""

    def __init__(self, folder: Path) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self.tcp.getsockname()[1]
        self.abstract = f"\0loupe-test-{os.getpid()}"
        self.named = str(folder / "agent.sock")
        self.sockets = [self.tcp]
        for address in (self.abstract, self.named):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen()
            self.sockets.append(listener)
        Path(self.named).chmod(0o777)

    def close(self) -> None:
        for each in self.sockets:
            each.close()


@pytest.fixture
def listeners(tmp_path: Path):
    listeners = Listeners(tmp_path)
    yield listeners
    listeners.close()


def reach(listeners: Listeners) -> str:
    """Return the code that tries every door; it runs inside, and outside as the control."""
    return f"""
    def tcp(host, port):
        with socket.create_connection((host, port), 2) as s:
            return "reached"
    def unix(path):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(2); s.connect(path)
            return "reached"
    seen["service"] = attempt(lambda: tcp("127.0.0.1", {listeners.port}))
    seen["abstract"] = attempt(lambda: unix({listeners.abstract!r}))
    seen["named"] = attempt(lambda: unix({listeners.named!r}))
    """


async def test_no_door_of_the_host_is_reached(isolated: Rig, plain: PlainProcess, listeners, tmp_path) -> None:
    """Loopback services, as Consul and NATS are, and unix sockets are out of reach; a plain process reaches all."""
    inside = await tried(isolated, reach(listeners))
    assert all(answer.startswith("refused") for answer in inside.values()), inside
    async with make_rig(plain, tmp_path / "plain") as rig:
        assert set((await tried(rig, reach(listeners))).values()) == {"'reached'"}


async def test_no_name_is_resolved_and_no_network_is_there(isolated: Rig) -> None:
    """Nothing but an own loopback is there, and netlink is closed."""
    seen = await tried(
        isolated,
        """
        seen["devices"] = attempt(lambda: sorted(name for _, name in socket.if_nameindex()))
        seen["outside"] = attempt(lambda: socket.create_connection(("198.51.100.1", 80), 2))
        seen["name"] = attempt(lambda: socket.getaddrinfo("example.org", 80))
        seen["netlink"] = attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
        """,
    )
    assert seen.pop("devices") in ("['lo']", "refused: PermissionError", "refused: OSError")
    assert all(answer.startswith("refused") for answer in seen.values()), seen


async def test_nothing_of_the_host_is_read(isolated: Rig, monkeypatch, tmp_path) -> None:
    """Files, environment and processes of the host are not there; neither are other jobs' folders."""
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o666)
    monkeypatch.setenv("LOUPE_SECRET", "canary")
    seen = await tried(
        isolated,
        f"""
        for path in ("/etc/shadow", "/etc/passwd", "/proc/1/environ", "/root/.bashrc", {str(secret)!r}):
            seen[path] = attempt(lambda: open(path, "rb").read())
        seen["home"] = attempt(lambda: os.listdir("/home"))
        seen["root"] = attempt(lambda: sorted(os.listdir("/")))
        seen["services"] = attempt(lambda: __import__("services"))
        seen["environment"] = repr("canary" in str(os.environ))
        seen["processes"] = repr(len([name for name in os.listdir("/proc") if name.isdigit()]))
        seen["uid"] = repr(os.getuid())
        seen["own"] = attempt(lambda: open("/proc/self/environ", "rb").read() != b"")
        """,
    )
    assert seen.pop("own") == "True"
    assert seen.pop("environment") == "False"
    assert int(seen.pop("processes")) <= 3
    assert int(seen.pop("uid")) != 0
    assert "state" not in seen.pop("root")
    assert seen.pop("/proc/1/environ") in ("b''", "refused: PermissionError")
    assert all(answer.startswith("refused") for answer in seen.values()), seen


async def test_no_privilege_is_gained(isolated: Rig) -> None:
    """No capability, no nested user namespace, no ptrace, no keyring, no setuid program, nothing writable outside."""
    seen = await tried(
        isolated,
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        def syscall(number, *arguments):
            if libc.syscall(number, *arguments) == -1:
                raise OSError(ctypes.get_errno(), "refused")
        status = Path("/proc/self/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        seen["capabilities"] = fields["CapEff"].strip() + fields["CapBnd"].strip()
        seen["filter"] = fields["Seccomp"].strip()
        seen["user namespace"] = attempt(lambda: syscall(272, 0x10000000))
        seen["keyctl"] = attempt(lambda: syscall(250, 0, -3, 0))
        seen["ptrace"] = attempt(lambda: syscall(101, 16, os.getppid(), 0, 0))
        seen["bpf"] = attempt(lambda: syscall(321, 0, 0, 0))
        seen["mount"] = attempt(lambda: syscall(165, 0, 0, 0, 0, 0))
        for path in ("/usr/x", "/job/data/x", "/job/code/x", "/x", "/etc/x"):
            seen[path] = attempt(lambda: open(path, "w"))
        seen["data"] = attempt(lambda: os.chmod("/job/data/job.json", 0o666))
        seen["work"] = attempt(lambda: (host.work / "x").write_text("x"))
        """,
    )
    assert set(seen.pop("capabilities")) == {"0"}
    assert seen.pop("filter") == "2"
    assert seen.pop("work") == "1"
    assert all(answer.startswith("refused") for answer in seen.values()), seen


async def test_only_unix_sockets_are_given(isolated: Rig) -> None:
    """No training needs the other families; what an int cannot hold and the kernel does not read opens none of them."""
    seen = await tried(
        isolated,
        """
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        def open_family(family):
            for kind in (1, 2, 3, 5):
                if libc.syscall(41, ctypes.c_ulong(family), kind, 0) >= 0:
                    return "open"
                if ctypes.get_errno() != errno.EPERM:
                    return os.strerror(ctypes.get_errno())
            return "refused"
        for family in (0, *range(2, 50)):
            seen[str(family)] = open_family(family)
            seen[f"high {family}"] = open_family(family | 1 << 32)
        seen["pair"] = "refused" if libc.syscall(53, 30, 1, 0, ctypes.byref((ctypes.c_int * 2)())) else "open"
        seen["unix"] = attempt(lambda: [each.close() for each in socket.socketpair()] and "given")
        """,
    )
    assert seen.pop("unix") == "'given'"
    assert set(seen.values()) == {"refused"}, seen


async def test_no_namespace_and_no_door_of_the_kernel_is_opened(isolated: Rig) -> None:
    """Each call is refused before the kernel looks at what it was called with."""
    seen = await tried(
        isolated,
        """
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        def refused(number, *arguments):
            answer = libc.syscall(number, *map(ctypes.c_ulong, arguments or (0, 0, 0, 0, 0)))
            if answer == 0 and number == 56:
                os._exit(0)
            return answer == -1 and ctypes.get_errno() == errno.EPERM
        calls = {
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "process_madvise": 440, "kcmp": 312,
            "pidfd_getfd": 438, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "kexec_load": 246, "kexec_file_load": 320, "mount": 165, "umount2": 166, "setns": 308,
            "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431,
            "fsmount": 432, "fspick": 433, "mount_setattr": 442, "unshare": 272, "io_uring_setup": 425,
            "io_uring_enter": 426, "io_uring_register": 427, "memfd_create": 319, "memfd_secret": 447, "shmget": 29,
            "shmat": 30, "msgget": 68, "semget": 64, "mq_open": 240, "io_setup": 206, "vmsplice": 278,
            "name_to_handle_at": 303, "open_by_handle_at": 304, "swapon": 167, "init_module": 175, "syslog": 103,
            "quotactl": 179, "quotactl_fd": 443, "fanotify_init": 300, "move_pages": 279, "migrate_pages": 256,
        }
        for name, number in calls.items():
            seen[name] = refused(number)
        for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
            seen[f"clone {flag:x}"] = refused(56, flag | 17, 0, 0, 0, 0)
        """,
    )
    assert [name for name, answer in seen.items() if answer is not True] == []


async def test_a_fork_bomb_ends_in_its_own_slot(isolated: Rig) -> None:
    """The number of processes is bounded, and none of them is left afterwards."""
    before = psutil.Process().children(recursive=True)
    seen = await tried(
        isolated,
        """
        import time
        count = 0
        def bomb():
            nonlocal count
            while count < 10_000:
                if os.fork() == 0:
                    time.sleep(600)
                    os._exit(0)
                count += 1
        seen["bomb"] = attempt(bomb)
        seen["count"] = count
        """,
    )
    assert seen["bomb"] == "refused: BlockingIOError"
    assert 1 <= seen["count"] <= LIMITS.processes
    assert [child for child in psutil.Process().children(recursive=True) if child not in before] == []


@pytest.mark.parametrize(
    ("code", "limit"),
    [
        (
            """
            import os, time
            def train(host):
                for _ in range(4):
                    if os.fork() == 0:
                        hog = bytearray(b"x") * (80 << 20)
                        time.sleep(600)
                time.sleep(600)
            """,
            "memory",
        ),
        (
            """
            import time
            def train(host):
                for number in range(8):
                    (host.work / str(number)).write_bytes(b"x" * (5 << 20))
                time.sleep(600)
            """,
            "disk",
        ),
        (
            """
            import time
            def train(host):
                for number in range(600):
                    (host.work / str(number)).touch()
                time.sleep(600)
            """,
            "files",
        ),
    ],
)
async def test_what_a_job_uses_as_a_whole_is_bounded(bubblewrap, tmp_path, code: str, limit: str) -> None:
    """Many processes or files, each within its own bound, are ended together, and the failure names the limit."""
    limits = Limits(memory=200 << 20, processes=64, file=16 << 20, work=24 << 20, work_files=500)
    async with make_rig(bubblewrap, tmp_path, limits=limits) as rig:
        last = (await rig.run(code))[-1].what
        assert isinstance(last, Failed) and (last.reason, last.retryable) == ("RESOURCE_EXHAUSTED", False)
        assert f"more {limit} than it may" in last.message


async def test_pages_that_processes_share_count_once(bubblewrap, tmp_path) -> None:
    """A job that forks workers over what it has loaded does not use it so many times."""
    code = """
    import os, time
    from loupe.algorithm.host import Outcome, Result
    def train(host):
        loaded = bytearray(b"x") * (60 << 20)
        for _ in range(6):
            if os.fork() == 0:
                time.sleep(600)
        time.sleep(1.5)
        host.finish(Result(Outcome.PLATEAU, {}, {}))
    """
    async with make_rig(bubblewrap, tmp_path, limits=replace(LIMITS, memory=200 << 20)) as rig:
        last = (await rig.run(code))[-1].what
        assert isinstance(last, Finished), last


async def test_one_process_and_one_file_are_bounded_by_the_kernel(isolated: Rig) -> None:
    """Too much memory is a MemoryError, too large a file an OSError: the algorithm sees it where it happens."""
    seen = await tried(
        isolated,
        f"""
        seen["memory"] = attempt(lambda: bytearray({LIMITS.memory} + (64 << 20)))
        def fill(path):
            with open(path, "wb", 0) as stream:
                while True:
                    stream.write(b"x" * (8 << 20))
        seen["file"] = attempt(lambda: fill(host.work / "x"))
        seen["shm"] = attempt(lambda: fill("/dev/shm/x"))
        seen["tmp"] = attempt(lambda: fill("/tmp/x"))
        os.unlink(host.work / "x")
        """,
    )
    assert seen == {
        "memory": "refused: MemoryError",
        "file": "refused: OSError",
        "shm": "refused: OSError",
        "tmp": "refused: OSError",
    }


async def test_a_flood_of_output_is_cut_and_stops_nobody(isolated: Rig) -> None:
    """A job that prints without end is read at a bounded rate; its log is short, says so, and the loop stays free."""
    code = """
    import os, threading, time
    from loupe.algorithm.host import Outcome, Progress, Result
    def train(host):
        end = time.monotonic() + 1.5
        def flood():
            while time.monotonic() < end:
                os.write(1, b"\\x1b[31mflood " * 5 + b"\\n" * 1000)
                os.write(1, b"line\\n" * 1000)
        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        while time.monotonic() < end:
            host.report(Progress("flood", step=1))
            host.log("flood")
        host.finish(Result(Outcome.PLATEAU, {}, {}))
    """
    longest = 0.0
    done = asyncio.Event()

    async def measure() -> None:
        """What the loop computed between two turns of this; what others on a busy machine took is not counted."""
        nonlocal longest
        while not done.is_set():
            before = time.thread_time()
            await asyncio.sleep(0.01)
            longest = max(longest, time.thread_time() - before)

    measuring = asyncio.create_task(measure())
    events = await isolated.run(code)
    done.set()
    await measuring
    assert isinstance(events[-1].what, Finished), events[-1]
    lines = [event.what.text for event in events if isinstance(event.what, Logged)]
    assert len(lines) < 400
    assert any("were left out" in line for line in lines)
    assert not any("\x1b" in line for line in lines)
    assert len([event for event in events if isinstance(event.what, Progressed)]) < 300
    assert longest < 0.5, f"the trainer did nothing else for {longest:.2f} s"


async def test_progress_cannot_be_forged_for_another_job(isolated: Rig) -> None:
    """Whatever job or attempt a message names, its event is the attempt's whose pipe it came through."""
    code = """
    import json, struct
    from loupe.algorithm.host import Outcome, Result
    def train(host):
        message = {"type": "report", "phase": "forged", "epoch": 1, "step": 0, "total_steps": 0, "metrics": {},
                   "message": "", "job": "projects/other/jobs/j9", "attempt": 9, "sequence": 1}
        body = json.dumps(message).encode()
        host._pipe.sendall(struct.pack(">I", len(body)) + body)
        host.finish(Result(Outcome.PLATEAU, {}, {}))
    """
    events = await isolated.run(code)
    assert [event.what.progress.phase for event in events if isinstance(event.what, Progressed)] == ["forged"]
    assert [event.sequence for event in events] == [1, 2, 3]
    assert [key.job for key in isolated.attempts._attempts] == [JOB]


async def test_an_uploaded_image_needs_a_sandbox(plain: PlainProcess, tmp_path) -> None:
    """Where there is no sandbox, an image that does not ship with Loupe is refused by name, and a built-in one runs."""
    from loupe.errors import SandboxUnavailable

    async with make_rig(plain, tmp_path) as rig:
        spec = rig.spec("def train(host):\n    raise SystemExit\n", built_in=False)
        with pytest.raises(SandboxUnavailable, match="algorithms/tiny/versions/1 does not ship with Loupe"):
            rig.attempts.start(spec, 60)
        assert isinstance((await rig.run("def train(host):\n    pass\n"))[-1].what, Failed)


def test_the_control_can_be_reached_from_here(listeners) -> None:
    """The doors that a run must not reach are open: the test above means something."""
    threads = threading.active_count()
    for family, address in (
        (socket.AF_INET, ("127.0.0.1", listeners.port)),
        (socket.AF_UNIX, listeners.abstract),
        (socket.AF_UNIX, listeners.named),
    ):
        with socket.socket(family) as client:
            client.connect(address)
    assert threading.active_count() == threads
