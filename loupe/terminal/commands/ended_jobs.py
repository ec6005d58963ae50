"""loupe job resume | delete | undelete"""

from __future__ import annotations

from typing import Annotated

import typer

from loupe.terminal.commands.frame import Cli, command, within
from loupe.terminal.commands.jobs import JobId, job_app, watch
from loupe.terminal.commands.lazy import names, targets
from loupe.terminal.commands.orders import (
    MAX_INT32,
    PRIORITY_HELP,
    LabelsOption,
    NoInstallOption,
    WatchOption,
    parse_changes,
    parse_labels,
    within_minutes,
    within_priorities,
)
from loupe.terminal.tables import when

app = typer.Typer()
"""Nothing but what is added to the group `job`."""


@command(
    job_app,
    "resume",
    "loupe job resume j1 --max-minutes 30 --watch",
    "loupe job resume j1 --target 0.95",
)
async def job_resume(
    cli: Cli,
    job: JobId,
    *,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", metavar="N", callback=within_minutes, help="Bound of the further training time."),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(
            "--max-epochs",
            metavar="N",
            callback=within(0, MAX_INT32),
            help="Bound of the epochs, the earlier job's included; else none.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", metavar="TARGET", help="Another value of the same metric.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter that changes; NAME- for its default."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="The model that is made.")] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="0-100", callback=within_priorities, help=PRIORITY_HELP)
    ] = None,
    label: LabelsOption = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why it goes on.")] = None,
    watch_it: WatchOption = False,
    no_install: NoInstallOption = False,
) -> None:
    """Go on from the last checkpoint of a job that ran out of time, failed, was cancelled or missed its target.

    A new job trains on for as long again, or for --max-minutes. Data set, algorithm, seed and base model stay, as do
    the files and all parameters that are not named; one that shapes the network, such as its size, has to stay too.
    Checkpoints are kept for 7 days after a job's end; how many is a setting of the mesh. `loupe job rerun` begins anew.
    """
    name = str(cli.name(names.JobName, job))
    objective = None if target is None else targets.parse_objective(target)
    parameters, labels = parse_changes(param or []), parse_labels(label or [])
    async with cli.terminal() as loupe:
        old = await loupe.jobs.get(name)
        made = await loupe.jobs.resume(
            name,
            target=objective,
            parameters=parameters,
            model=str(cli.name(names.ModelName, model)) if model else None,
            priority=priority,
            max_minutes=max_minutes,
            max_epochs=max_epochs,
            labels={**old.labels, **labels} if labels else None,
            note=note,
        )
        if watch_it:
            cli.note(f"submitted {made.name}, which resumes {name}")
            await watch(cli, loupe, made, 0, install=not no_install)
    cli.show(made, lambda: f"submitted {made.name}, which resumes {name}; `loupe job watch {made.name}` follows it")


@command(job_app, "delete", "loupe job delete j1 --project line-7")
async def job_delete(cli: Cli, job: JobId) -> None:
    """Delete a job that is over; `undelete` restores it for 30 days.

    How many days is a setting of the mesh. After that its events and its checkpoint are removed. The model that it made
    stays, and tells what it was made of. The name is not given again.
    """
    async with cli.terminal() as loupe:
        gone = await loupe.jobs.delete(str(cli.name(names.JobName, job)))
    cli.show(gone, lambda: f"deleted {gone.name}; it can be restored until {when(gone.expire_time)}")


@command(job_app, "undelete", "loupe job undelete j1 --project line-7")
async def job_undelete(cli: Cli, job: JobId) -> None:
    """Restore a deleted job."""
    async with cli.terminal() as loupe:
        back = await loupe.jobs.undelete(str(cli.name(names.JobName, job)))
    cli.show(back, lambda: f"restored {back.name}")
