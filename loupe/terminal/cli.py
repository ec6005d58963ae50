"""The command line `loupe`: what a person or a script at a factory terminal types."""

from __future__ import annotations

import typer

from loupe.terminal.codes import MEANINGS
from loupe.terminal.commands import (
    algorithms,
    audit,
    blobs,
    changes,
    classify,
    data,
    deletion,
    detect,
    doctor,
    ended_jobs,
    follow,
    frame,
    guard,
    inference,
    inspect,
    jobs,
    login,
    models,
    people,
    storage,
    training,
)

EPILOG = (
    "First steps:  loupe login --server HOST:PORT --ca ca.pem anna;  loupe project create line-7;  "
    "loupe project use line-7;  loupe dataset push screws pictures/;  "
    "loupe train screws --target 0.97 --watch;  loupe classify screws part.png"
    "\n\n"
    f"Exit codes:  {' · '.join(f'{code.value} {meaning}' for code, meaning in MEANINGS.items())}"
)


def build() -> typer.Typer:
    """Make the application with all commands, in the order in which help shows them."""
    app = typer.Typer(
        name="loupe",
        help="Loupe makes image models for factories: labelled pictures in, a model of the asked accuracy out.",
        epilog=EPILOG,
        cls=guard.GuardedGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(frame.root_options)
    for commands in (
        login, doctor, people, audit, data, changes, blobs, storage,
        training, inference, jobs, ended_jobs, algorithms, models, deletion, follow,
        classify, detect, inspect,
    ):  # fmt: skip
        app.registered_groups += commands.app.registered_groups
        app.registered_commands += commands.app.registered_commands
    return app


app = build()


def main() -> None:
    """Run the command line and exit with its code."""
    app(prog_name="loupe")
