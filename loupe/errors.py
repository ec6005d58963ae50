"""The errors of the mesh: one class per kind of trouble, each with a reason and metadata that travel over the wire.

    LoupeError
    ├── InvalidArgument
    │   ├── BadDataset, BadAlgorithm, BadParameter, BadPageToken
    │   ├── PictureRefused, DigestMismatch, SizeMismatch
    │   └── RequestIdReused, WeakPassword
    ├── NotFound ── AttemptUnknown
    ├── AlreadyExists
    ├── FailedPrecondition ── BlobMissing, SandboxUnavailable, GateFailed
    ├── ResourceExhausted ── Throttled, TrainerBusy, QuotaExceeded
    ├── PermissionDenied
    ├── Unauthenticated
    ├── BadCredentials, RefreshReplayed
    ├── StaleAttempt, UploadIncomplete, AlgorithmFailed, Cancelled
    └── Unavailable, DataLoss, Internal

Services raise them, `loupe.rpc` turns them into google.rpc.Status and back, terminals catch the same classes. The
reasons and an example of the metadata of each stand in protos/loupe/common/v1/reason.proto.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar, overload

from loupe.common.v1.reason_pb2 import Reason

T = TypeVar("T")


class Fact(Generic[T]):
    """An attribute of an error that is read from its metadata, so that it is there on both ends of a call.

    read: makes the value of the text that travels. None where the error does not say it, or says it in another form.
    """

    def __init__(self, read: Callable[[str], T]) -> None:
        self._read = read

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, error: None, _owner: type) -> Fact[T]: ...
    @overload
    def __get__(self, error: LoupeError, _owner: type) -> T | None: ...
    def __get__(self, error: LoupeError | None, _owner: type) -> Fact[T] | T | None:
        if error is None:
            return self
        try:
            return self._read(error.metadata[self._name])
        except (KeyError, ValueError):
            return None


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
    field = Fact(str)
    value = Fact(str)
    expected = Fact(str)


def invalid(field: str, value: object, expected: str) -> InvalidArgument:
    """Make the InvalidArgument for one field; a long value is shortened."""
    shown = repr(value)
    shown = shown if len(shown) <= 120 else shown[:117] + "…"
    return InvalidArgument(f"{field} is {shown}; expected {expected}", field=field, value=shown, expected=expected)


class BadDataset(InvalidArgument):
    """The data set cannot be trained on as it is."""

    reason = Reason.REASON_BAD_DATASET
    problem = Fact(str)


class BadAlgorithm(InvalidArgument):
    """The algorithm image breaks a rule of the format."""

    reason = Reason.REASON_BAD_ALGORITHM
    entry = Fact(str)
    problem = Fact(str)


class BadParameter(InvalidArgument):
    """A parameter has a value that the algorithm's manifest does not allow."""

    reason = Reason.REASON_BAD_PARAMETER
    parameter = Fact(str)


class BadPageToken(InvalidArgument):
    """The page token was not made by this list, or for another filter."""

    reason = Reason.REASON_BAD_PAGE_TOKEN
    page_token = Fact(str)


class PictureRefused(InvalidArgument):
    """The bytes are not a picture that is taken."""

    reason = Reason.REASON_BAD_PICTURE
    digest = Fact(str)
    problem = Fact(str)


class DigestMismatch(InvalidArgument):
    """The bytes that came are not the bytes that were announced."""

    reason = Reason.REASON_DIGEST_MISMATCH
    announced = Fact(str)
    received = Fact(str)


class SizeMismatch(InvalidArgument):
    """Another number of bytes came than was announced."""

    reason = Reason.REASON_SIZE_MISMATCH
    announced = Fact(int)
    received = Fact(int)


class RequestIdReused(InvalidArgument):
    """The same request_id came with another body."""

    reason = Reason.REASON_REQUEST_ID_REUSED
    request_id = Fact(str)


class WeakPassword(InvalidArgument):
    """The password is too short."""

    reason = Reason.REASON_WEAK_PASSWORD
    minimum_length = Fact(int)


class NotFound(LoupeError):
    """There is no such resource, or the caller may not know of it."""

    reason = Reason.REASON_NOT_FOUND
    resource = Fact(str)


