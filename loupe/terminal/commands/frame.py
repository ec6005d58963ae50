"""The frame that every command runs in: shared options, the connection, output for people or programs, errors."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from loupe.terminal.commands.lazy import errors, names

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from loupe.terminal.client import Terminal
    from loupe.terminal.profile import ProfileStore

EVERYWHERE = "Everywhere"
PIPE_COLUMNS = 200

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
        return str(names.ProjectName.parse(chosen if "/" in chosen else f"projects/{chosen}", "project"))

    def name(self, kind: type[Parsed], text: str) -> Parsed:
        """Make a resource's whole name of a short one: "screws" of projects/p/datasets/screws/versions/latest.

        Raises InvalidArgument that shows the pattern.
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
        return kind.parse(whole)

    def show(self, value: Any, human: Callable[[], RenderableType | str]) -> None:
        """Print the value as JSON, or what `human` makes of it, on stdout."""
        if self.as_json:
            self.emit(value, indent=2)
            return
        made = human()
        if isinstance(made, str):
            self.console.print(made, markup=False, highlight=False)
        else:
            self.console.print(made)

    def emit(self, value: Any, indent: int | None = None) -> None:
        """Print one JSON value on stdout."""
        from loupe.terminal.json_values import json_value

        sys.stdout.write(json.dumps(json_value(value), ensure_ascii=False, indent=indent) + "\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Tell a person something on stderr; nothing in JSON."""
        if not self.as_json:
            self.messages.print(text, markup=False, highlight=False)

    @property
    def watched(self) -> bool:
        """Whether a person sees the progress bars."""
        return self.messages.is_terminal and not self.as_json

    @functools.cached_property
    def console(self) -> Console:
        """What prints on stdout, for a person."""
        from rich.console import Console

        if sys.stdout.isatty() or "COLUMNS" in os.environ:
            return Console()
        # In a file or a pipe, cells broken at 80 columns would be of no use.
        return Console(width=PIPE_COLUMNS)

    @functools.cached_property
    def messages(self) -> Console:
        """What prints on stderr: progress bars, notes, errors."""
        from rich.console import Console

        return Console(stderr=True)


def new_group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """Add a noun to `app` and return what its verbs are added to."""
    group = typer.Typer(help=help, no_args_is_help=True)
    app.add_typer(group, name=name)
    return group


def root_options(
    context: typer.Context, as_json: JsonOption = False, project: ProjectOption = None, profile: ProfileOption = None
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
            raise typer.Exit(run_work(cli, lambda: work(cli, **values)))

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # typer asks inspect, which reads it
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        run.__doc__ = work.__doc__
        epilog = "\n\n".join(f"Example:  {example}" for example in examples)
        app.command(name, epilog=epilog)(run)
        return work

    return register


def _merged(outer: Cli, as_json: bool, project: str | None, profile: Path | None) -> Cli:
    return replace(
        outer,
        as_json=outer.as_json or as_json,
        project_option=project or outer.project_option,
        profile=profile or outer.profile,
    )


class Ended(Exception):
    """Leaves a command with an exit code after everything was said."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def run_work(cli: Cli, work: Callable[[], Awaitable[None]]) -> int:
    """Run a command to its end and return the exit code; a LoupeError is told, not thrown."""

    async def whole() -> None:
        await work()

    try:
        asyncio.run(whole())
    except Ended as ended:
        return ended.code
    except errors.LoupeError as error:
        return tell(cli, error)
    except KeyboardInterrupt:
        cli.note("\ninterrupted")
        return 130
    return 0


def tell(cli: Cli, error: errors.LoupeError) -> int:
    """Print an error on stderr and return its exit code."""
    from loupe.terminal.exits import advice, exit_code

    code = int(exit_code(error))
    hint = advice(error)
    if cli.as_json:
        body = {"reason": error.reason_name(), "message": error.message, "advice": hint, "metadata": error.metadata}
        sys.stderr.write(json.dumps({"error": body}, ensure_ascii=False) + "\n")
        return code
    from rich.text import Text

    cli.messages.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if hint:
        cli.messages.print(Text(f"       {hint}"), soft_wrap=True)
    return code
