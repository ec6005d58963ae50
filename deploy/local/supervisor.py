"""The supervisor (the PyPI package of that name) of one mesh: started, reconfigured, asked, shut down."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from supervisor.xmlrpc import SupervisorTransport

from deploy.local.errors import DeployError, StartError
from deploy.local.files import write_if_changed, write_private
from deploy.local.identity import Identity, end
from deploy.local.processes import CHECKOUT, Process, Tier, spec, tier_of
from deploy.local.state import StateDirectory

SUPERVISOR = "supervisor"
_HERE = Path(__file__).parent
_LOG_BYTES_AT_MOST = 32 << 20
_MANY = 1_000_000_000
_UP = {"RUNNING", "STARTING", "BACKOFF"}


def tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log, indented; a clear word when there are none."""
    if not log.exists():
        return "    (no log)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64_000))
        text = file.read().decode("utf-8", errors="replace")
    last = text.splitlines()[-lines:]
    return "\n".join(f"    {line}" for line in last) if last else "    (the log is empty)"


class _Interface(Protocol):
    """What is used of supervisord's XML-RPC interface."""

    def getState(self) -> object: ...
    def reloadConfig(self) -> list[list[list[str]]]: ...
    def addProcessGroup(self, name: str) -> bool: ...
    def removeProcessGroup(self, name: str) -> bool: ...
    def getAllProcessInfo(self) -> list[dict[str, Any]]: ...
    def startProcess(self, name: str, wait: bool) -> bool: ...
    def stopProcess(self, name: str, wait: bool) -> bool: ...
    def shutdown(self) -> bool: ...


