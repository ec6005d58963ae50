"""LocalMesh: brings a whole mesh up on this machine, keeps it supervised, and takes it down again."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.algorithms import ToolCertificates, publish_built_in
from deploy.local import consul, nats
from deploy.local.certificates import ensure_certificates
from deploy.local.consul_binary import consul_version, find_consul
from deploy.local.endpoints import MeshEndpoints
from deploy.local.errors import DeployError, StartError
from deploy.local.files import write_if_changed
from deploy.local.health import ProcessStatus, is_healthy, status_of
from deploy.local.ports import settle
from deploy.local.processes import (
    FIXED_PORTS,
    Process,
    Tier,
    build,
    leaves,
    port_names,
    process_names,
    tier_of,
)
from deploy.local.state import DEFAULT_STATE, Shape, StateDirectory, TrainerId
from deploy.local.supervisor import SUPERVISOR, Supervisor, tail
from loupe.errors import LoupeError

DEFAULT_TRAINERS = (TrainerId("north", "a"), TrainerId("south", "b"))
DEFAULT_SLOTS = 1
_GIVE_UP_AFTER_STARTS = 6
_LOOK_EVERY_SECONDS = 0.1


class LocalMesh:
    """One mesh on this machine; as a context manager it is up inside and gone after.

    What is not given is taken from the state directory, and from the defaults in a new one. `processes` narrows
    the mesh to some of its processes (a test of Consul alone needs no trainer); `environment` is added to the
    environment of services and trainers. With `lifeline` the mesh goes down when this process ends, however it ends.
    """

    def __init__(
        self,
        state_dir: Path | str = DEFAULT_STATE,
        *,
        trainers: Sequence[tuple[str, str]] | None = None,
        slots: int | None = None,
        processes: Sequence[str] | None = None,
        environment: Mapping[str, str] | None = None,
        lifeline: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.state = StateDirectory(Path(state_dir))
        known = self.state.load() or Shape(DEFAULT_TRAINERS, DEFAULT_SLOTS)
        self._shape = Shape(
            known.trainers if trainers is None else tuple(TrainerId(*pair) for pair in trainers),
            known.slots if slots is None else slots,
            known.ports,
        )
        every = process_names(self._shape.trainers)
        foreign = sorted(set(processes or ()) - set(every))
        if foreign:
            raise DeployError(f"No process of this mesh is called {', '.join(foreign)}; it has {', '.join(every)}.")
        self._names = [name for name in every if processes is None or name in processes]
        self._environment = dict(environment or {})
        self._supervisor = Supervisor(self.state)
        self._lifeline = lifeline
        self._say = say

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def processes(self) -> list[str]:
        """The names of the mesh's processes in the order of their start."""
        return list(self._names)

    @property
    def endpoints(self) -> MeshEndpoints:
        """Where the mesh is reached; the ports are settled at the first start."""
        return MeshEndpoints.of(self.state, self._names, self._shape.ports)

    def start(self, timeout: float = 120) -> None:
        """Bring every process up and return when all are healthy.

        A mesh that runs already is brought to the asked shape; processes whose settings did not change go on
        undisturbed. What an earlier, lost supervisor left running is ended first. StartError after `timeout`
        seconds; then everything that this call started is stopped again.
        """
        deadline = time.monotonic() + timeout
        self.state.prepare()
        with self.state.locked():
            running = self._supervisor.answers()
            if not running:
                self._supervisor.clear_away()
            processes = self._prepare(running)
            self._supervisor.configure(processes)
            if running:
                self._supervisor.update()
            else:
                self._supervisor.launch(lifeline=self._lifeline)
            try:
                self._start_tiers(processes, deadline)
            except BaseException:
                if not running:
                    self._supervisor.shut_down()
                raise

    def stop(self, timeout: float = 60) -> None:
        """End every process, trainers first and Consul last, and leave nothing running."""
        if not self.state.run.exists():
            return
        with self.state.locked():
            if self._supervisor.answers():
                known = self._supervisor.states()
                for tier in reversed(Tier):
                    names = [name for name in known if tier_of(name) == tier]
                    self._supervisor.stop(names, timeout)
            self._supervisor.shut_down()

    def restart(self, process: str, timeout: float = 60) -> None:
        """Stop one process as the operator would, start it again and wait until it is healthy."""
        self._known(process)
        with self.state.locked():
            self._supervisor.stop([process], timeout)
            self._supervisor.start([process])
            self._wait([process], time.monotonic() + timeout)

    @contextmanager
    def without(self, process: str, timeout: float = 60) -> Iterator[None]:
        """Keep one process stopped inside, and start it again after."""
        self._known(process)
        self._supervisor.stop([process], timeout)
        try:
            yield
        finally:
            self._supervisor.start([process])
            self._wait([process], time.monotonic() + timeout)

    def kill(self, process: str) -> None:
        """Send SIGKILL to one process; the supervisor starts it again."""
        self._known(process)
        identity = self._supervisor.alive(process)
        if identity is None:
            raise DeployError(f"{process} does not run, so it cannot be killed.")
        identity.signal(signal.SIGKILL)

    def pid(self, process: str) -> int | None:
        """Return the process id of one process (or of the `supervisor`); None while it does not run."""
        self._known(process)
        identity = self._supervisor.alive(process)
        return identity.pid if identity else None

    def wait_healthy(self, *processes: str, timeout: float = 60) -> None:
        """Return when the processes (all of them by default) are healthy; StartError after `timeout`."""
        self._wait(list(processes) or self._names, time.monotonic() + timeout)

    def status(self) -> list[ProcessStatus]:
        """Tell about each process now, in the order of their start."""
        known = self._supervisor.states() if self.supervised else {}

        def ask(name: str) -> ProcessStatus:
            return status_of(self.state, name, self._supervisor.identity(name), known.get(name), self._shape.ports)

        with ThreadPoolExecutor(max_workers=8) as pool:
            return list(pool.map(ask, self._names))

    @property
    def supervised(self) -> bool:
        """Whether the supervisor is there."""
        return self._supervisor.answers()

    def _prepare(self, running: bool) -> list[Process]:
        """Make everything on disk that the processes read: ports, certificates, secrets, configurations."""
        wanted = port_names(process_names(self._shape.trainers))
        ports = settle(wanted, self._shape.ports, FIXED_PORTS, running, random.SystemRandom())
        self._shape = Shape(self._shape.trainers, self._shape.slots, ports)
        now = datetime.now(UTC)
        ensure_certificates(self.state.tls, leaves(self._shape.trainers), now)
        # An authority of Consul's own: whoever holds a certificate of it may speak for the server.
        ensure_certificates(consul.tls_folder(self.state), [consul.CERTIFICATE], now)
        consul.ensure_consul_secrets(self.state, self._shape.trainers)
        nats.ensure_nats_secrets(self.state)
        binary = find_consul(self._say)
        configuration = consul.consul_configuration(self.state, ports, consul_version(binary))
        write_if_changed(self.state.of("consul") / "agent.json", configuration)
        write_if_changed(self.state.of("nats") / "server.conf", nats.nats_configuration(self.state, ports["nats"]))
        self.state.save(self._shape, self.endpoints.document())
        return build(self.state, self._shape, self._names, binary, self._environment)

    def _start_tiers(self, processes: Sequence[Process], deadline: float) -> None:
        """Start all at once, the lower tiers first: what is above waits by itself for what is below."""
        names = [process.name for process in processes]
        if missing := [name for name in names if self._supervisor.alive(name) is None]:
            self._say(f"starting {', '.join(missing)}")
        self._supervisor.start(names)
        self._wait([process.name for process in processes if process.tier == Tier.INFRASTRUCTURE], deadline)
        if "consul" in names:
            consul.ensure_tokens(self.state, self._shape.ports["consul-http"], self._shape.trainers)
        self._wait(names, deadline)
        if "storage" in names:
            self._fill_library()

    def _fill_library(self) -> None:
        own = ToolCertificates(*(self.state.tls / name for name in ("ca.pem", "deploy.pem", "deploy.key")))
        try:
            with ThreadPoolExecutor(max_workers=1) as pool:  # a caller's event loop may run in this thread
                pool.submit(lambda: asyncio.run(publish_built_in(self.endpoints.internal["storage"], own))).result()
        except LoupeError as error:
            raise StartError(f"the built-in algorithm images could not be published: {error}") from error

    def _wait(self, names: Sequence[str], deadline: float) -> None:
        waiting = list(names)
        while True:
            waiting = [name for name in waiting if not self._healthy(name)]
            if not waiting:
                return
            hopeless = [name for name in waiting if self._starts(name) >= _GIVE_UP_AFTER_STARTS]
            if hopeless or time.monotonic() > deadline:
                raise StartError(self._explain(hopeless or waiting))
            time.sleep(_LOOK_EVERY_SECONDS)

    def _healthy(self, name: str) -> bool:
        return self._supervisor.alive(name) is not None and is_healthy(self.state, name, self._shape.ports)

    def _starts(self, name: str) -> int:
        identity = self._supervisor.identity(name)
        return identity.starts if identity else 0

    def _explain(self, names: Sequence[str]) -> str:
        parts = [f"{', '.join(names)} did not become healthy."]
        for name in names:
            log = self.state.log(name)
            parts.append(f"{name}: started {self._starts(name)} times; its log ({log}) ends:\n{tail(log)}")
        return "\n".join(parts)

    def _known(self, process: str) -> None:
        if process not in {*self._names, SUPERVISOR}:
            raise DeployError(f"No process is called {process}; this mesh has {', '.join(self._names)}.")
