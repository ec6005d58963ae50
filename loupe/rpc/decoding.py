"""Bytes that are no message of the contract, refused as what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from loupe.errors import InvalidArgument


def decoded(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return the deserializer which raises InvalidArgument where protobuf's own raises DecodeError.

    Such are broken wire formats, strings that are no UTF-8, and messages in messages more than 100 deep.
    """

    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError as error:
            raise InvalidArgument(f"the request cannot be decoded: {error}", problem="undecodable") from None

    return deserialize
