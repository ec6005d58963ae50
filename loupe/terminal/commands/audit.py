"""loupe audit"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.codes import Exit
from loupe.terminal.commands.frame import Cli, Ended, command, within
from loupe.terminal.commands.lazy import names
from loupe.terminal.tables import table, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from loupe.common.v1.audit_pb2 import AuditEntry

app = typer.Typer()


@command(
    app,
    "audit",
    "loupe audit --since 2h",
    "loupe audit --account bob --action datasets",
    "loupe audit --project system",
)
async def audit(
    cli: Cli,
    *,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Not older: 30m, 2h, 7d, 2026-05-04.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Older than that.")] = None,
    account: Annotated[str | None, typer.Option("--account", metavar="ID", help="Whose calls.")] = None,
    action: Annotated[
        str, typer.Option("--action", metavar="TEXT", help="Begin of the action or call, as datasets.")
    ] = "",
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", callback=within(1, 100_000), help="At most so many rows.")
    ] = 50,
) -> None:
    """Show who changed what in the project, and who was refused, newest first.

    Project `system` has what belongs to no project. It takes the permission parameter of audit.read.
    """
    from loupe.terminal.audit import moment

    now = datetime.now().astimezone()
    async with cli.terminal() as loupe:
        rows = await loupe.audit.newest(
            cli.project,
            caller=_caller(cli, account) if account else "",
            action=action,
            since=None if since is None else moment("since", since, now),
            until=None if until is None else moment("until", until, now),
            limit=limit,
        )
    answer = {"entries": rows.entries, "away": {name: error.message for name, error in rows.away.items()}}
    cli.show(answer, lambda: _table(rows.entries))
    for name, error in rows.away.items():
        cli.note(f"rows of {name} are missing: {error.message}")
    if rows.away:
        raise Ended(Exit.UNAVAILABLE)


def _caller(cli: Cli, account: str) -> str:
    """Return whose rows are meant: an account by its id, or any caller by its whole name."""
    return account if "/" in account else str(cli.name(names.AccountName, account))


def _table(entries: Sequence[AuditEntry]) -> RenderableType:
    rows = [
        (
            when(entry.time),
            _lines(entry.caller.removeprefix("accounts/"), entry.peer.partition(":")[2]),
            _lines(entry.method, entry.outcome.lower().replace("_", " ")),
            _lines(entry.resource.removeprefix(f"{entry.project}/"), *entry.summary.split(", ")),
        )
        for entry in entries
    ]
    return table(("when", "who, from", "call, result", "on what"), rows, middle=(1, 3))


def _lines(*texts: str) -> str:
    """Put texts below each other, without the empty ones."""
    return "\n".join(filter(None, texts))
