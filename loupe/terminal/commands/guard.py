"""What stands round every command line: nothing ends in a traceback, and everything has its exit code."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import typer
from typer.core import TyperGroup

from loupe.terminal.codes import Exit
from loupe.terminal.escapes import escaped, escaped_json, escaped_lines

if TYPE_CHECKING:
    from loupe.errors import LoupeError

TRACEBACK_VARIABLE = "LOUPE_TRACEBACK"
BROKEN_PIPE = 141
STDOUT = "standard output"


class Told(NamedTuple):
    """What is said at the end: the reason and metadata for programs; head: what stands before it for people."""

    reason: str
    message: str
    advice: str = ""
    metadata: Mapping[str, str] = MappingProxyType({})
    head: str = "error: "


class GuardedGroup(TyperGroup):
    """The root command: as Typer's, but what goes wrong is told in the words, or the JSON, of all other errors."""

    def main(self, args: Any = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> Any:
        """Run the command line and exit with its code."""
        words = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False

        def run() -> int:
            code = super(GuardedGroup, self).main(words, prog_name, *rest, **extra)
            return code if isinstance(code, int) else 0

        sys.exit(guarded(run, as_json=_wants_json(words)))


def _wants_json(words: list[str]) -> bool:
    """Tell whether --json is given, for errors that come before the options are read."""
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def guarded(run: Callable[[], int], *, as_json: bool) -> int:
    """Run a command line and return its exit code, whatever happens."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own lines say less than our errors, and stand between them
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # What the terminal's encoding lacks, and file names that are no text, are shown as \u escapes.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run()
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = interrupted(as_json)
    except OSError as error:  # a command tells its own; what is left comes from printing help, or the last of an answer
        error.filename = error.filename or STDOUT
        code = tell_os_error(error, as_json)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(Exit.UNEXPECTED)
    except Exception as error:
        code = _tell_other(error, as_json)
    _settle(sys.stdout)
    _settle(sys.stderr)
    return code


def tell(error: LoupeError, as_json: bool) -> int:
    """Print an error on stderr and return its exit code."""
    from loupe.terminal.exits import advice, exit_code

    _print(Told(error.reason_name(), error.message, advice(error), error.metadata), as_json)
    return int(exit_code(error))


def tell_os_error(error: OSError, as_json: bool) -> int:
    """Print what the operating system refused and return the exit code; a reader that has gone needs no words."""
    from loupe.terminal.exits import from_os_error

    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    return tell(from_os_error(error), as_json)


def interrupted(as_json: bool, message: str = "interrupted", advice: str = "") -> int:
    """Print that Ctrl-C ended it, with what goes on all the same, and return the exit code."""
    _print(Told("INTERRUPTED", message, advice, head=""), as_json)
    return int(Exit.INTERRUPTED)


def _tell_other(error: Exception, as_json: bool) -> int:
    """Tell a wrong command line, or a fault of this program."""
    if usage := getattr(error, "format_message", None):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "loupe"
        if message := usage():  # without one, the help was shown instead
            _print(Told("USAGE", message, f"`{path} --help` shows what is taken"), as_json)
        return int(getattr(error, "exit_code", Exit.USAGE))
    if os.environ.get(TRACEBACK_VARIABLE):
        raise error
    message = f"this is a fault of loupe itself: {type(error).__name__}: {error}"
    hint = f"run it again with {TRACEBACK_VARIABLE}=1, and send what it prints to whoever looks after Loupe"
    _print(Told("INTERNAL", message, hint), as_json)
    return int(Exit.UNEXPECTED)


def _print(told: Told, as_json: bool) -> None:
    """Tell on stderr what is wrong and what would be right; a stderr that takes nothing is no further error."""
    with contextlib.suppress(OSError):
        if as_json:
            body = told._asdict() | {"metadata": dict(told.metadata)}
            del body["head"]
            text = json.dumps({"error": body}, ensure_ascii=not is_unicode(sys.stderr))
            sys.stderr.write(escaped_json(text) + "\n")
        else:
            _print_text(told)
        sys.stderr.flush()


def _print_text(told: Told) -> None:
    from rich.text import Text

    from loupe.terminal.screen import stderr_screen

    screen = stderr_screen()
    indent = " " * len(told.head)
    # Indented: a line in a message that came from elsewhere must not look like an error of its own.
    message = escaped_lines(told.message).replace("\n", f"\n{indent}")
    screen.print(Text.assemble((told.head, "bold red"), message), soft_wrap=True)
    if told.advice:
        screen.print(Text(f"{indent}{escaped(told.advice)}"), soft_wrap=True)


def is_unicode(stream: TextIO) -> bool:
    """Tell whether a stream takes every character."""
    return (getattr(stream, "encoding", None) or "").lower().replace("_", "-").startswith("utf")


def _works(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    return True


def _settle(stream: TextIO) -> None:
    """Let a stream that takes nothing more forget what it holds; Python would complain of it at the end."""
    if _works(stream):
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
