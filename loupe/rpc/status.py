"""The one table between domain errors and gRPC status codes, and the way there and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from loupe import errors
from loupe.common.v1.reason_pb2 import Reason
from loupe.errors import LoupeError
from loupe.escapes import cut

DOMAIN = "loupe"
DETAILS_KEY = "grpc-status-details-bin"

MAX_MESSAGE_BYTES = 900
"""UTF-8, of an error's message; on the wire each may take three, and four thirds more among the details."""
MAX_METADATA_BYTES = 900
MAX_DETAIL_BYTES = 300

CODES: dict[int, grpc.StatusCode] = {
    Reason.REASON_INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REASON_ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REASON_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.REASON_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.REASON_BAD_CREDENTIALS: grpc.StatusCode.UNAUTHENTICATED,
    Reason.REASON_REFRESH_REPLAYED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.REASON_THROTTLED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.REASON_REQUEST_ID_REUSED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_WEAK_PASSWORD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_DIGEST_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_SIZE_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_UPLOAD_INCOMPLETE: grpc.StatusCode.ABORTED,
    Reason.REASON_BAD_PICTURE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_BLOB_MISSING: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REASON_BAD_DATASET: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_BAD_ALGORITHM: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_BAD_PARAMETER: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_STALE_ATTEMPT: grpc.StatusCode.ABORTED,
    Reason.REASON_FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REASON_RESOURCE_EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.REASON_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.REASON_DATA_LOSS: grpc.StatusCode.DATA_LOSS,
    Reason.REASON_INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.REASON_SANDBOX_UNAVAILABLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REASON_TRAINER_BUSY: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.REASON_BAD_PAGE_TOKEN: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.REASON_ATTEMPT_UNKNOWN: grpc.StatusCode.NOT_FOUND,
    Reason.REASON_ALGORITHM_FAILED: grpc.StatusCode.ABORTED,
    Reason.REASON_CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.REASON_GATE_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.REASON_QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
}

# What a call without details means: the transport's own trouble, or a server that is not ours.
_BARE: dict[grpc.StatusCode, type[LoupeError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.ResourceExhausted,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
}

# What grpc.aio makes of a write to a stream that has just died, when it notices before the true status has come.
_WRITE_TO_A_DEAD_STREAM = "Internal error from Core"


def to_status(error: LoupeError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """Return the code and the google.rpc.Status for a domain error, with one ErrorInfo and what AIP-193 puts beside it.

    Whatever the caller sent, both fit into trailers of 8 KiB, more than which many clients refuse to read: the message
    is cut at MAX_MESSAGE_BYTES, the longest values of the metadata so that all together have MAX_METADATA_BYTES.
    """
    code = CODES[error.reason]
    message = cut(error.message, MAX_MESSAGE_BYTES)
    metadata = _bounded(error.metadata)
    info = error_details_pb2.ErrorInfo(reason=error.reason_name(), domain=DOMAIN, metadata=metadata)
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in (info, *_standard(error, message, metadata)):
        status.details.add().Pack(detail)
    return code, status


def _bounded(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata, its longest values cut to equal shares of what the others leave."""
    kept: dict[str, str] = {}
    left = MAX_METADATA_BYTES
    for place, (key, value) in enumerate(sorted(metadata.items(), key=lambda each: len(each[1].encode()))):
        kept[key] = cut(value, left // (len(metadata) - place))
        left -= len(kept[key].encode())
    return {key: kept[key] for key in metadata}


def _standard(error: LoupeError, message: str, metadata: Mapping[str, str]) -> Iterator[Message]:
    """Yield the details of google/rpc/error_details.proto that generic clients know what to do with."""
    if isinstance(error, errors.InvalidArgument) and (field := metadata.get("field")):
        expected = f"expected {error.expected}" if error.expected else message
        wrong = error_details_pb2.BadRequest.FieldViolation(field=field, description=cut(expected, MAX_DETAIL_BYTES))
        yield error_details_pb2.BadRequest(field_violations=[wrong])
    if isinstance(error, errors.Throttled) and error.retry_after_seconds is not None:
        yield error_details_pb2.RetryInfo(retry_delay=Duration(seconds=error.retry_after_seconds))
    if isinstance(error, errors.QuotaExceeded) and error.project:
        full = error_details_pb2.QuotaFailure.Violation(
            subject=error.project, description=cut(message, MAX_DETAIL_BYTES)
        )
        yield error_details_pb2.QuotaFailure(violations=[full])
    if resource := metadata.get("resource"):
        collection = resource.rpartition("/")[0].rpartition("/")[2]
        yield error_details_pb2.ResourceInfo(resource_type=collection, resource_name=cut(resource, MAX_DETAIL_BYTES))


def from_rpc_error(error: grpc.RpcError) -> LoupeError:
    """Return the domain error that a failed call stands for."""
    code: grpc.StatusCode = error.code()
    for key, value in cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ()):
        if key != DETAILS_KEY:
            continue
        try:
            rebuilt = _rebuilt(status_pb2.Status.FromString(cast(bytes, value)))
        except DecodeError:
            rebuilt = None  # a server that is not ours; the code alone has to do
        if rebuilt is not None:
            return rebuilt
    if code is grpc.StatusCode.INTERNAL and error.details() == _WRITE_TO_A_DEAD_STREAM:
        return errors.Unavailable("the stream was cut while sending", status=grpc.StatusCode.UNAVAILABLE.name)
    kind = _BARE.get(code, errors.Internal)
    return kind(error.details() or code.name, status=code.name)


def _rebuilt(status: status_pb2.Status) -> LoupeError | None:
    """Return the domain error that a status was made of. Raises DecodeError."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            number = Reason.DESCRIPTOR.values_by_name.get(f"REASON_{info.reason}")
            kind = LoupeError.registry.get(number.number if number else 0, errors.Internal)
            rebuilt = kind(status.message)
            rebuilt.metadata = dict(info.metadata)
            return rebuilt
    return None
