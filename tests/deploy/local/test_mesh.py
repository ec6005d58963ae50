"""Supervision: what dies comes back, what is lost is found again, what is ended stays ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from deploy.local.errors import DeployError, StartError
from deploy.local.identity import Identity
from deploy.local.mesh import LocalMesh
from deploy.local.supervisor import Supervisor


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def runs(pid: int | None) -> bool:
    return pid is not None and psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("process", ["consul", "nats"])
def test_a_killed_process_is_back_within_seconds(infrastructure: LocalMesh, process: str) -> None:
    # The supervisor trusts a process once it has lived for a second.
    until(lambda: next(s for s in infrastructure.status() if s.name == process).uptime_seconds > 1.5)
    before = infrastructure.pid(process)
    restarts = next(s for s in infrastructure.status() if s.name == process).restarts
    started = time.monotonic()
    infrastructure.kill(process)
    until(lambda: infrastructure.pid(process) not in {None, before})
    assert time.monotonic() - started < 3
    infrastructure.wait_healthy(process)
    assert next(s for s in infrastructure.status() if s.name == process).restarts == restarts + 1


def test_services_start_beside_what_they_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They import while Consul elects its leader."""
    started: list[list[str]] = []
    start = Supervisor.start

    def note(supervisor: Supervisor, names: Sequence[str]) -> None:
        started.append(list(names))
        start(supervisor, names)

    monkeypatch.setattr(Supervisor, "start", note)
    with LocalMesh(tmp_path / "mesh", processes=["consul", "storage"], lifeline=True) as mesh:
        assert {status.name: status.state for status in mesh.status()} == {"consul": "healthy", "storage": "healthy"}
    assert started == [["consul", "storage"]]


def test_a_second_start_leaves_running_processes_alone(infrastructure: LocalMesh) -> None:
    before = [infrastructure.pid(name) for name in ("consul", "nats", "supervisor")]
    LocalMesh(infrastructure.state.root, processes=["consul", "nats"]).start()
    assert [infrastructure.pid(name) for name in ("consul", "nats", "supervisor")] == before


def test_ports_certificates_and_secrets_stay_over_a_restart(nats_alone: LocalMesh) -> None:
    nats_alone.start()
    url = nats_alone.endpoints.nats_url
    kept = {
        file: file.read_bytes() for folder in ("tls", "secrets") for file in (nats_alone.state.root / folder).iterdir()
    }
    nats_alone.stop()
    again = LocalMesh(nats_alone.state.root, processes=["nats"], lifeline=True)
    with again:
        assert again.endpoints.nats_url == url
        assert {file: file.read_bytes() for file in kept} == kept


def test_a_running_mesh_takes_on_another_shape(nats_alone: LocalMesh) -> None:
    nats_alone.start()
    before = nats_alone.pid("nats")
    wider = LocalMesh(nats_alone.state.root, processes=["consul", "nats"])
    wider.start()
    assert {status.name: status.state for status in wider.status()} == {"consul": "healthy", "nats": "healthy"}
    consul = wider.pid("consul")
    nats_alone.start()
    assert not runs(consul)
    assert nats_alone.pid("nats") == before


def test_stop_leaves_nothing_running(nats_alone: LocalMesh) -> None:
    nats_alone.start()
    pids = [nats_alone.pid("nats"), nats_alone.pid("supervisor")]
    assert all(runs(pid) for pid in pids)
    nats_alone.stop()
    assert not any(runs(pid) for pid in pids)
    assert [status.state for status in nats_alone.status()] == ["stopped"]
    nats_alone.stop()  # once more does no harm


def test_processes_outlive_their_supervisor_and_are_ended_by_the_next_start(nats_alone: LocalMesh) -> None:
    nats_alone.start()
    orphan = nats_alone.pid("nats")
    nats_alone.kill("supervisor")
    until(lambda: not nats_alone.supervised)
    assert runs(orphan)
    assert [status.state for status in nats_alone.status()] == ["unsupervised"]
    nats_alone.start()
    assert not runs(orphan)
    assert [status.state for status in nats_alone.status()] == ["healthy"]


