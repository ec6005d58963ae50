"""The frame that every command runs in: shared options, the connection, output for people or programs, errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from loupe import patterns
from loupe.terminal.commands.guard import STDOUT, interrupted, is_unicode, tell, tell_os_error
from loupe.terminal.commands.lazy import errors, names

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from loupe.terminal.client import Terminal
    from loupe.terminal.profile import ProfileStore

EVERYWHERE = "Everywhere"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.", rich_help_panel=EVERYWHERE)]
ProjectOption = Annotated[
    str | None,
    typer.Option(
        "--project", "-p", metavar="ID", help="Project of short ids; else $LOUPE_PROJECT or `loupe project use`.",
        rich_help_panel=EVERYWHERE,
    ),
]  # fmt: skip
ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile", metavar="FILE", help="Where the login is kept; else $LOUPE_PROFILE.", rich_help_panel=EVERYWHERE
    ),
]
SHARED = {
    "json_option": (JsonOption, False),
    "project_option": (ProjectOption, None),
    "profile_option": (ProfileOption, None),
}

Work = TypeVar("Work", bound=Callable[..., Awaitable[None]])
Parsed = TypeVar("Parsed", bound="names.Name")


@dataclass(frozen=True)
class Cli:
    """One invocation: how to answer, and which profile and project it is about."""

    as_json: bool = False
    project_option: str | None = None
    profile: Path | None = None

    @property
    def store(self) -> ProfileStore:
        """Where the login is kept."""
        from loupe.terminal.profile import ProfileStore

        return ProfileStore(self.profile)

    @contextlib.asynccontextmanager
    async def terminal(self) -> AsyncIterator[Terminal]:
        """Open a terminal for the length of a block."""
        from loupe.terminal.client import Terminal

        async with Terminal.connect(self.store) as loupe:
            yield loupe

    @property
    def project(self) -> str:
        """The name "projects/{project}" that short ids stand in; raises InvalidArgument when none is chosen."""
        chosen = self.project_option or os.environ.get("LOUPE_PROJECT")
        if not chosen:
            try:
                chosen = self.store.load().project
            except errors.Unauthenticated:
                chosen = ""
        if not chosen:
            raise errors.InvalidArgument(
                "no project is chosen; add --project ID, set LOUPE_PROJECT, or run `loupe project use ID`",
                field="project",
                expected="a project's id",
            )
        whole = chosen if "/" in chosen else f"projects/{chosen}"
        _check_parts(names.ProjectName.pattern, whole)
        return str(names.ProjectName.parse(whole, "project"))

    def name(self, kind: type[Parsed], text: str) -> Parsed:
        """Make a resource's whole name of a short one: "screws" of projects/p/datasets/screws/versions/latest.

        Raises InvalidArgument that says which part is wrong, and its rule.
        """
        first, *rest = kind.pattern.split("/")
        if text.startswith(f"{first}/"):
            whole = text
        elif first == "projects" and rest:
            whole = f"{self.project}/{rest[1]}/{text}" if len(rest) > 1 else f"projects/{text}"
        else:
            whole = f"{first}/{text}"
        if "/versions/" in kind.pattern and "/versions/" not in whole:
            whole += "/versions/latest"
        _check_parts(kind.pattern, whole)
        return kind.parse(whole)

    def show(self, value: Any, human: Callable[[], RenderableType | str]) -> None:
        """Print the value as JSON, or what `human` makes of it, on stdout."""
        if self.as_json:
            self.emit(value, indent=2)
            return
        from loupe.terminal.escapes import escaped
        from loupe.terminal.tables import line

        made = human()
        # One sentence on one line, whatever names in it say; what has lines of its own is a renderable.
        self.console.print(line(escaped(made)) if isinstance(made, str) else made)

    def emit(self, value: Any, indent: int | None = None) -> None:
        """Print one JSON value on stdout."""
        from loupe.terminal.escapes import escaped_json
        from loupe.terminal.json_values import json_value

        text = json.dumps(json_value(value), ensure_ascii=not is_unicode(sys.stdout), indent=indent)
        try:
            sys.stdout.write(escaped_json(text) + "\n")
            sys.stdout.flush()
        except OSError as error:
            error.filename = STDOUT  # a write does not know where it goes
            raise

    def note(self, text: str) -> None:
        """Tell a person something on stderr; nothing in JSON."""
        if not self.as_json:
            from loupe.terminal.escapes import escaped
            from loupe.terminal.tables import line

            self.messages.print(line(escaped(text)))

    @property
    def watched(self) -> bool:
        """Whether a person sees the progress bars."""
        return self.messages.is_terminal and not self.as_json

    @functools.cached_property
    def console(self) -> Console:
        """What prints on stdout, for a person."""
        from loupe.terminal.screen import stdout_screen

        return stdout_screen()

    @functools.cached_property
    def messages(self) -> Console:
        """What prints on stderr: progress bars, notes, errors."""
        from loupe.terminal.screen import stderr_screen

        return stderr_screen()


def _check_parts(pattern: str, name: str) -> None:
    """Raise InvalidArgument for the part of a name that breaks its rule; what has other parts is left to the parser."""
    rules = {
        "number": (names.NUMBER, "the number of a version, or latest"),
        "version": (patterns.VERSION, "a version such as 1.2, or latest"),
        "action": (names.ACTION, "an action such as datasets.write; `loupe threshold list` shows all"),
    }
    expected, given = pattern.split("/"), name.split("/")
    if len(expected) != len(given):
        return
    for want, part in zip(expected, given, strict=True):
        field = want.strip("{}")
        if field == want:
            if part != want:
                return
        elif field in rules:
            if not re.fullmatch(rules[field][0], part):
                raise errors.invalid(field, part, rules[field][1])
        else:
            names.check_id(field, part)


def new_group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """Add a noun to `app` and return what its verbs are added to."""
    group = typer.Typer(help=help, no_args_is_help=True)
    app.add_typer(group, name=name)
    return group


def _show_version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        try:
            own = version("loupe")
        except PackageNotFoundError:  # run from a checkout that was not installed
            own = "(not installed)"
        typer.echo(f"loupe {own} (Python {platform.python_version()})")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Show the version and leave.", callback=_show_version, is_eager=True)
]


def root_options(
    context: typer.Context,
    as_json: JsonOption = False,
    project: ProjectOption = None,
    profile: ProfileOption = None,
    version: VersionOption = False,
) -> None:
    """Take the shared options that stand before the noun; the same ones after the verb win."""
    context.obj = Cli(as_json, project, profile)


def command(app: typer.Typer, name: str, *examples: str) -> Callable[[Work], Work]:
    """Make `async def verb(cli, …)` a command of `app`: shared options, examples, errors told."""

    def register(work: Work) -> Work:
        hints = get_type_hints(work, include_extras=True)
        own = list(inspect.signature(work).parameters.values())[1:]
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [one.replace(annotation=hints[one.name], kind=keyword) for one in own]
        parameters += [
            inspect.Parameter(shared, keyword, default=default, annotation=annotation)
            for shared, (annotation, default) in SHARED.items()
        ]
        parameters.append(inspect.Parameter("context", keyword, annotation=typer.Context))

        def run(**values: Any) -> None:
            context = values.pop("context")
            shared = [values.pop(one) for one in SHARED]
            cli = _merged(context.find_root().obj or Cli(), *shared)
            raise typer.Exit(run_work(cli, lambda: work(cli, **texts(values))))

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer asks inspect, which reads it
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__doc__ = _paragraphs(work.__doc__ or "")
        epilog = "\n\n".join(f"Example:  {example}" for example in examples)
        app.command(name, epilog=epilog)(run)
        return work

    return register


def within(least: float, most: float) -> Callable[[float | None], float | None]:
    """Return a callback for an option's number: bounds that help does not spell out, as they leave it no room.

    It raises BadParameter, as an option's own min and max do.
    """

    def check(value: float | None) -> float | None:
        if value is not None and not least <= value <= most:  # also catches NaN
            raise typer.BadParameter(f"{value} is not in the range {least}<=x<={most}.")
        return value

    return check


def one_of(*words: str) -> Callable[[str | None], str | None]:
    """Return a callback for an option that is one of some words. It raises BadParameter that names them."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in words:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(words)}.")
        return value

    return check


