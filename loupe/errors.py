"""The errors of the mesh: one class per kind of trouble, each with a reason and metadata that travel over the wire.

    LoupeError
    ├── InvalidArgument ── BadPicture, BadDataset, BadAlgorithm, BadParameter, WeakPassword, BadPageToken …
    ├── NotFound, AlreadyExists, FailedPrecondition, StaleAttempt …
    ├── Unauthenticated, BadCredentials, PermissionDenied, Throttled
    ├── ResourceExhausted, Unavailable, DataLoss
    └── Internal

Services raise them, `loupe.rpc` turns them into google.rpc.Status and back, terminals catch the same classes. The
reasons and an example of the metadata of each stand in protos/loupe/common/v1/reason.proto.
"""

from __future__ import annotations

from typing import ClassVar

from loupe.common.v1.reason_pb2 import Reason


class LoupeError(Exception):
    """An error that a caller can act on.

    message: one sentence that says what is wrong, where, and what would be right.
    metadata: strings for programs, as in the reason's example.
    """

    reason: ClassVar[int] = Reason.REASON_INTERNAL
    registry: ClassVar[dict[int, type[LoupeError]]] = {}

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items() if value is not None}

    def __init_subclass__(cls) -> None:
        LoupeError.registry.setdefault(cls.reason, cls)

    @classmethod
    def reason_name(cls) -> str:
        """Return the reason as it stands in ErrorInfo, without the enum's prefix."""
        return Reason.Name(cls.reason).removeprefix("REASON_")


class InvalidArgument(LoupeError):
    """A field has a value that cannot be taken."""

    reason = Reason.REASON_INVALID_ARGUMENT


def invalid(field: str, value: object, expected: str) -> InvalidArgument:
    """Make the InvalidArgument for one field; a long value is shortened."""
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:117] + "…"
    return InvalidArgument(f"{field} is {shown}; expected {expected}", field=field, value=shown, expected=expected)


class NotFound(LoupeError):
    """There is no such resource, or the caller may not know of it."""

    reason = Reason.REASON_NOT_FOUND


def not_found(name: object) -> NotFound:
    """Make the NotFound for one resource name: the same words whether it is absent or hidden."""
    return NotFound(f"{name} does not exist, or you may not see it", resource=name)


class AlreadyExists(LoupeError):
    """The id is taken."""

    reason = Reason.REASON_ALREADY_EXISTS


class PermissionDenied(LoupeError):
    """The group's permission parameter is below the action's threshold."""

    reason = Reason.REASON_PERMISSION_DENIED


class Unauthenticated(LoupeError):
    """There is no token, or it is not valid here."""

    reason = Reason.REASON_UNAUTHENTICATED


class BadCredentials(LoupeError):
    """Unknown account, wrong password or disabled account; which of them is not told."""

    reason = Reason.REASON_BAD_CREDENTIALS


class RefreshReplayed(LoupeError):
    """A refresh token was used twice; its login is revoked."""

    reason = Reason.REASON_REFRESH_REPLAYED


class Throttled(LoupeError):
    """Too many calls of this kind; metadata say when to try again."""

    reason = Reason.REASON_THROTTLED


class RequestIdReused(LoupeError):
    """The same request_id came with another body."""

    reason = Reason.REASON_REQUEST_ID_REUSED


class WeakPassword(LoupeError):
    """The password is too short."""

    reason = Reason.REASON_WEAK_PASSWORD


class DigestMismatch(LoupeError):
    """The bytes that came are not the bytes that were announced."""

    reason = Reason.REASON_DIGEST_MISMATCH


class SizeMismatch(LoupeError):
    """Another number of bytes came than was announced."""

    reason = Reason.REASON_SIZE_MISMATCH


class UploadIncomplete(LoupeError):
    """The stream ended without its closing message."""

    reason = Reason.REASON_UPLOAD_INCOMPLETE


class PictureRefused(LoupeError):
    """The bytes are not a picture that is taken."""

    reason = Reason.REASON_BAD_PICTURE


class BlobMissing(LoupeError):
    """Something refers to bytes that this project does not have."""

    reason = Reason.REASON_BLOB_MISSING


class BadDataset(LoupeError):
    """The data set cannot be trained on as it is."""

    reason = Reason.REASON_BAD_DATASET


class BadAlgorithm(LoupeError):
    """The algorithm image breaks a rule of the format."""

    reason = Reason.REASON_BAD_ALGORITHM


class BadParameter(LoupeError):
    """A parameter has a value that the algorithm's manifest does not allow."""

    reason = Reason.REASON_BAD_PARAMETER


class StaleAttempt(LoupeError):
    """The writer's attempt was given to somebody else."""

    reason = Reason.REASON_STALE_ATTEMPT


class FailedPrecondition(LoupeError):
    """The resource is in a state in which this cannot be done."""

    reason = Reason.REASON_FAILED_PRECONDITION


class ResourceExhausted(LoupeError):
    """A limit of size, number or space is reached."""

    reason = Reason.REASON_RESOURCE_EXHAUSTED


class Unavailable(LoupeError):
    """Something that is needed cannot be reached now; trying again may help."""

    reason = Reason.REASON_UNAVAILABLE


class DataLoss(LoupeError):
    """Stored bytes are no longer what was stored."""

    reason = Reason.REASON_DATA_LOSS


class Internal(LoupeError):
    """An error that nobody foresaw; the log has the details under the incident id."""

    reason = Reason.REASON_INTERNAL


class SandboxUnavailable(LoupeError):
    """This trainer has no sandbox and runs built-in algorithm images only."""

    reason = Reason.REASON_SANDBOX_UNAVAILABLE


class TrainerBusy(LoupeError):
    """The trainer has no free slot."""

    reason = Reason.REASON_TRAINER_BUSY


class BadPageToken(LoupeError):
    """The page token was not made by this list, or for another filter."""

    reason = Reason.REASON_BAD_PAGE_TOKEN


class AttemptUnknown(LoupeError):
    """The trainer does not run that attempt (any more)."""

    reason = Reason.REASON_ATTEMPT_UNKNOWN


class AlgorithmFailed(LoupeError):
    """The algorithm image raised an error or died."""

    reason = Reason.REASON_ALGORITHM_FAILED


class Cancelled(LoupeError):
    """The caller, or the person who owns the job, cancelled it."""

    reason = Reason.REASON_CANCELLED


class GateFailed(LoupeError):
    """The model did not pass its release gate."""

    reason = Reason.REASON_GATE_FAILED
