"""Algorithm versions as the contract's messages."""

from __future__ import annotations

from loupe.names import AccountName
from loupe.storage.v1.algorithm_pb2 import AlgorithmVersion
from loupe.storage.v1.algorithm_service_pb2 import DeleteAlgorithmVersionResponse, UndeleteAlgorithmVersionResponse
from loupe.timestamps import timestamp
from services.storage.algorithms.store import AlgorithmRow
from services.storage.algorithms.verification import VerifiedImage
from services.storage.database.messages import with_lifetime


def encode_version(verified: VerifiedImage, uid: str, creator: AccountName | None, create_time: float) -> bytes:
    """Encode a version as its document; without a creator it is built in."""
    return AlgorithmVersion(
        name=str(verified.name),
        uid=uid,
        digest=verified.measured.digest,
        size=verified.measured.size,
        task=verified.manifest.task,
        summary=verified.manifest.summary,
        manifest_toml=verified.manifest_toml,
        built_in=creator is None,
        creator=str(creator) if creator else "",
        create_time=timestamp(create_time),
    ).SerializeToString(deterministic=True)


def built_in(document: bytes) -> bytes:
    """Return a version's document with the mark that it ships with Loupe; the very same one when it has it."""
    version = AlgorithmVersion.FromString(document)
    if version.built_in:
        return document
    version.built_in = True
    version.creator = ""
    return version.SerializeToString(deterministic=True)


def is_built_in(document: bytes) -> bool:
    """Say whether a version ships with Loupe."""
    return AlgorithmVersion.FromString(document).built_in


def creator_of(document: bytes) -> str:
    """Return the account that uploaded a version; empty when it is built in."""
    return AlgorithmVersion.FromString(document).creator


def pack_version(row: AlgorithmRow) -> AlgorithmVersion:
    """Pack a version: its document is the message already, but for when it was deleted."""
    return with_lifetime(AlgorithmVersion.FromString(row.document), row)


def encode_deleted(row: AlgorithmRow) -> bytes:
    """Encode the answer to who deleted a version."""
    answer = DeleteAlgorithmVersionResponse(algorithm_version=pack_version(row))
    return answer.SerializeToString(deterministic=True)


def encode_restored(row: AlgorithmRow) -> bytes:
    """Encode the answer to who restored a version."""
    answer = UndeleteAlgorithmVersionResponse(algorithm_version=pack_version(row))
    return answer.SerializeToString(deterministic=True)
