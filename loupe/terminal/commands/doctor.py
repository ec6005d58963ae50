"""loupe doctor"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from loupe.terminal.commands.frame import Cli, Ended, command

if TYPE_CHECKING:
    from loupe.terminal.doctor import Check

app = typer.Typer()
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


@command(app, "doctor", "loupe doctor", "loupe doctor --json")
async def doctor(cli: Cli) -> None:
    """Say what is wrong with this set-up or login, and what to do.

    Each line is ok, warn, fail or skip (when it needs what failed before). The exit code is that of the first failure;
    warnings leave it 0. The login is refreshed on the way; nothing else is changed.
    """
    from loupe.terminal.doctor import Doctor, worst_exit_code
    from loupe.terminal.installed import models_folder

    def show(check: Check) -> None:
        if not cli.as_json:
            cli.console.print(_line(check))

    found = await Doctor(cli.store, models_folder()).examine(show)
    code = worst_exit_code(found)
    if cli.as_json:
        cli.emit({"checks": [vars(one) for one in found], "exit_code": code}, indent=2)
    raise Ended(code)


def _line(check: Check) -> object:
    from rich.console import Group

    from loupe.terminal.tables import facts, line

    mark = line(f"{check.mark:4}  {check.name}: {check.seen}", STYLES[check.mark])
    return Group(mark, facts([("     ", check.advice)])) if check.advice else mark
