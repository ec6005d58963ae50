"""loupe blob"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loupe.terminal.commands.frame import Cli, command, new_group
from loupe.terminal.progress import send_bar
from loupe.terminal.tables import size, table

app = typer.Typer()
blob_app = new_group(app, "blob", "Files that a job may name by their digest, such as weights to begin with.")


@command(blob_app, "push", "loupe blob push weights.safetensors --project line-7")
async def blob_push(
    cli: Cli,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Files of any kind.")],
) -> None:
    """Send files to the project and print their digests, for `loupe train --param weights=DIGEST`.

    What is there already is not sent; after a cut it goes on where it was, also in another call.
    """
    async with cli.terminal() as loupe:
        with send_bar(cli.messages, cli.watched) as show:
            pushed = await loupe.blobs.push(cli.project, files, show=show)
    rows = [(one.file, size(one.size), "sent" if one.sent else "was there", one.digest) for one in pushed]
    value = {"blobs": [one._asdict() for one in pushed]}
    cli.show(value, lambda: table(("file", "size", "", "sha256"), rows, right=(1,), middle=(0,)))
