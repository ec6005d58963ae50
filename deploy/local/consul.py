"""The Consul agent's configuration, and the policies and tokens of the processes that use it."""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import consul

from deploy.local.certificates import Leaf
from deploy.local.files import ensure_secret, private_directory
from deploy.local.state import StateDirectory, TrainerId

NODE = "loupe"
MANAGEMENT = "management"
SERVICES = ("auth", "storage", "scheduler")
Rules = dict[str, dict[str, dict[str, str]]]
_READ, _WRITE = {"policy": "read"}, {"policy": "write"}


CERTIFICATE = Leaf("consul", "loupe://service/consul")
"""What the server shows to whoever speaks its cluster protocol, which is only itself."""


def token_file(state: StateDirectory, process: str) -> Path:
    """Return where a process's Consul token lies."""
    return state.secret(f"consul-{process}.token")


def tls_folder(state: StateDirectory) -> Path:
    """Return the folder of Consul's own authority and certificate, made if missing."""
    return private_directory(state.of("consul") / "tls")


def policies(trainers: tuple[TrainerId, ...]) -> dict[str, Rules]:
    """Return each process's rules: register itself, find the others, write its own keys and no others.

    Whoever may make sessions of a node may end them all: only the scheduler may, which needs one for its lock.
    """

    def member(process: str) -> Rules:
        return {
            "node": {NODE: _READ},
            "service_prefix": {"loupe-": _READ},
            "service": {f"loupe-{process}": _WRITE},
        }

    rules = {service: member(service) for service in SERVICES}
    rules["scheduler"] |= {
        "session": {NODE: _WRITE},
        "key_prefix": {"loupe/trainers/": _READ, "loupe/scheduler/": _WRITE},
    }
    for trainer in trainers:
        rules[trainer.process] = member(trainer.process) | {"key": {f"loupe/trainers/{trainer}": _WRITE}}
    return rules


def ensure_consul_secrets(state: StateDirectory, trainers: tuple[TrainerId, ...]) -> None:
    """Make the tokens that are missing.

    The tokens are chosen here and told to Consul, instead of asking Consul for them: then a set-up that is killed
    half-way, or a Consul that lost its data, needs nothing but another `ensure_tokens`.
    """
    for process in (MANAGEMENT, *policies(trainers)):
        ensure_secret(token_file(state, process), lambda: str(uuid.uuid4()))
    ensure_secret(state.secret("consul-gossip.key"), lambda: base64.b64encode(os.urandom(32)).decode())


def consul_configuration(state: StateDirectory, ports: Mapping[str, int], version: tuple[int, ...]) -> str:
    """Return the agent's configuration file (JSON) for a Consul of `version`."""
    management = "initial_management" if version >= (1, 11) else "master"
    configuration = {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": NODE,
        "data_dir": str(state.of("consul")),
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "ports": {
            "http": ports["consul-http"],
            "server": ports["consul-server"],
            "serf_lan": ports["consul-serf"],
            "serf_wan": -1,
            "dns": -1,
            "grpc": -1,
        }
        | ({"grpc_tls": -1} if version >= (1, 14) else {}),
        "ca_file": str(tls_folder(state) / "ca.pem"),
        "cert_file": str(tls_folder(state) / f"{CERTIFICATE.name}.pem"),
        "key_file": str(tls_folder(state) / f"{CERTIFICATE.name}.key"),
        "verify_incoming_rpc": True,
        "verify_outgoing": True,
        "encrypt": _read(state.secret("consul-gossip.key")),
        # The first leader after 1 to 2 s instead of 7; and a trainer's load is seen at once.
        "performance": {"raft_multiplier": 1},
        "check_update_interval": "0s",
        # All processes come from one address, and each keeps a blocking query or two open.
        "limits": {"http_max_conns_per_client": 4096},
        "disable_update_check": True,
        "leave_on_terminate": False,
        "skip_leave_on_interrupt": True,
        "log_level": "warn",
        "acl": {
            "enabled": True,
            "default_policy": "deny",
            "down_policy": "extend-cache",
            "tokens": {
                management: _read(token_file(state, MANAGEMENT)),
                # The agent is the only server: it could do everything anyway, and with this one it need not wait
                # for a token of its own before it registers its node.
                "agent": _read(token_file(state, MANAGEMENT)),
            },
        },
        "connect": {"enabled": False},
    }
    return json.dumps(configuration, indent=2) + "\n"


def client(state: StateDirectory, port: int) -> consul.Consul:
    """Return a Consul client with the management token."""
    token = _read(token_file(state, MANAGEMENT))
    agent = consul.Consul(host="127.0.0.1", port=port, token=token, connections_timeout=5)
    agent.http.session.trust_env = False  # a proxy for the world outside is none for loopback
    return agent


def is_ready(state: StateDirectory, port: int) -> bool:
    """Tell whether writes are accepted and sessions could be made (they need the node's serfHealth)."""
    try:
        agent = client(state, port)
        checks = agent.health.node(NODE)[1]
        alive = any(check["CheckID"] == "serfHealth" and check["Status"] == "passing" for check in checks)
        return alive and bool(agent.kv.put("loupe/ready", "1"))
    except (consul.ConsulException, OSError):
        return False


def ensure_tokens(state: StateDirectory, port: int, trainers: tuple[TrainerId, ...]) -> None:
    """Make Consul know every policy and token as they should be, whatever it knew before."""
    agent = client(state, port)
    known = {policy["Name"]: policy["ID"] for policy in agent.acl.policy.list()}
    tokens = {token["Description"]: token["AccessorID"] for token in agent.acl.token.list()}
    for process, rules in policies(trainers).items():
        name = f"loupe-{process}"
        if name not in known:
            known[name] = agent.acl.policy.create(name, rules=rules)["ID"]
        elif json.loads(agent.acl.policy.read(known[name])["Rules"]) != rules:
            agent.acl.policy.update(known[name], name, rules=rules)
        secret = _read(token_file(state, process))
        if name in tokens:
            current = agent.acl.token.read(tokens[name])
            linked = [policy["ID"] for policy in current.get("Policies") or ()]
            if current["SecretID"] == secret and linked == [known[name]]:
                continue
            agent.acl.token.delete(tokens[name])
        agent.acl.token.create(secret_id=secret, policies_id=[known[name]], description=name)
    for name, accessor in tokens.items():
        if name.startswith("loupe-trainer-") and name.removeprefix("loupe-") not in policies(trainers):
            agent.acl.token.delete(accessor)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()