def test_stop_ends_what_a_lost_supervisor_left(nats_alone: LocalMesh) -> None:
    nats_alone.start()
    orphan = nats_alone.pid("nats")
    nats_alone.kill("supervisor")
    until(lambda: not nats_alone.supervised)
    nats_alone.stop()
    assert not runs(orphan)


def test_a_foreign_process_with_a_recorded_pid_is_left_alone(nats_alone: LocalMesh) -> None:
    nats_alone.state.prepare()
    with subprocess.Popen(["sleep", "60"]) as foreign:
        try:
            record = nats_alone.state.run / "nats.json"
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            record.write_text(f'{{"pid": {foreign.pid}, "ticks": 12345, "boot": "{boot}", "starts": 1}}')
            nats_alone.start()
            nats_alone.stop()
            assert foreign.poll() is None
            # The control: with the right start time it is the recorded process, and is ended.
            ticks = Path(f"/proc/{foreign.pid}/stat").read_text().rpartition(")")[2].split()[19]
            identity = Identity(foreign.pid, int(ticks), boot, 1)
            assert identity.is_alive()
            identity.signal(signal.SIGTERM)
            assert foreign.wait(10) == -signal.SIGTERM
            assert not identity.is_alive()
        finally:
            foreign.kill()


def test_the_mesh_ends_with_its_caller_when_tied_to_it(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import time
        from deploy.local.mesh import LocalMesh
        mesh = LocalMesh({str(tmp_path / "state")!r}, processes=["nats"], lifeline=True)
        mesh.start()
        print(mesh.pid("nats"), mesh.pid("supervisor"), flush=True)
        time.sleep(60)
    """)
    root = Path(__file__).resolve().parents[3]
    with subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        pids = [int(pid) for pid in caller.stdout.readline().split()]
        assert all(runs(pid) for pid in pids)
        os.kill(caller.pid, signal.SIGKILL)
    until(lambda: not any(runs(pid) for pid in pids))


def test_what_does_not_come_up_is_shown_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "nats-server"
    broken.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr("deploy.local.nats.nats_binary", lambda: broken)
    mesh = LocalMesh(tmp_path / "state", processes=["nats"], lifeline=True)
    with pytest.raises(StartError, match=r"nats did not become healthy(.|\n)*the disk is on fire"):
        mesh.start(timeout=3)
    assert mesh.pid("nats") is None
    assert mesh.pid("supervisor") is None


def test_restart_brings_up_a_new_process(nats_alone: LocalMesh) -> None:
    nats_alone.start()
    before = nats_alone.pid("nats")
    nats_alone.restart("nats")
    assert nats_alone.pid("nats") not in {None, before}


def test_a_new_certificate_restarts_only_who_uses_it(infrastructure: LocalMesh) -> None:
    consul, nats = infrastructure.pid("consul"), infrastructure.pid("nats")
    (infrastructure.state.tls / "nats.pem").unlink()
    infrastructure.start()
    assert infrastructure.pid("consul") == consul
    assert infrastructure.pid("nats") not in {None, nats}


def test_no_secret_stands_in_a_command_line_or_an_environment(infrastructure: LocalMesh) -> None:
    secrets = {file.read_text(encoding="utf-8").strip() for file in infrastructure.state.secrets.iterdir()}
    assert len(secrets) > 5
    for name in ("consul", "nats", "supervisor"):
        process = psutil.Process(infrastructure.pid(name))
        seen = "\n".join([*process.cmdline(), *process.environ().values()])
        assert not [secret for secret in secrets if secret in seen]


def test_unknown_processes_are_named(nats_alone: LocalMesh) -> None:
    with pytest.raises(DeployError, match="natz"):
        nats_alone.pid("natz")
    with pytest.raises(DeployError, match=r"trainer-east-x.*it has"):
        LocalMesh(nats_alone.state.root, processes=["trainer-east-x"])
    with pytest.raises(DeployError, match="does not run"):
        nats_alone.kill("nats")


def test_a_stopped_mesh_has_no_supervisor(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "never-started")
    assert not mesh.supervised
    assert {status.state for status in mesh.status()} == {"stopped"}
    mesh.stop()
    assert not (tmp_path / "never-started").exists()
    assert Supervisor(mesh.state).alive() is None
