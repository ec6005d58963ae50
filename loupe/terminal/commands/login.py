"""loupe login | logout | whoami | why"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands.frame import Cli, command
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.tables import facts

if TYPE_CHECKING:
    from loupe.terminal.profile import Profile

app = typer.Typer()
PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help="File with the password, - for stdin; else it is asked for."),
]


@command(
    app,
    "login",
    "loupe login --server loupe.example:7001 --ca ca.pem anna",
    "loupe login anna --password-file secret.txt",
)
async def login(
    cli: Cli,
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="Id of the account.")],
    server: Annotated[
        str | None,
        typer.Option("--server", envvar="LOUPE_SERVER", metavar="HOST:PORT", help="The mesh's auth service."),
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", envvar="LOUPE_CA", metavar="FILE", help="The mesh's certificate authority, PEM."),
    ] = None,
    password_file: PasswordFile = None,
) -> None:
    """Log in. Server and authority are remembered, so that the next login needs the account only."""
    from loupe.terminal.connection import Connection
    from loupe.terminal.sessions import log_in

    name = cli.name(names.AccountName, account)
    wanted = _profile(cli, server, ca)
    password = read_password(password_file, f"Password of {name.account}")
    async with contextlib.aclosing(Connection(wanted.server, wanted.ca.encode())) as connection:
        profile, found = await log_in(connection, wanted, name, password, time.time())
    # Only now: a login that fails leaves an earlier one as it was.
    async with cli.store.lock():
        cli.store.save(profile)
    cli.show({"account": found, "profile": cli.store.path}, lambda: f"logged in as {found.name} at {profile.server}")


def _profile(cli: Cli, server: str | None, ca: Path | None) -> Profile:
    from loupe.terminal.doors import split_address
    from loupe.terminal.profile import Profile

    try:
        old = cli.store.load()
    except errors.Unauthenticated:
        old = None
    server = server or (old.server if old else "")
    if split_address(server) is None:
        raise errors.invalid("server", server, "--server HOST:PORT of the mesh's auth service")
    try:
        authority = ca.read_bytes().decode("ascii", "replace") if ca else (old.ca if old else "")
    except OSError as error:
        right = f"a PEM file with the mesh's certificate authority ({(error.strerror or str(error)).lower()})"
        raise errors.invalid("ca", str(ca), right) from error
    if "BEGIN CERTIFICATE" not in authority:
        raise errors.invalid("ca", str(ca or ""), "--ca FILE, the PEM of the mesh's certificate authority")
    project = cli.project_option or (old.project if old else "")
    if old is not None and (old.server, old.ca) == (server, authority):
        return replace(old, project=project)
    return Profile(server, authority, project=project)


@command(app, "logout", "loupe logout")
async def logout(cli: Cli) -> None:
    """End this login at the mesh and remove its tokens from this machine."""
    async with cli.terminal() as loupe:
        ended = await loupe.sessions.logout()
    cli.show({"logged_out": ended}, lambda: "logged out" if ended else "nobody was logged in")


@command(app, "whoami", "loupe whoami --json")
async def whoami(cli: Cli) -> None:
    """Show who is logged in, where, and in which groups."""
    async with cli.terminal() as loupe:
        account = await loupe.sessions.who_am_i()
    profile = cli.store.load()
    value = {"account": account, "server": profile.server, "project": profile.project}
    pairs = [
        ("account", account.name),
        ("name", account.display_name),
        ("groups", "\n".join(account.groups)),
        ("server", profile.server),
        ("project", profile.project),
    ]
    cli.show(value, lambda: facts(pairs))


@command(app, "why", "loupe why datasets.write --project line-7 --account anna")
async def why(
    cli: Cli,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="For example datasets.write.")],
    account: Annotated[str | None, typer.Option("--account", metavar="ID", help="Another account than yours.")] = None,
) -> None:
    """Explain why an action is allowed or denied in a project: group, permission parameter, threshold."""
    whose = str(cli.name(names.AccountName, account)) if account else ""
    async with cli.terminal() as loupe:
        answer = await loupe.policy.why(cli.project, action, whose)
    cli.show(answer, lambda: f"{'allowed' if answer.decision.allowed else 'denied'}: {answer.explanation}")


def read_password(
    file: Path | None, prompt: str, variable: str = "LOUPE_PASSWORD_FILE", *, confirm: bool = False
) -> str:
    """Take a password from a file ("-": stdin), the file that `variable` names, or a person; never argv.

    Raises InvalidArgument when there is none of them.
    """
    if file is None and os.environ.get(variable):
        file = Path(os.environ[variable])
    if file is None:
        if not sys.stdin.isatty():
            right = f"--password-file FILE (- for stdin), ${variable}, or a terminal to ask on"
            raise errors.invalid("password", "", right)
        typed: str = typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
        return typed
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise errors.invalid("password-file", str(file), f"a file that can be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise errors.invalid("password-file", str(file), "a file of UTF-8 text") from error
    password = text.rstrip("\r\n")
    if not password:
        raise errors.invalid("password-file", str(file), "a file with a password in it")
    return password
