"""NATS' own JWTs (version 2, signed with nkeys) and the sealing of auth callouts with curve25519 keys (xkeys)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from typing import Any

import nacl.exceptions
import nacl.public
import nacl.signing
import nkeys

from loupe.errors import Unauthenticated

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}
_XKEY_PREFIX = 23 << 3
_SEAL_VERSION = b"xkv1"
_NONCE_BYTES = 24


def public_key(pair: nkeys.KeyPair) -> str:
    """Return an nkey's public half as NATS writes it."""
    key: bytes = pair.public_key
    return key.decode()


def encode(pair: nkeys.KeyPair, subject: str, nats: dict[str, Any], now: float, **claims: Any) -> str:
    """Sign a NATS JWT about `subject`; `nats` is NATS' part of the claims."""
    body = {"iat": int(now), "iss": public_key(pair), "sub": subject, "nats": nats, **claims}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()
    body["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    signed = f"{_part(_HEADER)}.{_part(body)}"
    return f"{signed}.{_base64(pair.sign(signed.encode()))}"


def decode(token: str) -> dict[str, Any]:
    """Return the claims of a NATS JWT that its issuer (claim "iss") signed. Raises Unauthenticated."""
    try:
        header, body, signature = token.split(".")
        claims: dict[str, Any] = json.loads(_unbase64(body))
        if json.loads(_unbase64(header)).get("alg") != _HEADER["alg"]:
            raise Unauthenticated("the NATS token has another algorithm", problem="algorithm")
        key = nacl.signing.VerifyKey(_raw(claims["iss"]))
        key.verify(f"{header}.{body}".encode(), _unbase64(signature))
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, nacl.exceptions.CryptoError) as error:
        raise Unauthenticated("the NATS token is not valid", problem="invalid") from error
    return claims


def unseal(private: nacl.public.PrivateKey, sender: str, data: bytes) -> bytes:
    """Open what the xkey `sender` sealed for us. Raises Unauthenticated."""
    if not data.startswith(_SEAL_VERSION):
        raise Unauthenticated("the NATS request has another seal", problem="seal")
    try:
        start = len(_SEAL_VERSION) + _NONCE_BYTES
        box = nacl.public.Box(private, nacl.public.PublicKey(_raw(sender)))
        return box.decrypt(data[start:], data[len(_SEAL_VERSION) : start])
    except (ValueError, TypeError, binascii.Error, nacl.exceptions.CryptoError) as error:
        raise Unauthenticated("the seal of the NATS request is not valid", problem="seal") from error


def seal(private: nacl.public.PrivateKey, receiver: str, data: bytes) -> bytes:
    """Close data so that only the xkey `receiver` can open it."""
    nonce = os.urandom(_NONCE_BYTES)
    box = nacl.public.Box(private, nacl.public.PublicKey(_raw(receiver)))
    return _SEAL_VERSION + nonce + box.encrypt(data, nonce).ciphertext


def xkey(private: nacl.public.PrivateKey) -> str:
    """Return the public half of a curve25519 key as NATS writes it."""
    raw = bytes([_XKEY_PREFIX]) + bytes(private.public_key)
    return base64.b32encode(raw + nkeys.crc16(raw).to_bytes(2, "little")).rstrip(b"=").decode()


def _raw(key: str) -> bytes:
    return base64.b32decode(key + "=" * (-len(key) % 8))[1:-2]


def _part(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
