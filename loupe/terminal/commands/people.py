"""loupe account | group | threshold"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands.deleted import DeletedOption, show_deleted
from loupe.terminal.commands.frame import Cli, command, new_group, within
from loupe.terminal.commands.lazy import names
from loupe.terminal.commands.login import PasswordFile, read_password
from loupe.terminal.tables import short, table, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.auth.v1.account_pb2 import Account
    from loupe.auth.v1.group_pb2 import Group

AccountId = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Id of the account.")]
GroupId = Annotated[str, typer.Argument(metavar="GROUP", help="Id of the group in the project.")]
Parameter = Annotated[
    int,
    typer.Option(
        "--parameter",
        metavar="1-100",
        callback=within(1, 100),
        help="Permission parameter, 1 to 100; more may do more.",
    ),
]

app = typer.Typer()
account_app = new_group(app, "account", "Accounts: the people and terminals that may log in.")
group_app = new_group(app, "group", "Account groups of a project; their permission parameter says what members may do.")
threshold_app = new_group(app, "threshold", "Thresholds: the permission parameter that each action needs.")


def _account_table(accounts: list[Account]) -> RenderableType:

    rows = [
        (short(one.name), one.display_name, "disabled" if one.disabled else "", "\n".join(one.groups))
        for one in accounts
    ]
    return table(("account", "name", "", "groups"), rows)


def _group_table(groups: list[Group]) -> RenderableType:
    rows = [(short(one.name), one.permission_parameter, one.member_count) for one in groups]
    return table(("group", "parameter", "members"), rows, right=(1, 2))


@command(account_app, "create", "loupe account create bob --group operators --project line-7")
async def account_create(
    cli: Cli,
    account: AccountId,
    group: Annotated[
        str, typer.Option("--group", metavar="ID", help="The group that it joins, for example operators.")
    ],
    display_name: Annotated[str, typer.Option("--display-name", help="For people.")] = "",
    password_file: PasswordFile = None,
) -> None:
    """Create an account in a group of the project."""
    name, lands = cli.name(names.AccountName, account), cli.name(names.GroupName, group)
    password = read_password(
        password_file, f"First password of {name.account}", "LOUPE_NEW_PASSWORD_FILE", confirm=True
    )
    async with cli.terminal() as loupe:
        made = await loupe.accounts.create(name.account, password, str(lands), display_name)
    cli.show(made, lambda: f"created {made.name} in {lands}")


@command(account_app, "list", "loupe account list", "loupe account list --deleted")
async def account_list(cli: Cli, deleted: DeletedOption = False) -> None:
    """List all accounts. With --deleted, those that can be restored are listed instead."""
    async with cli.terminal() as loupe:
        if deleted:
            return await show_deleted(cli, loupe.accounts.deleted())
        found = [one async for one in loupe.accounts.list()]
    cli.show({"accounts": found}, lambda: _account_table(found))


@command(account_app, "show", "loupe account show bob")
async def account_show(cli: Cli, account: AccountId) -> None:
    """Show an account."""
    async with cli.terminal() as loupe:
        found = await loupe.accounts.get(str(cli.name(names.AccountName, account)))
    cli.show(found, lambda: _account_table([found]))


@command(account_app, "disable", "loupe account disable bob")
async def account_disable(cli: Cli, account: AccountId) -> None:
    """Refuse an account's logins and tokens from now on."""
    async with cli.terminal() as loupe:
        found = await loupe.accounts.disable(str(cli.name(names.AccountName, account)))
    cli.show(found, lambda: f"{found.name} is disabled")


@command(account_app, "enable", "loupe account enable bob")
async def account_enable(cli: Cli, account: AccountId) -> None:
    """Let a disabled account log in again."""
    async with cli.terminal() as loupe:
        found = await loupe.accounts.enable(str(cli.name(names.AccountName, account)))
    cli.show(found, lambda: f"{found.name} may log in again")


@command(account_app, "delete", "loupe account delete bob")
async def account_delete(cli: Cli, account: AccountId) -> None:
    """Delete an account: its logins and tokens are refused from now on; `undelete` restores it for 30 days.

    How many days is a setting of the mesh. After that its password, its logins and its display name are removed. Its
    name stays, beside what it did, and is not given to anybody else.
    """
    async with cli.terminal() as loupe:
        gone = await loupe.accounts.delete(str(cli.name(names.AccountName, account)))
    cli.show(gone, lambda: f"deleted {gone.name}; it can be restored until {when(gone.expire_time)}")


@command(account_app, "undelete", "loupe account undelete bob")
async def account_undelete(cli: Cli, account: AccountId) -> None:
    """Restore a deleted account, with its password, in those of its groups that are still there."""
    async with cli.terminal() as loupe:
        back = await loupe.accounts.undelete(str(cli.name(names.AccountName, account)))
    state = " and is still disabled" if back.disabled else ""
    cli.show(back, lambda: f"restored {back.name}, in {', '.join(back.groups) or 'no group'}{state}")


