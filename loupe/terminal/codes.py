"""The exit codes of `loupe`, documented in its help and in docs/terminal.md."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of `loupe`."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    TARGET_MISSED = 3
    NOT_FOUND = 4
    DENIED = 5
    BAD_INPUT = 6
    UNAVAILABLE = 7
    CONFLICT = 8
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "it worked",
    Exit.UNEXPECTED: "something unexpected, or the job failed or was cancelled",
    Exit.USAGE: "the command line is wrong",
    Exit.TARGET_MISSED: "the target was not reached, or on too few pictures, or the model was refused at its gate",
    Exit.NOT_FOUND: "there is no such thing, or you may not see it",
    Exit.DENIED: "not logged in, or not allowed",
    Exit.BAD_INPUT: "bad input, or part of it failed",
    Exit.UNAVAILABLE: "something cannot be reached now, or is full; try again later",
    Exit.CONFLICT: "it exists already, or is in a state in which this cannot be done",
    Exit.INTERRUPTED: "Ctrl-C; a job that was submitted goes on",
}
