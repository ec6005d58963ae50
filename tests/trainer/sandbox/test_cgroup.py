"""The kernel's bound on a sandbox as a whole, as far as a host gives it; files stand in for what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.trainer.sandbox.cgroup import CONTROLLERS, Cgroup, Cgroups
from services.trainer.sandbox.limits import Limits
from tests.trainer.fakes import alive

UNIFIED = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


@pytest.fixture
def real() -> Iterator[Cgroup]:
    """Give a cgroup of this machine, with or without controllers."""
    for root in UNIFIED:
        group = Cgroup(root / f"loupe-test-{uuid.uuid4().hex[:8]}")
        if (root / "cgroup.procs").exists() and os.access(root, os.W_OK):
            group.path.mkdir()
            yield group
            group.kill()
            return
    pytest.skip("no cgroup of version 2 can be made here")


BOMB = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        time.sleep(600)
print("ready", flush=True)
time.sleep(600)
"""


def test_all_that_was_started_in_it_dies_with_it(real: Cgroup) -> None:
    """Also what left its session and its parent."""
    if not (real.path / "cgroup.kill").exists():
        pytest.skip("this kernel cannot kill a cgroup")
    command = [*real.command(), sys.executable, "-c", BOMB]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None and started.stdout.readline() == b"ready\n"
        inside = [psutil.Process(int(pid)) for pid in (real.path / "cgroup.procs").read_text().split()]
        assert len(inside) >= 6
        real.kill()
        assert started.wait() == -9
    assert not any(map(alive, inside)) and not real.path.exists()


def delegated(folder: Path, *, controllers: str = "cpu memory pids", bounded: bool = True) -> Path:
    """Make files as a container finds them: the cgroup mounted as the root of all; return the /proc of a process."""
    own = folder / "cgroup"
    own.mkdir()
    (own / "cgroup.controllers").write_text(controllers)
    for file in ("cgroup.procs", "cgroup.subtree_control"):
        (own / file).touch()
    if bounded:
        (own / "memory.max").write_text("max")
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text("1:name=systemd:/\n0::/\n")
    (proc / "mountinfo").write_text(f"30 23 0:26 / {own} rw,nosuid shared:9 - cgroup2 cgroup rw\n")
    return proc


def test_a_cgroup_that_was_given_to_the_trainer_is_divided(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path / "cgroup")
    groups = Cgroups.find(delegated(tmp_path))
    assert groups == Cgroups(tmp_path / "cgroup")
    assert (tmp_path / "cgroup" / "cgroup.subtree_control").read_text().split() == [f"+{name}" for name in CONTROLLERS]
    assert (tmp_path / "cgroup" / f"trainer-{os.getpid()}" / "cgroup.procs").read_text() == str(os.getpid())
    group = groups.make("0-x-1", Limits(memory=1 << 30, processes=64))
    bounds = {path.name: path.read_text() for path in group.path.iterdir()}
    assert bounds == {"memory.max": str(1 << 30), "memory.oom.group": "1", "pids.max": "68"}
    assert not group.exceeded()
    (group.path / "memory.events").write_text("low 0\nmax 9\noom 1\noom_kill 3\n")
    assert group.exceeded()


@pytest.mark.parametrize("missing", ["controller", "bound", "mark", "version"])
def test_a_cgroup_that_is_somebody_elses_is_left_alone(tmp_path, monkeypatch, missing: str) -> None:
    """Without controllers, in the root of all, in a unit that was not delegated, and on hosts of version 1."""
    monkeypatch.setattr(Path, "is_mount", lambda path: missing != "mark" and path == tmp_path / "cgroup")
    proc = delegated(
        tmp_path, controllers="cpu memory" if missing == "controller" else "memory pids", bounded=missing != "bound"
    )
    if missing == "version":
        (proc / "cgroup").write_text("4:memory:/x\n")
    before = sorted((tmp_path / "cgroup").iterdir())
    assert Cgroups.find(proc) is None
    assert sorted((tmp_path / "cgroup").iterdir()) == before
