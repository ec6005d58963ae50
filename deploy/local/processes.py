"""The processes of a local mesh: command, environment, ports, and the tier in which they start and stop."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

from deploy.local import consul, nats
from deploy.local.certificates import Leaf
from deploy.local.consul import SERVICES
from deploy.local.state import Shape, StateDirectory, TrainerId

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY_CERTIFICATE = "deploy"
FIXED_PORTS = frozenset({"auth-public", "consul-server"})
"""Ports others have written down: terminals where they log in, Consul in its own raft log."""


class Tier(IntEnum):
    """The order of start and stop: what is above waits at its start for what is below, and needs it to its end."""

    INFRASTRUCTURE = 0
    SERVICE = 1
    TRAINER = 2


def tier_of(name: str) -> Tier:
    """Return the tier of the process called `name`."""
    if name in {"consul", "nats"}:
        return Tier.INFRASTRUCTURE
    return Tier.SERVICE if name in SERVICES else Tier.TRAINER


@dataclass(frozen=True)
class Process:
    """One program that the supervisor keeps running."""

    name: str
    tier: Tier
    command: tuple[str, ...]
    stop_seconds: int
    """How long it may take to end by itself after SIGTERM."""
    environment: Mapping[str, str] = field(default_factory=dict)
    depends_on: tuple[Path, ...] = ()
    """Files that it reads at its start only: a change restarts it."""


def port_names(names: Sequence[str]) -> list[str]:
    """Return the name of every port that the processes called `names` need."""
    wanted = []
    for name in names:
        if name == "consul":
            wanted += ["consul-http", "consul-server", "consul-serf"]
        elif name == "nats":
            wanted.append("nats")
        elif name in SERVICES:
            wanted += [f"{name}-public", f"{name}-internal"]
        else:
            wanted.append(f"{name}-internal")
    return wanted


def ports_of(name: str, ports: Mapping[str, int]) -> dict[str, int]:
    """Return the settled ports of one process by what they are for: `public`, `internal`, or another word."""
    own = {key.removeprefix(f"{name}-") if key != name else "client": key for key in port_names([name])}
    return {label: ports[key] for label, key in own.items() if key in ports}


def process_names(trainers: Sequence[TrainerId]) -> list[str]:
    """Return every process of a mesh in the order of its start."""
    return ["consul", "nats", *SERVICES, *(trainer.process for trainer in trainers)]


def leaves(trainers: Sequence[TrainerId]) -> list[Leaf]:
    """Return the certificates that the mesh's processes and its deployment need."""
    return [
        *(Leaf(name, f"loupe://service/{name}") for name in SERVICES),
        *(Leaf(trainer.process, f"loupe://trainer/{trainer}") for trainer in trainers),
        Leaf("nats"),
        Leaf(DEPLOY_CERTIFICATE, f"loupe://service/{DEPLOY_CERTIFICATE}", server=False),
    ]


def build(
    state: StateDirectory, shape: Shape, names: Sequence[str], consul_binary: Path, extra: Mapping[str, str]
) -> list[Process]:
    """Return the named processes; `extra` is added to the environment of services and trainers."""
    processes = []
    for name in names:
        if name == "consul":
            file = state.of("consul") / "agent.json"
            command = (str(consul_binary), "agent", f"-config-file={file}")
            files = (file, consul.tls_folder(state) / f"{consul.CERTIFICATE.name}.pem")
            processes.append(Process(name, Tier.INFRASTRUCTURE, command, stop_seconds=10, depends_on=files))
        elif name == "nats":
            file = state.of("nats") / "server.conf"
            command = (str(nats.nats_binary()), "--config", str(file))
            files = (file, state.tls / "nats.pem")
            processes.append(Process(name, Tier.INFRASTRUCTURE, command, stop_seconds=10, depends_on=files))
        else:
            processes.append(_service(state, shape, name, extra))
    return processes


def _service(state: StateDirectory, shape: Shape, name: str, extra: Mapping[str, str]) -> Process:
    ports = shape.ports
    trainer = next((trainer for trainer in shape.trainers if trainer.process == name), None)
    environment = {
        "PYTHONUNBUFFERED": "1",
        # A proxy for the world outside is none for loopback.
        **{variable: _without_proxy(os.environ.get(variable, "")) for variable in ("no_proxy", "NO_PROXY")},
        "LOUPE_STATE": str(state.of(name)),
        "LOUPE_INTERNAL_PORT": str(ports[f"{name}-internal"]),
        "LOUPE_TLS_CA": str(state.tls / "ca.pem"),
        "LOUPE_TLS_CERT": str(state.tls / f"{name}.pem"),
        "LOUPE_TLS_KEY": str(state.tls / f"{name}.key"),
        "LOUPE_CONSUL_URL": f"http://127.0.0.1:{ports['consul-http']}",
        "LOUPE_CONSUL_TOKEN_FILE": str(consul.token_file(state, name)),
    }
    if trainer:
        environment |= {
            "LOUPE_CLUSTER": trainer.cluster,
            "LOUPE_TRAINER": trainer.trainer,
            "LOUPE_SLOTS": str(shape.slots),
        }
    else:
        environment["LOUPE_PUBLIC_PORT"] = str(ports[f"{name}-public"])
        environment["LOUPE_NATS_URL"] = f"tls://127.0.0.1:{ports['nats']}"
        if name in nats.USERS:
            environment["LOUPE_NATS_USER"] = name
            environment["LOUPE_NATS_PASSWORD_FILE"] = str(nats.password_file(state, name))
    if name == "auth":
        environment |= {
            "LOUPE_NATS_CALLOUT_SEED_FILE": str(state.secret(nats.CALLOUT_SEED)),
            "LOUPE_NATS_XKEY_FILE": str(state.secret(nats.XKEY_SEED)),
            "LOUPE_NATS_SYS_USER": "auth-sys",
            "LOUPE_NATS_SYS_PASSWORD_FILE": str(nats.password_file(state, "auth-sys")),
            "LOUPE_ADMIN_PASSWORD_FILE": str(state.secret("admin-password")),
        }
    return Process(
        name=name,
        tier=tier_of(name),
        command=(sys.executable, "-m", f"services.{'trainer' if trainer else name}"),
        stop_seconds=20,
        environment={**environment, **extra},
        depends_on=(state.tls / "ca.pem", state.tls / f"{name}.pem"),
    )


def _without_proxy(named: str) -> str:
    hosts = [host for host in named.split(",") if host]
    return ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def spec(state: StateDirectory, process: Process) -> tuple[str, str]:
    """Return what launch.py reads to become the process, and a digest of all that it depends on."""
    document = {
        "command": process.command,
        "directory": str(CHECKOUT),
        "environment": dict(process.environment),
        "log": str(state.log(process.name)),
        "record": str(state.run / f"{process.name}.json"),
    }
    text = json.dumps(document, indent=2) + "\n"
    digest = hashlib.sha256(text.encode())
    for file in process.depends_on:
        digest.update(file.read_bytes())
    return text, digest.hexdigest()[:16]
