"""The built-in algorithm images, put into a mesh's library the way any other image gets there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from loupe.algorithm import image
from loupe.rpc.channel import internal_channel
from loupe.storage.v1 import algorithm_service_pb2, algorithm_service_pb2_grpc

BUILT_IN = Path(__file__).resolve().parent.parent / "services" / "trainer" / "algorithms"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class ToolCertificates:
    """Who a deployment tool is: `loupe://service/deploy`. Paths of PEM files."""

    tls_ca: Path
    tls_cert: Path
    tls_key: Path


async def publish_built_in(storage: str, own: ToolCertificates) -> None:
    """Send every built-in image to storage's internal door, "host:port".

    Idempotent: an image that is there already is left alone. Raises LoupeError, among others AlreadyExists when an
    image was changed without a new version in its algorithm.toml.
    """
    folders = sorted(path.parent for path in BUILT_IN.glob("*/algorithm.toml"))
    async with internal_channel(own, storage, service="storage") as channel:
        for folder in folders:
            await _publish(channel, image.pack(folder))


async def _publish(channel: grpc.aio.Channel, archive: bytes) -> None:
    announced = {"digest": image.digest(archive), "size": len(archive)}

    async def messages() -> AsyncIterator[algorithm_service_pb2.PublishAlgorithmVersionRequest]:
        message = algorithm_service_pb2.PublishAlgorithmVersionRequest
        yield message(header=announced)
        for offset in range(0, len(archive), _CHUNK):
            yield message(chunk=archive[offset : offset + _CHUNK])
        yield message(closing=announced)

    stub = algorithm_service_pb2_grpc.AlgorithmServiceStub(channel)
    await stub.PublishAlgorithmVersion(messages())
