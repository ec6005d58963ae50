"""What the command line ends with, and how it tells an error: what is wrong, then what would be right."""

from __future__ import annotations

import errno

from loupe import errors
from loupe.errors import LoupeError
from loupe.terminal.codes import Exit

_CODES: dict[type[LoupeError], Exit] = {
    errors.LoupeError: Exit.BAD_INPUT,
    errors.Unauthenticated: Exit.DENIED,
    errors.BadCredentials: Exit.DENIED,
    errors.RefreshReplayed: Exit.DENIED,
    errors.PermissionDenied: Exit.DENIED,
    errors.NotFound: Exit.NOT_FOUND,
    errors.AlreadyExists: Exit.CONFLICT,
    errors.RequestIdReused: Exit.CONFLICT,
    errors.FailedPrecondition: Exit.CONFLICT,
    errors.StaleAttempt: Exit.CONFLICT,
    errors.GateFailed: Exit.TARGET_MISSED,
    errors.Unavailable: Exit.UNAVAILABLE,
    errors.ResourceExhausted: Exit.UNAVAILABLE,
    errors.Internal: Exit.UNEXPECTED,
    errors.AlgorithmFailed: Exit.UNEXPECTED,
    errors.Cancelled: Exit.UNEXPECTED,
}


_ADVICE: dict[type[LoupeError], str] = {
    errors.BadCredentials: "check the account's name and the password; a disabled account looks the same",
    errors.NotFound: "see `loupe project list`, `dataset list`, `job list`, `model list` for what there is",
    errors.AlreadyExists: "choose another id, or use the one that is there",
    errors.ResourceExhausted: "free some space, or send less at once",
    errors.BlobMissing: "push the pictures again",
}


def exit_code(error: LoupeError) -> Exit:
    """Return what `loupe` ends with for an error; what is no other kind of trouble is bad input."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def advice(error: LoupeError) -> str:
    """Return one line that says what would be right; empty where the message says it already."""
    if isinstance(error, errors.PermissionDenied) and error.threshold is not None:
        project, action = error.project or "the project", error.action or "this"
        return (
            f"ask an owner of {project} for a group whose permission parameter is {error.threshold} or more; "
            f"`loupe why {action} --project {project.removeprefix('projects/')}` shows how it stands"
        )
    if isinstance(error, errors.QuotaExceeded):
        return _quota_advice(error)
    if isinstance(error, errors.Throttled):
        seconds = error.retry_after_seconds
        return f"try again in {'a few' if seconds is None else seconds} seconds"
    if isinstance(error, errors.Internal) and error.incident:
        return f"tell whoever runs the mesh the incident {error.incident}: the log has the details"
    return _ADVICE.get(type(error), "")


def _quota_advice(error: errors.QuotaExceeded) -> str:
    project = (error.project or "PROJECT").removeprefix("projects/")
    if error.quota == "queued_jobs":
        return f"`loupe job list --state queued --project {project}` shows them, `loupe job cancel JOB` takes one away"
    return (
        f"`loupe storage usage --project {project}` shows what it holds; an administrator of the mesh raises it with "
        f"`loupe project quota {project} --{error.quota or 'pictures'} N`; then do the same again: what is stored is "
        "not sent twice"
    )


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_EXPECTED = {
    errno.EACCES: "expected a place that this account may read and write",
    errno.EPERM: "expected a place that this account may read and write",
    errno.EROFS: "expected a place that can be written",
    errno.ENOENT: "expected a path that exists",
    errno.EISDIR: "expected a file, not a folder",
    errno.ENOTDIR: "expected a folder, not a file",
    errno.ENAMETOOLONG: "expected a shorter name",
    errno.EIO: "the disk has an error; use another",
}


def from_os_error(error: OSError) -> LoupeError:
    """Return the domain error for what the operating system refused."""
    place = str(error.filename or "this machine")
    said = error.strerror or str(error) or type(error).__name__
    if error.errno in _FULL:
        return errors.ResourceExhausted(f"{place}: {said.lower()}", limit="disk")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return errors.ResourceExhausted(f"{place}: {said.lower()}; `ulimit -n` raises the limit", limit="open files")
    expected = _EXPECTED.get(error.errno or 0, "")
    return errors.InvalidArgument(
        "; ".join(filter(None, (f"{place}: {said.lower()}", expected))), field="path", value=place, expected=expected
    )
