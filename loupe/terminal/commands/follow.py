"""loupe follow, and what `loupe train --watch` ends with: models that come to the terminal by themselves."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.terminal.commands.frame import Cli, Ended, command
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.commands.models import pulled_value
from loupe.terminal.progress import pull_bar
from loupe.terminal.tables import line

if TYPE_CHECKING:
    from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    from loupe.terminal.client import Terminal
    from loupe.terminal.pull import Pulled
    from loupe.terminal.releases import Problem

app = typer.Typer()


@command(
    app,
    "follow",
    "loupe follow line-7",
    "loupe follow line-7 --model screws --model nuts --json",
    "loupe follow line-7 --once --keep 3",
)
async def follow(
    cli: Cli,
    project: Annotated[str | None, typer.Argument(metavar="PROJECT", help="Else the one that is chosen.")] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="ID", help="Only this model; repeatable. Else all.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Bring what is new and end: for a timer.")] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="N", min=1, help="Remove all but a model's newest N versions; else all stay."),
    ] = None,
) -> None:
    """Receive released models by themselves: each is checked, installed beside the old one, and told with a line.

    `loupe classify screws` uses the newest from then on. It runs until Ctrl-C, waits for a mesh that is away, and after
    days without one brings what was released in the meantime. A release comes within seconds of its job's end, at most
    15 s later than it is made; a model that is not released never comes.

    With --keep, older versions are removed when a new one is installed and answers. What is in use stays until the next
    time, and what was pulled by its number, or below its target, stays for good.
    """
    parent = str(cli.name(names.ProjectName, project)) if project else cli.project
    wanted = [names.check_id("model", one) for one in model or []]
    failed: list[errors.LoupeError] = []

    def tell(problem: Problem) -> None:
        failed.append(_as_loupe_error(problem.error))
        _tell_problem(cli, problem)

    if not once:
        cli.note(f"following {', '.join(wanted) or 'all models'} of {parent}; Ctrl-C ends it")
    async with cli.terminal() as loupe:
        arrivals = loupe.models.follow(parent, wanted, once=once, keep=keep, on_problem=tell)
        async with contextlib.aclosing(arrivals):
            async for arrived in arrivals:
                _tell_arrival(cli, arrived)
    if failed:
        from loupe.terminal.exits import exit_code

        raise Ended(int(exit_code(failed[-1])))


def _tell_arrival(cli: Cli, arrived: Pulled) -> None:
    cleared = arrived.cleared
    if cli.as_json:
        removed = {
            "removed": list(map(str, cleared.removed)),
            "not_removed": {str(one): why for one, why in cleared.kept},
        }
        cli.emit(arrival_value(arrived) | removed)
        return
    _say_arrival(cli, arrived)
    for name in cleared.removed:
        cli.console.print(line(f"removed {name}"))
    for name, why in cleared.kept:
        cli.note(f"{name} was not removed: {why}")


def _say_arrival(cli: Cli, arrived: Pulled) -> None:
    said = "installed" if arrived.fresh else "already here:"
    cli.console.print(line(f"{said} {arrived.version.name} in {arrived.folder}"))


def arrival_value(arrived: Pulled) -> dict[str, Any]:
    """Return an installed model for programs: which, where, whether it came now, and its figures."""
    version = arrived.version
    return pulled_value(arrived) | {
        "released": version.released,
        "labels": list(version.labels),
        "metrics": version.metrics,
        "create_time": version.create_time,
    }


def _tell_problem(cli: Cli, problem: Problem) -> None:
    error = _as_loupe_error(problem.error)
    if cli.as_json:
        cli.emit(
            {
                "problem": error.message,
                "reason": error.reason_name(),
                "model": problem.version or None,
                "tried_again": problem.again,
            }
        )
    elif problem.version:
        end = "it is tried again" if problem.again else "it stays away, and what is installed stays in use"
        cli.note(f"{problem.version} was not installed: {error.message}; {end}")
    else:
        cli.note(f"{error.message}; waiting")


def _as_loupe_error(error: errors.LoupeError | OSError) -> errors.LoupeError:
    from loupe.terminal.exits import from_os_error

    return from_os_error(error) if isinstance(error, OSError) else error


async def deliver(cli: Cli, loupe: Terminal, job: TrainingJob) -> None:
    """Install the model of a job that has ended, when it is released, and say where it is.

    Raises what a pull raises, with the job's success and the way to its model in the message.
    """
    from loupe.scheduler.v1 import training_job_pb2 as jobs

    version = job.result.model_version
    if version and job.state == jobs.JOB_STATE_TARGET_MISSED:
        cli.note(
            f"the model is not released, so it is not on this machine; "
            f"`loupe model pull {version} --allow-below-target` brings it"
        )
    if not version or job.state != jobs.JOB_STATE_SUCCEEDED:
        return
    try:
        with pull_bar(cli.messages, cli.watched) as show:
            pulled = await loupe.models.pull(version, show=show)
    except (errors.LoupeError, OSError) as caught:
        error = _as_loupe_error(caught)
        message = (
            f"the model is trained and released, but it is not on this machine: {error.message}; "
            f"`loupe model pull {version}` brings it"
        )
        raise type(error)(message, **error.metadata) from caught
    if cli.as_json:
        cli.emit({"installed": arrival_value(pulled)})
    else:
        _say_arrival(cli, pulled)
