"""loupe algorithm"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands.deleted import DeletedOption, show_deleted
from loupe.terminal.commands.frame import Cli, command, new_group
from loupe.terminal.commands.lazy import names
from loupe.terminal.tables import facts, short, table

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer()
algorithm_app = new_group(app, "algorithm", "The algorithm image library that all projects share.")


@command(
    algorithm_app, "list", "loupe algorithm list", "loupe algorithm list finetune", "loupe algorithm list --deleted"
)
async def algorithm_list(
    cli: Cli,
    algorithm: Annotated[str | None, typer.Argument(metavar="[ALGORITHM]", help="All versions of this one.")] = None,
    deleted: DeletedOption = False,
) -> None:
    """List the newest version of each algorithm, or all versions of one; with --deleted, what can be restored."""
    which = str(cli.name(names.AlgorithmName, algorithm)) if algorithm else ""
    async with cli.terminal() as loupe:
        if deleted:
            return await show_deleted(cli, loupe.algorithms.deleted(which))
        found = [one async for one in loupe.algorithms.list(which)]
    rows = [
        (short(one.name), one.task or "any", "built in" if one.built_in else one.creator, one.summary) for one in found
    ]
    cli.show({"algorithms": found}, lambda: table(("algorithm", "task", "from", "what it does"), rows))


@command(algorithm_app, "show", "loupe algorithm show finetune")
async def algorithm_show(
    cli: Cli,
    algorithm: Annotated[str, typer.Argument(metavar="ALGORITHM", help="finetune, or finetune/versions/1.2.")],
) -> None:
    """Show an algorithm with its parameters: default, range, choices."""
    from rich.console import Group

    async with cli.terminal() as loupe:
        found = await loupe.algorithms.version(str(cli.name(names.AlgorithmVersionName, algorithm)))
    pairs = [("algorithm", found.name), ("summary", found.summary), ("digest", found.digest)]
    cli.show(found, lambda: Group(facts(pairs), _parameter_table(found.manifest_toml)))


def _parameter_table(manifest_toml: str) -> RenderableType:
    from loupe.algorithm.manifest import BadManifest, parse_manifest
    from loupe.terminal.escapes import escaped
    from loupe.terminal.tables import line

    try:
        manifest = parse_manifest(manifest_toml)
    except BadManifest as error:
        return line(f"its manifest cannot be read here: {escaped(error)}", "yellow")
    rows = []
    for name, one in manifest.parameters.items():
        default = "" if one.default is None else json.dumps(one.default, ensure_ascii=False)
        rows.append((name, default, one.allowed(), getattr(one, "description", "") or ""))
    return table(("parameter", "default", "allowed", ""), rows)


@command(algorithm_app, "push", "loupe algorithm push my-algorithm/")
async def algorithm_push(
    cli: Cli, folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with algorithm.toml and code.")]
) -> None:
    """Pack a folder and publish it as an algorithm image."""
    async with cli.terminal() as loupe:
        made = await loupe.algorithms.push(folder)
    cli.show(made, lambda: f"published {made.name} ({made.digest})")
