"""The one table between domain errors and gRPC status codes, and the way there and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from loupe import errors
from loupe.common.v1.reason_pb2 import Reason
from loupe.errors import LoupeError

DOMAIN = "loupe"
DETAILS_KEY = "grpc-status-details-bin"

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
    """Return the code and the google.rpc.Status with one ErrorInfo for a domain error."""
    code = CODES[error.reason]
    info = error_details_pb2.ErrorInfo(reason=error.reason_name(), domain=DOMAIN, metadata=error.metadata)
    detail = Any()
    detail.Pack(info)
    return code, status_pb2.Status(code=code.value[0], message=error.message, details=[detail])


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