def not_found(name: object) -> NotFound:
    """Make the NotFound for one resource name: the same words whether it is absent or hidden."""
    return NotFound(f"{name} does not exist, or you may not see it", resource=name)


class AttemptUnknown(NotFound):
    """The trainer does not run that attempt (any more)."""

    reason = Reason.REASON_ATTEMPT_UNKNOWN
    job = Fact(str)
    attempt = Fact(int)


class AlreadyExists(LoupeError):
    """The id is taken."""

    reason = Reason.REASON_ALREADY_EXISTS
    resource = Fact(str)
    state = Fact(str)


class FailedPrecondition(LoupeError):
    """The resource is in a state in which this cannot be done."""

    reason = Reason.REASON_FAILED_PRECONDITION
    resource = Fact(str)
    state = Fact(str)


class BlobMissing(FailedPrecondition):
    """Something refers to bytes that this project does not have."""

    reason = Reason.REASON_BLOB_MISSING
    digest = Fact(str)
    count = Fact(int)


class SandboxUnavailable(FailedPrecondition):
    """This trainer has no sandbox and runs built-in algorithm images only."""

    reason = Reason.REASON_SANDBOX_UNAVAILABLE
    algorithm = Fact(str)


class GateFailed(FailedPrecondition):
    """The model did not pass its release gate."""

    reason = Reason.REASON_GATE_FAILED
    model = Fact(str)
    accuracy = Fact(float)
    target = Fact(float)


class ResourceExhausted(LoupeError):
    """A limit of size, number or space is reached."""

    reason = Reason.REASON_RESOURCE_EXHAUSTED
    limit = Fact(str)


class Throttled(ResourceExhausted):
    """Too many calls of this kind; metadata say when to try again."""

    reason = Reason.REASON_THROTTLED
    retry_after_seconds = Fact(int)


class TrainerBusy(ResourceExhausted):
    """The trainer has no free slot."""

    reason = Reason.REASON_TRAINER_BUSY
    slots = Fact(int)


class QuotaExceeded(ResourceExhausted):
    """The project holds as much as it may: quota is "pictures", "bytes" or "queued_jobs"."""

    reason = Reason.REASON_QUOTA_EXCEEDED
    project = Fact(str)
    quota = Fact(str)
    used = Fact(int)


class PermissionDenied(LoupeError):
    """The group's permission parameter is below the action's threshold."""

    reason = Reason.REASON_PERMISSION_DENIED
    account = Fact(str)
    action = Fact(str)
    project = Fact(str)
    group = Fact(str)
    parameter = Fact(int)
    threshold = Fact(int)


class Unauthenticated(LoupeError):
    """There is no token, or it is not valid here."""

    reason = Reason.REASON_UNAUTHENTICATED
    problem = Fact(str)


class BadCredentials(LoupeError):
    """Unknown account, wrong password, disabled or deleted account; which of them is not told."""

    reason = Reason.REASON_BAD_CREDENTIALS


class RefreshReplayed(LoupeError):
    """A refresh token was used twice; its login is revoked."""

    reason = Reason.REASON_REFRESH_REPLAYED


class StaleAttempt(LoupeError):
    """The attempt is over, or was given to somebody else."""

    reason = Reason.REASON_STALE_ATTEMPT
    job = Fact(str)
    attempt = Fact(int)
    current = Fact(int)


class UploadIncomplete(LoupeError):
    """The stream ended without its closing message."""

    reason = Reason.REASON_UPLOAD_INCOMPLETE
    committed = Fact(int)


class AlgorithmFailed(LoupeError):
    """The algorithm image raised an error or died."""

    reason = Reason.REASON_ALGORITHM_FAILED
    error = Fact(str)


class Cancelled(LoupeError):
    """The caller, or the person who owns the job, cancelled it."""

    reason = Reason.REASON_CANCELLED
    by = Fact(str)


class Unavailable(LoupeError):
    """Something that is needed cannot be reached now; trying again may help."""

    reason = Reason.REASON_UNAVAILABLE
    dependency = Fact(str)


class DataLoss(LoupeError):
    """Stored bytes are no longer what was stored."""

    reason = Reason.REASON_DATA_LOSS
    digest = Fact(str)


class Internal(LoupeError):
    """An error that nobody foresaw; the log has the details under the incident id."""

    reason = Reason.REASON_INTERNAL
    incident = Fact(str)
