"""Who calls: from a bearer token that is checked offline, or from the URI in a mutual-TLS client certificate."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from loupe.errors import LoupeError, Unauthenticated
from loupe.names import AccountName, JobName, TrainerName

ISSUER = AUDIENCE = "loupe"
LEEWAY_SECONDS = 30
ACCESS, ATTEMPT = "access", "attempt"
_CACHED_TOKENS = 10_000
_REFETCH_SECONDS = 1.0
_REQUIRED = ["iss", "aud", "sub", "exp", "iat", "nbf", "jti"]
_PEER = re.compile(r"loupe://(?:service/(?P<service>[a-z]+)|trainer/(?P<cluster>[a-z0-9-]+)/(?P<trainer>[a-z0-9-]+))")


@dataclass(frozen=True)
class AttemptGrant:
    """What an attempt token is good for."""

    job: JobName
    attempt: int


@dataclass(frozen=True)
class Caller:
    """Who makes this call. Empty: nobody has said who they are.

    account: who acts; for an attempt token, who submitted the job. login: the login that the token belongs to.
    service: the mesh service behind a mutual-TLS connection. trainer: set when service is "trainer".
    parameter: the permission parameter with which the call was let in, where it needs an action; 0 elsewhere.
    """

    account: AccountName | None = None
    login: str = ""
    service: str | None = None
    trainer: TrainerName | None = None
    attempt: AttemptGrant | None = None
    parameter: int = 0


_caller: ContextVar[Caller] = ContextVar("loupe_caller", default=Caller())  # noqa: B039 - Caller is immutable


def current_caller() -> Caller:
    """Return who makes the RPC that is being served."""
    return _caller.get()


def set_caller(caller: Caller) -> None:
    """Say who calls: for the interceptor, and for tests of rules. Every RPC runs in a context of its own."""
    _caller.set(caller)


class TokenVerifier(Protocol):
    """Turns a bearer token into a Caller."""

    async def verify(self, token: str) -> Caller:
        """Check signature, issuer, audience, type and times. Raises Unauthenticated."""


def caller_from_claims(claims: Mapping[str, Any], kind: str) -> Caller:
    """Read verified claims of a token of `kind`. Raises Unauthenticated when they make no sense."""
    try:
        account = AccountName.parse(claims["sub"], "sub")
        if kind == ACCESS:
            return Caller(account=account, login=str(claims["login"]))
        grant = AttemptGrant(JobName.parse(claims["job"], "job"), int(claims["attempt"]))
        return Caller(account=account, attempt=grant)
    except (KeyError, TypeError, ValueError, LoupeError) as error:
        raise Unauthenticated("the token's claims are incomplete", problem="claims") from error


def decode_token(token: str, key_of: Callable[[str], Any]) -> tuple[Caller, float]:
    """Verify a JWT against the key that `key_of(kid)` returns; give the caller and its expiry.

    Only EdDSA is taken, whatever the header says. Raises Unauthenticated with problem "malformed", "unknown_key",
    "expired", "not_yet_valid", "type" or "invalid".
    """
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise Unauthenticated("the token is not a JWT", problem="malformed") from error
    kind = header.get("typ")
    if kind not in (ACCESS, ATTEMPT):
        raise Unauthenticated("the token is of a type that is not taken here", problem="type")
    key = key_of(str(header.get("kid", "")))
    if key is None:
        raise Unauthenticated("the token was signed with a key that this mesh does not have", problem="unknown_key")
    try:
        claims = jwt.decode(
            token,
            key=key,
            algorithms=["EdDSA"],
            audience=AUDIENCE,
            issuer=ISSUER,
            leeway=LEEWAY_SECONDS,
            options={"require": _REQUIRED},
        )
    except jwt.ExpiredSignatureError as error:
        raise Unauthenticated("the token has expired; log in again or refresh it", problem="expired") from error
    except jwt.ImmatureSignatureError as error:
        raise Unauthenticated("the token is not valid yet; check the clocks", problem="not_yet_valid") from error
    except jwt.PyJWTError as error:
        raise Unauthenticated("the token is not valid here", problem="invalid") from error
    return caller_from_claims(claims, kind), float(claims["exp"])


class JwksVerifier:
    """Checks tokens with the public keys that auth publishes; it asks again when a key is unknown.

    fetch: returns the JWK set as JSON. now: wall-clock seconds; monotonic: seconds that only go up.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[str]],
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._now = now
        self._monotonic = monotonic
        self._keys: dict[str, Any] = {}
        self._fetched = float("-inf")
        self._lock = asyncio.Lock()
        self._verified: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    async def verify(self, token: str) -> Caller:
        """Return the caller. Raises Unauthenticated, or Unavailable while no key could be fetched yet."""
        known = self._verified.get(token)
        if known is not None and self._now() < known[1]:
            return known[0]
        kid = self._kid(token)
        if kid not in self._keys:
            await self._refetch()
        caller, expiry = decode_token(token, self._keys.get)
        self._verified[token] = (caller, expiry)
        while len(self._verified) > _CACHED_TOKENS:
            self._verified.popitem(last=False)
        return caller

    @staticmethod
    def _kid(token: str) -> str:
        try:
            return str(jwt.get_unverified_header(token).get("kid", ""))
        except jwt.PyJWTError:
            return ""

    async def _refetch(self) -> None:
        async with self._lock:
            if self._monotonic() - self._fetched < _REFETCH_SECONDS:
                return
            keys = jwt.PyJWKSet.from_json(await self._fetch())
            self._keys = {key.key_id: key for key in keys.keys if key.key_id}
            self._fetched = self._monotonic()


def peer_of(auth_context: Mapping[str, list[bytes]]) -> Caller | None:
    """Return the mesh service that a client certificate names, None without one."""
    names = (entry.decode(errors="replace") for entry in auth_context.get("x509_subject_alternative_name", ()))
    return next(filter(None, map(process_of, names)), None)


def process_of(uri: str) -> Caller | None:
    """Read the URI on a certificate of the mesh; None for what is no such URI."""
    match = _PEER.fullmatch(uri)
    if match and match["service"]:
        return Caller(service=match["service"])
    if match:
        return Caller(service="trainer", trainer=TrainerName(match["cluster"], match["trainer"]))
    return None
