"""NATS' auth callout: a terminal's access token opens exactly the progress of the projects that it may read.

Everything that is not understood is refused, and so is everybody while this service is away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nacl.public
import nkeys
import structlog

from loupe.bus import STREAM, consumer_names, inbox_prefix
from loupe.errors import LoupeError, Unauthenticated, Unavailable
from loupe.identity import decode_token
from loupe.names import AccountName, ProjectName
from loupe.patterns import ID
from services.auth.nats import jwt as nats_jwt
from services.auth.policy.authority import Authority

log = structlog.get_logger(__name__)

READ = "jobs.read"
_CONNECTION_TYPES = ["STANDARD", "WEBSOCKET"]
_MAX_SUBSCRIPTIONS = 200
_MAX_PAYLOAD = 65_536
_CONSUMER = re.compile(rf"terminal-({ID})-[0-9]+")
_LABEL = re.compile(rf"({ID})\.([0-9a-f-]{{36}})\.([0-9a-f]{{16}})")


@dataclass(frozen=True)
class Grant:
    """What a connection may see: the projects, by the login of an account."""

    account: AccountName
    login: str
    projects: tuple[ProjectName, ...]

    @property
    def label(self) -> str:
        """The connection's name in NATS: account, login, and a digest of the projects."""
        projects = " ".join(str(project) for project in self.projects)
        return f"{self.account.account}.{self.login}.{hashlib.sha256(projects.encode()).hexdigest()[:16]}"


def account_of(label: str) -> tuple[AccountName, str] | None:
    """Read account and login from a connection's label; None for one that is not of a terminal."""
    match = _LABEL.fullmatch(label)
    return (AccountName(match[1]), match[2]) if match else None


def grant(authority: Authority, account: AccountName, login: str) -> Grant | None:
    """Return what a login may see now, None for nothing at all. Raises Unavailable while auth is not ready."""
    if not authority.is_active(account, login):
        return None
    projects = tuple(authority.allowed_projects(account, READ, login))
    return Grant(account, login, projects) if projects else None


def permissions(granted: Grant, token: str) -> dict[str, Any]:
    """List what may be sent and heard. A consumer must have its name and its filter in the request's subject.

    The names are few and the account's own: so many consumers it has at most, and only these may it delete. Neither
    list may ever be empty: to NATS that would mean everything.
    """
    subjects = [f"loupe.progress.{project.project}.>" for project in granted.projects]
    names = consumer_names(granted.account)
    assert subjects, "a grant has projects"
    publish = [
        *(f"$JS.API.CONSUMER.CREATE.{STREAM}.{name}.{subject}" for subject in subjects for name in names),
        *(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}" for name in names),
        *(f"$JS.API.DIRECT.GET.{STREAM}.{subject}" for subject in subjects),
        f"$JS.FC.{STREAM}.>",
    ]
    return {"pub": {"allow": publish}, "sub": {"allow": [f"{inbox_prefix(token)}.>", *subjects]}}


class Callout:
    """Answers what the NATS server asks about a connection.

    signer: the account key that the server's configuration names as issuer. sealer: the key that it seals for.
    key_of: the public key of an access token's key id. nats_account: where terminals land.
    """

    def __init__(
        self,
        authority: Authority,
        key_of: Callable[[str], Any],
        *,
        signer: nkeys.KeyPair,
        sealer: nacl.public.PrivateKey,
        nats_account: str,
        now: Callable[[], float],
    ) -> None:
        self._authority = authority
        self._key_of = key_of
        self._signer = signer
        self._sealer = sealer
        self._nats_account = nats_account
        self._now = now

    def answer(self, data: bytes, server_xkey: str | None) -> bytes:
        """Return the sealed answer to a sealed question. Raises Unauthenticated for what is no question."""
        if not server_xkey:
            raise Unauthenticated("the NATS request is not sealed", problem="seal")
        claims = nats_jwt.decode(nats_jwt.unseal(self._sealer, server_xkey, data).decode())
        try:
            asked = claims["nats"]
            user, server = str(asked["user_nkey"]), str(asked["server_id"]["id"])
            options = asked["connect_opts"]
            token = str(options.get("auth_token") or options.get("pass") or "")
        except (KeyError, TypeError, AttributeError) as error:
            raise Unauthenticated("the NATS request is incomplete", problem="claims") from error
        verdict = {"type": "authorization_response", "version": 2, **self._verdict(token, user)}
        signed = nats_jwt.encode(self._signer, user, verdict, self._now(), aud=server)
        return nats_jwt.seal(self._sealer, server_xkey, signed.encode())

    def _verdict(self, token: str, user: str) -> dict[str, str]:
        try:
            caller, expiry = decode_token(token, self._key_of)
            if caller.account is None or caller.attempt is not None:
                return {"error": "an access token is needed"}
            granted = grant(self._authority, caller.account, caller.login)
        except LoupeError as error:
            log.info("NATS connection refused", problem=error.metadata.get("problem", error.reason_name()))
            return {"error": error.message}
        if granted is None:
            return {"error": "there is no project whose progress this account may read"}
        return {"jwt": self._user(granted, token, user, expiry)}

    def _user(self, granted: Grant, token: str, user: str, expiry: float) -> str:
        limits = {"subs": _MAX_SUBSCRIPTIONS, "data": -1, "payload": _MAX_PAYLOAD}
        claims = {
            "type": "user",
            "version": 2,
            "allowed_connection_types": _CONNECTION_TYPES,
            **limits,
            **permissions(granted, token),
        }
        more = {"aud": self._nats_account, "exp": int(expiry), "name": granted.label}
        return nats_jwt.encode(self._signer, user, claims, self._now(), **more)