def _paragraphs(text: str) -> str:
    """Return a docstring with each paragraph on one line, for help to break where the terminal ends."""
    return "\n\n".join(" ".join(one.split()) for one in inspect.cleandoc(text).split("\n\n"))


def _merged(outer: Cli, as_json: bool, project: str | None, profile: Path | None) -> Cli:
    return replace(
        outer,
        as_json=outer.as_json or as_json,
        project_option=project or outer.project_option,
        profile=profile or outer.profile,
    )


def texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's arguments with each text as UTF-8, whatever the locale. Raises InvalidArgument.

    >>> texts({"display_name": "pr\\udcc3\\udcbcf", "count": 3})
    {'display_name': 'prüf', 'count': 3}
    """
    return {name: _text(name, value) for name, value in values.items()}


def _text(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_text(name, one) for one in value]
    if type(value) is not str or value.isascii():
        return value
    try:
        return value.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError as error:
        raise errors.invalid(name.replace("_", "-"), value, "text in UTF-8") from error


class Ended(Exception):
    """Leaves a command with an exit code after everything was said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Interrupted(Exception):
    """Leaves a command after Ctrl-C, saying what goes on all the same, and what to do about it."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


def run_work(cli: Cli, work: Callable[[], Awaitable[None]]) -> int:
    """Run a command to its end and return the exit code; what can be foreseen is told, not thrown."""

    async def whole() -> None:
        await work()

    try:
        asyncio.run(whole())
    except Ended as ended:
        return ended.code
    except errors.LoupeError as error:
        return tell(error, cli.as_json)
    except OSError as error:
        return tell_os_error(error, cli.as_json)
    except Interrupted as stopped:
        return interrupted(cli.as_json, stopped.message, stopped.advice)
    except KeyboardInterrupt:
        return interrupted(cli.as_json)
    return 0