@command(account_app, "password", "loupe account password", "loupe account password bob")
async def account_password(
    cli: Cli,
    account: Annotated[str | None, typer.Argument(metavar="[ACCOUNT]", help="Another account than oneself.")] = None,
    password_file: PasswordFile = None,
    new_password_file: Annotated[
        Path | None, typer.Option("--new-password-file", metavar="FILE", help="File with the new password.")
    ] = None,
) -> None:
    """Change a password: one's own (the old one is asked too), or another account's. All its logins end."""
    me = cli.store.load().account
    name = cli.name(names.AccountName, account) if account else names.AccountName.parse(me, "account")
    own = str(name) == me
    old = read_password(password_file, "Old password") if own else ""
    new = read_password(new_password_file, "New password", "LOUPE_NEW_PASSWORD_FILE", confirm=True)
    async with cli.terminal() as loupe:
        await loupe.accounts.set_password(str(name), new, old)
        if own:
            await loupe.sessions.login(name, new)
    cli.show({"account": str(name)}, lambda: f"the password of {name} is changed")


@command(group_app, "create", "loupe group create night-shift --parameter 25 --project line-7")
async def group_create(cli: Cli, group: GroupId, parameter: Parameter) -> None:
    """Create a group in the project."""
    name = cli.name(names.GroupName, group)
    async with cli.terminal() as loupe:
        made = await loupe.groups.create(f"projects/{name.project}", name.group, parameter)
    cli.show(made, lambda: _group_table([made]))


@command(group_app, "list", "loupe group list --project line-7")
async def group_list(cli: Cli) -> None:
    """List the project's groups."""
    async with cli.terminal() as loupe:
        found = [one async for one in loupe.groups.list(cli.project)]
    cli.show({"groups": found}, lambda: _group_table(found))


@command(group_app, "show", "loupe group show operators --project line-7")
async def group_show(cli: Cli, group: GroupId) -> None:
    """Show a group."""
    async with cli.terminal() as loupe:
        found = await loupe.groups.get(str(cli.name(names.GroupName, group)))
    cli.show(found, lambda: _group_table([found]))


@command(group_app, "set", "loupe group set operators --parameter 40 --project line-7")
async def group_set(cli: Cli, group: GroupId, parameter: Parameter) -> None:
    """Change a group's permission parameter; it holds everywhere within seconds."""
    async with cli.terminal() as loupe:
        found = await loupe.groups.set_parameter(str(cli.name(names.GroupName, group)), parameter)
    cli.show(found, lambda: _group_table([found]))


@command(group_app, "delete", "loupe group delete night-shift --project line-7")
async def group_delete(cli: Cli, group: GroupId) -> None:
    """Delete a group that has no members."""
    name = cli.name(names.GroupName, group)
    async with cli.terminal() as loupe:
        await loupe.groups.delete(str(name))
    cli.show({"deleted": str(name)}, lambda: f"deleted {name}")


@command(group_app, "add", "loupe group add operators bob --project line-7")
async def group_add(cli: Cli, group: GroupId, account: AccountId) -> None:
    """Put an account into a group; it leaves the one of this project in which it was."""
    async with cli.terminal() as loupe:
        found = await loupe.groups.add(str(cli.name(names.GroupName, group)), str(cli.name(names.AccountName, account)))
    cli.show(found, lambda: _group_table([found]))


@command(group_app, "remove", "loupe group remove operators bob --project line-7")
async def group_remove(cli: Cli, group: GroupId, account: AccountId) -> None:
    """Take an account out of a group."""
    async with cli.terminal() as loupe:
        found = await loupe.groups.remove(
            str(cli.name(names.GroupName, group)), str(cli.name(names.AccountName, account))
        )
    cli.show(found, lambda: _group_table([found]))


@command(group_app, "members", "loupe group members operators --project line-7")
async def group_members(cli: Cli, group: GroupId) -> None:
    """List the accounts in a group."""
    async with cli.terminal() as loupe:
        found = [one async for one in loupe.groups.members(str(cli.name(names.GroupName, group)))]
    cli.show({"members": found}, lambda: table(("member",), [(one,) for one in found]) if found else "no members")


@command(threshold_app, "list", "loupe threshold list")
async def threshold_list(cli: Cli) -> None:
    """List what each action needs."""
    async with cli.terminal() as loupe:
        found = await loupe.policy.thresholds()
    cli.show(
        {"thresholds": found},
        lambda: table(("action", "needs"), [(short(one.name), one.value) for one in found], right=(1,)),
    )


@command(threshold_app, "set", "loupe threshold set datasets.write 30")
async def threshold_set(
    cli: Cli,
    action: Annotated[str, typer.Argument(metavar="ACTION", help="For example datasets.write.")],
    value: Annotated[int, typer.Argument(metavar="VALUE", min=1, max=100, help="1 to 100.")],
) -> None:
    """Change what an action needs, in all projects."""
    async with cli.terminal() as loupe:
        found = await loupe.policy.set_threshold(str(cli.name(names.ThresholdName, action)), value)
    cli.show(found, lambda: f"{found.name} needs {found.value} now")
