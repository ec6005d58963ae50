"""Tokens as messages of the contract."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from loupe.auth.v1 import session_service_pb2
from services.auth.sessions.sessions import TokenPair


def pack_tokens(pair: TokenPair) -> session_service_pb2.Tokens:
    """Return the message."""
    return session_service_pb2.Tokens(
        access_token=pair.access_token,
        refresh_token=pair.refresh_token,
        access_lifetime=Duration(seconds=pair.access_lifetime),
        refresh_lifetime=Duration(seconds=pair.refresh_lifetime),
    )