class Supervisor:
    """The handle on the supervisord of one state directory."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._configuration = state.run / "supervisor.conf"
        self._child: subprocess.Popen[bytes] | None = None

    def identity(self, name: str = SUPERVISOR) -> Identity | None:
        """Return the recorded process called `name`, alive or not."""
        return Identity.read(self._state.run / f"{name}.json")

    def alive(self, name: str = SUPERVISOR) -> Identity | None:
        """Return the running process called `name`; None when it does not run."""
        identity = self.identity(name)
        return identity if identity and identity.is_alive() else None

    def recorded(self) -> list[str]:
        """Return the names of all processes that left a record, the supervisor aside."""
        return sorted(file.stem for file in self._state.run.glob("*.json") if file.stem != SUPERVISOR)

    def configure(self, processes: Sequence[Process]) -> None:
        """Write the supervisor's configuration and the processes' specs."""
        specs = self._state.run / "specs"
        specs.mkdir(mode=0o700, exist_ok=True)
        sections = [self._main_section()]
        for process in processes:
            text, digest = spec(self._state, process)
            file = specs / f"{process.name}.json"
            write_if_changed(file, text)
            sections.append(_program(process, file, digest))
        write_private(self._configuration, "\n".join(sections))

    def launch(self, *, lifeline: bool, timeout: float = 15) -> None:
        """Start supervisord and wait until it answers; with `lifeline` it ends with this process."""
        self._rotate_logs()
        for file in self._state.run.glob("*.json"):
            file.unlink()
        command = [sys.executable, "-m", "deploy.local.supervise", str(self._configuration)]
        command += ["lifeline"] if lifeline else []
        text = {
            "command": command,
            "directory": str(CHECKOUT),
            "environment": {"PYTHONUNBUFFERED": "1"},
            "log": str(self._state.log(SUPERVISOR)),
            "record": str(self._state.run / f"{SUPERVISOR}.json"),
        }
        file = self._state.run / "specs" / f"{SUPERVISOR}.json"
        write_if_changed(file, json.dumps(text))
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HERE / "launch.py"), str(file), "-"],
            stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout
        while not self.answers():
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise StartError(
                    f"The supervisor did not come up. Its log ({self._state.log(SUPERVISOR)}) ends:\n"
                    + tail(self._state.log(SUPERVISOR))
                )
            time.sleep(0.02)

    def answers(self) -> bool:
        """Tell whether supervisord runs and can be spoken to."""
        if self.alive() is None:
            return False
        try:
            self._rpc().getState()
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def update(self) -> None:
        """Make a running supervisord take over the configuration; what changed is stopped."""
        added, changed, removed = self._rpc().reloadConfig()[0]
        for name in [*changed, *removed]:
            self.stop([name], timeout=60)
            self._rpc().removeProcessGroup(name)
        for name in removed:
            (self._state.run / f"{name}.json").unlink(missing_ok=True)
        for name in [*added, *changed]:
            self._rpc().addProcessGroup(name)

    def states(self) -> dict[str, str]:
        """Return supervisord's word for the state of each process, as in RUNNING."""
        return {entry["name"]: entry["statename"] for entry in self._rpc().getAllProcessInfo()}

    def start(self, names: Sequence[str]) -> None:
        """Start those of the processes that do not run; it does not wait for them."""
        states = self.states()
        for name in names:
            if states[name] not in _UP:
                self._rpc().startProcess(name, False)

    def stop(self, names: Sequence[str], timeout: float) -> None:
        """Stop processes at the same time and wait for all; supervisord kills what does not end."""
        states = self.states()
        names = [name for name in names if name in states]
        for name in names:
            if states[name] in _UP:
                try:
                    self._rpc().stopProcess(name, False)
                except xmlrpc.client.Fault as fault:
                    if "NOT_RUNNING" not in fault.faultString:
                        raise
        deadline = time.monotonic() + timeout
        while True:
            states = self.states()
            busy = [n for n in names if states[n] in {*_UP, "STOPPING"}]
            if not busy:
                return
            if time.monotonic() > deadline:
                raise DeployError(f"{', '.join(busy)} did not stop within {timeout:.0f} s.")
            time.sleep(0.05)

    def shut_down(self, timeout: float = 30) -> None:
        """End supervisord, and whatever it or an earlier one left running."""
        identity = self.alive()
        if identity and self.answers():
            self._rpc().shutdown()
            deadline = time.monotonic() + timeout
            while identity.is_alive() and time.monotonic() < deadline:
                time.sleep(0.02)
        self.clear_away()

    def clear_away(self) -> None:
        """End a supervisord that cannot be spoken to and every recorded process that is left."""
        if identity := self.alive():
            end([identity], timeout=10)
        left = {name: identity for name in self.recorded() if (identity := self.alive(name))}
        # Consul last: services say goodbye to it.
        for tier in reversed(Tier):
            end([left[name] for name in left if tier_of(name) == tier], timeout=20)
        for file in self._state.run.glob("*.json"):
            file.unlink()
        self._state.socket.unlink(missing_ok=True)
        if self._child:
            self._child.wait()
            if self._child.stdin:
                self._child.stdin.close()
            self._child = None

    def _rpc(self) -> _Interface:
        # A new one a call: the transport keeps its connection, and a restarted supervisord has closed that.
        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._state.socket}")
        return cast(_Interface, xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor)

    def _main_section(self) -> str:
        root = f"user={pwd.getpwuid(0).pw_name}\n" if os.getuid() == 0 else ""  # or it warns of being root
        return (
            f"[unix_http_server]\nfile={_escape(str(self._state.socket))}\nchmod=0600\n\n"
            # Its log goes to its standard output, which launch.py points at a file.
            "[supervisord]\nlogfile=/dev/null\nlogfile_maxbytes=0\n"
            f"pidfile={_escape(str(self._state.run / 'supervisord.pid'))}\n"
            f"childlogdir={_escape(str(self._state.logs))}\numask=077\nminfds=4096\n{root}\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        )

    def _rotate_logs(self) -> None:
        for log in self._state.logs.glob("*.log"):
            if log.stat().st_size > _LOG_BYTES_AT_MOST:
                log.replace(log.with_suffix(".log.1"))


def _program(process: Process, file: Path, digest: str) -> str:
    command = shlex.join([sys.executable, "-I", "-S", str(_HERE / "launch.py"), str(file), digest])
    return (
        f"[program:{process.name}]\ncommand={_escape(command)}\nautostart=false\nautorestart=true\n"
        f"startsecs=1\nstartretries={_MANY}\nstopsignal=TERM\nstopwaitsecs={process.stop_seconds}\n"
        f"killasgroup=true\nstdout_logfile=NONE\nstderr_logfile=NONE\npriority={int(process.tier)}\n"
    )


def _escape(value: str) -> str:
    return value.replace("%", "%%")
