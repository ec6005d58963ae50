"""Tokens: what is refused, with which word, and that keys are fetched again when they rotate."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from loupe.errors import Unauthenticated
from loupe.identity import AttemptGrant, Caller, JwksVerifier, peer_of
from loupe.names import AccountName, JobName

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


def jwks(*keys: tuple[str, Ed25519PrivateKey]) -> str:
    entries = []
    for kid, key in keys:
        raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        entries.append({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "use": "sig", "alg": "EdDSA"})
    return json.dumps({"keys": entries})


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {
        "iss": "loupe",
        "aud": "loupe",
        "sub": "accounts/anna",
        "login": "l1",
        "iat": now,
        "nbf": now,
        "exp": now + 600,
        "jti": "j1",
    }
    return {key: value for key, value in (base | changes).items() if value is not None}


def sign(
    body: dict[str, Any], *, key: Any = KEY, algorithm: str = "EdDSA", typ: str = "access", kid: str = "k1"
) -> str:
    return jwt.encode(body, key, algorithm=algorithm, headers={"typ": typ, "kid": kid})


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def verifier(clock: Clock | None = None) -> JwksVerifier:
    async def fetch() -> str:
        return jwks(("k1", KEY))

    return JwksVerifier(fetch, monotonic=clock or Clock())


async def problem_of(token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await verifier().verify(token)
    return caught.value.metadata["problem"]


async def test_a_good_token_names_account_and_login() -> None:
    assert await verifier().verify(sign(claims())) == Caller(account=AccountName("anna"), login="l1")


async def test_an_attempt_token_names_job_and_attempt() -> None:
    token = sign(claims(login=None, job="projects/p/jobs/j", attempt=3), typ="attempt")
    caller = await verifier().verify(token)
    assert caller.attempt == AttemptGrant(JobName("p", "j"), 3)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"exp": int(time.time()) - 300}, "expired"),
        ({"nbf": int(time.time()) + 300}, "not_yet_valid"),
        ({"aud": "somebody-else"}, "invalid"),
        ({"iss": "somebody-else"}, "invalid"),
        ({"exp": None}, "invalid"),
        ({"jti": None}, "invalid"),
        ({"sub": "projects/p"}, "claims"),
        ({"login": None}, "claims"),
    ],
)
async def test_wrong_claims_are_refused(changes: dict[str, Any], problem: str) -> None:
    assert await problem_of(sign(claims(**changes))) == problem


async def test_clocks_may_differ_by_half_a_minute() -> None:
    now = int(time.time())
    assert await verifier().verify(sign(claims(nbf=now + 20, iat=now + 20)))
    assert await verifier().verify(sign(claims(exp=now - 20)))


async def test_no_algorithm_but_eddsa_is_taken() -> None:
    assert await problem_of(sign(claims(), key=None, algorithm="none")) == "invalid"
    public = KEY.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    assert await problem_of(sign(claims(), key=public, algorithm="HS256")) == "invalid"


async def test_a_foreign_key_under_a_known_id_is_refused() -> None:
    assert await problem_of(sign(claims(), key=OTHER)) == "invalid"


async def test_unknown_key_wrong_type_and_garbage_are_refused() -> None:
    assert await problem_of(sign(claims(), kid="k9")) == "unknown_key"
    assert await problem_of(sign(claims(), typ="refresh")) == "type"
    assert await problem_of("not.a.token") == "malformed"


async def test_a_rotated_key_is_fetched_but_not_at_every_bad_token() -> None:
    published = [jwks(("k1", KEY))]
    fetched = []

    async def fetch() -> str:
        fetched.append(1)
        return published[-1]

    clock = Clock()
    rotating = JwksVerifier(fetch, monotonic=clock)
    await rotating.verify(sign(claims()))
    published.append(jwks(("k1", KEY), ("k2", OTHER)))
    clock.now += 10
    assert await rotating.verify(sign(claims(), key=OTHER, kid="k2"))
    for _ in range(50):
        with pytest.raises(Unauthenticated):
            await rotating.verify(sign(claims(), kid="k3"))
    assert len(fetched) == 2


def test_a_certificate_names_a_service_or_a_trainer_by_its_uri_only() -> None:
    def peer(*names: bytes) -> Caller | None:
        return peer_of({"x509_subject_alternative_name": list(names)})

    assert peer(b"localhost", b"loupe://service/scheduler") == Caller(service="scheduler")
    trainer = peer(b"loupe://trainer/north/a")
    assert trainer is not None
    assert (trainer.service, str(trainer.trainer)) == ("trainer", "clusters/north/trainers/a")
    assert peer(b"scheduler", b"xloupe://service/scheduler", b"loupe://service/scheduler/x") is None