def connections_to_cut(authority: Authority, labels: dict[int, str]) -> list[int]:
    """Return which connections (id to label) were granted something else than what holds now.

    They may come back at once with what holds now. Connections that are not terminals' are left alone.
    """
    cut = []
    for connection, label in labels.items():
        holder = account_of(label)
        if holder is None:
            continue
        granted = grant(authority, *holder)
        if granted is None or granted.label != label:
            cut.append(connection)
    return cut


@dataclass(frozen=True)
class Consumer:
    """A consumer of the stream: its name, the subjects that it is sent, and whether it is one that terminals make.

    plain: it keeps nothing on disk, and asks for no acknowledgements, so that nothing is sent again.
    """

    name: str
    filters: tuple[str, ...]
    plain: bool


def consumers_to_delete(authority: Authority, consumers: Sequence[Consumer]) -> list[str]:
    """Return the names of those that no account may have now, or that are of another kind than terminals make."""
    readable: dict[AccountName, set[str]] = {}
    doomed = []
    for consumer in consumers:
        match = _CONSUMER.fullmatch(consumer.name)
        account = AccountName(match[1]) if match else None
        if account is None or not consumer.plain or not consumer.filters:
            doomed.append(consumer.name)
            continue
        if account not in readable:
            granted = grant(authority, account, "")
            readable[account] = {project.project for project in granted.projects} if granted else set()
        if not {_project_of(subject) for subject in consumer.filters} <= readable[account]:
            doomed.append(consumer.name)
    return doomed


def _project_of(subject: str) -> str:
    parts = subject.split(".")
    return parts[2] if len(parts) > 3 and parts[:2] == ["loupe", "progress"] else ""


def read_consumers(answer: bytes) -> tuple[list[Consumer], int]:
    """Read an answer about the stream's consumers: one page of them, and how many there are. Raises Unavailable.

    None while there is no stream.
    """
    try:
        data = json.loads(answer)
        if "error" in data:
            return [], 0
        return [_read_consumer(one["name"], one["config"]) for one in data["consumers"] or ()], int(data["total"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable("the NATS server does not list the consumers", dependency="nats") from error


def _read_consumer(name: str, config: dict[str, Any]) -> Consumer:
    filters = config.get("filter_subjects") or [config.get("filter_subject") or ""]
    plain = not config.get("durable_name") and config.get("ack_policy") == "none"
    return Consumer(name, tuple(filters), plain)


def read_connections(answer: bytes) -> tuple[dict[int, str], int]:
    """Read a CONNZ answer: label by connection id, and how many there are. Raises Unavailable."""
    try:
        data = json.loads(answer)["data"]
        return {one["cid"]: one.get("authorized_user", "") for one in data["connections"]}, int(data["total"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("the NATS server does not list its connections", dependency="nats") from error


def read_server(answer: bytes) -> str:
    """Read a server's id from its answer to a ping. Raises Unavailable."""
    try:
        return str(json.loads(answer)["server"]["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise Unavailable("the NATS server does not say who it is", dependency="nats") from error
