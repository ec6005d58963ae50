"""Which model is meant on a command line: a folder, an id of what is installed, or a version that is pulled."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.patterns import ID
from loupe.terminal.commands.frame import Cli
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.commands.models import pull

if TYPE_CHECKING:
    from loupe.terminal.installed import Installed

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Id of a model: its newest released version on this machine. Or a folder with a pulled model, or "
        "screws/versions/2, which is pulled when it is not here.",
    ),
]


async def model_folder(cli: Cli, model: str, allow_below_target: bool) -> Path:
    """Return the folder of the model that is meant, which is pulled where it is not here.

    Raises what a pull raises, and NotInstalled for an id of which no version stands on this machine.
    """
    from loupe.terminal.installed import MODEL_FILE, default_folder, record_named

    if newest := installed(cli, model, allow_below_target):
        found = newest()
        cli.note(f"with {found.name}")
        return found.folder
    if (Path(model) / MODEL_FILE).is_file():
        return Path(model)
    name = cli.name(names.ModelVersionName, model)
    known = default_folder(name)
    # A version never changes: what was pulled and checked once can be used without the mesh.
    if name.number != "latest" and (known / MODEL_FILE).is_file():
        await asyncio.to_thread(record_named, name)
        return known
    return (await pull(cli, str(name), None, allow_below_target)).folder


def installed(cli: Cli, model: str, allow_below_target: bool) -> Callable[[], Installed] | None:
    """Return what finds the newest version on this machine, where a model is named by its id alone; else None."""
    from loupe.terminal.installed import MODEL_FILE, installed_model, newest_installed

    if (Path(model) / MODEL_FILE).is_file() or not re.fullmatch(ID, model):
        return None
    try:
        wanted = names.ModelName(names.ProjectName.parse(cli.project).project, model)
    except errors.InvalidArgument:  # no project is chosen
        wanted = installed_model(model)
    return functools.partial(newest_installed, wanted, allow_below_target=allow_below_target)
