"""What the command line ends with, and how it tells an error: what is wrong, then what would be right."""

from __future__ import annotations

from loupe import errors
from loupe.errors import LoupeError
from loupe.terminal.codes import Exit

_CODES: dict[type[LoupeError], Exit] = {
    errors.Unauthenticated: Exit.DENIED,
    errors.BadCredentials: Exit.DENIED,
    errors.RefreshReplayed: Exit.DENIED,
    errors.PermissionDenied: Exit.DENIED,
    errors.NotFound: Exit.NOT_FOUND,
    errors.AttemptUnknown: Exit.NOT_FOUND,
    errors.AlreadyExists: Exit.CONFLICT,
    errors.RequestIdReused: Exit.CONFLICT,
    errors.FailedPrecondition: Exit.CONFLICT,
    errors.StaleAttempt: Exit.CONFLICT,
    errors.BlobMissing: Exit.CONFLICT,
    errors.SandboxUnavailable: Exit.CONFLICT,
    errors.GateFailed: Exit.TARGET_MISSED,
    errors.Unavailable: Exit.UNAVAILABLE,
    errors.Throttled: Exit.UNAVAILABLE,
    errors.ResourceExhausted: Exit.UNAVAILABLE,
    errors.TrainerBusy: Exit.UNAVAILABLE,
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
    """Return what `loupe` ends with for an error; all that is not listed is bad input."""
    return _CODES.get(type(error), Exit.BAD_INPUT)


def advice(error: LoupeError) -> str:
    """Return one line that says what would be right; empty where the message says it already."""
    facts = error.metadata
    if isinstance(error, errors.PermissionDenied) and "threshold" in facts:
        project, action = facts.get("project", "the project"), facts.get("action", "this")
        return (
            f"ask an owner of {project} for a group whose permission parameter is {facts['threshold']} or more; "
            f"`loupe why {action} --project {project.removeprefix('projects/')}` shows how it stands"
        )
    if isinstance(error, errors.Throttled):
        return f"try again in {facts.get('retry_after_seconds', 'a few')} seconds"
    if isinstance(error, errors.Internal) and "incident" in facts:
        return f"tell whoever runs the mesh the incident {facts['incident']}: the log has the details"
    return _ADVICE.get(type(error), "")
