"""loupe train | job | cluster"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.terminal.codes import Exit
from loupe.terminal.commands.follow import deliver
from loupe.terminal.commands.frame import Cli, Ended, Interrupted, command, new_group, within
from loupe.terminal.commands.lazy import errors, names, targets
from loupe.terminal.commands.matrix import CsvOption, MatrixOption, PngOption, write_matrix
from loupe.terminal.escapes import escaped
from loupe.terminal.tables import facts, line, percent, placement_table, seconds_of, short, table, when
from loupe.terminal.targets import objective_of, target_text
from loupe.terminal.verdict import doubted_digests, read_report, render_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.scheduler.v1.training_job_pb2 import JobState, StateChange, TrainingJob
    from loupe.terminal.client import Terminal

MAX_INT32, MAX_INT64 = (1 << 31) - 1, (1 << 63) - 1
MAX_MINUTES = 527_040.0
"""A year; `loupe.terminal.jobs` checks the same without loading typer."""

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, or its whole name.")]

app = typer.Typer()
job_app = new_group(app, "job", "Training jobs; they go on when the terminal goes away.")
cluster_app = new_group(app, "cluster", "Training clusters and their load.")


@command(
    app,
    "train",
    "loupe train screws --target 0.97 --watch --project line-7",
    "loupe train screws --target lowest_recall=0.9",
    "loupe train screws -t 0.99 --algorithm finetune --param size=128 --max-minutes 30",
)
async def train(
    cli: Cli,
    *,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Data set: screws, or screws/versions/2.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            "-t",
            metavar="TARGET",
            help="When training is done: 0.97 of the validation pictures are right; or balanced_accuracy=0.95; or "
            "lowest_recall=0.9: of each class so many are found; or recall[crack]=0.99: of that one. Needed.",
        ),
    ] = None,
    target_accuracy: Annotated[str | None, typer.Option("--target-accuracy", hidden=True)] = None,
    algorithm: Annotated[
        str, typer.Option("--algorithm", "-a", metavar="NAME", help="finetune, or one version: finetune/versions/1.2.")
    ] = "finetune",
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter of the algorithm; repeatable."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="The model that is made; else called as the data set.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", callback=within(-MAX_INT64 - 1, MAX_INT64), help="Makes the run repeatable."
        ),
    ] = 0,
    priority: Annotated[
        int,
        typer.Option(
            "--priority",
            metavar="0-100",
            callback=within(0, 100),
            help="Orders the jobs of one project, a higher one first; at most your group's permission parameter. "
            "Projects take turns.",
        ),
    ] = 0,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            "--max-minutes",
            metavar="N",
            callback=within(0.1, MAX_MINUTES),
            help="Bound of the training time; else 4 hours.",
        ),
    ] = None,
    max_epochs: Annotated[
        int,
        typer.Option("--max-epochs", metavar="N", callback=within(0, MAX_INT32), help="Bound of the epochs; 0: none."),
    ] = 0,
    allow_small_validation: Annotated[
        bool,
        typer.Option(
            "--allow-small-validation", help="Release the model also when few validation pictures stand behind it."
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the job to its end; exit 3 below the target.")
    ] = False,
    no_install: Annotated[
        bool, typer.Option("--no-install", help="With --watch: do not bring the released model to this machine.")
    ] = False,
) -> None:
    """Submit a training job. It runs on the mesh; this terminal may go away and `loupe job watch` it later.

    Ctrl-C ends the watching with exit code 130, and not the job: `loupe job cancel` does that.
    """
    if (asked := target or target_accuracy) is None:
        raise typer.BadParameter(
            "expected 0.97, balanced_accuracy=0.95, lowest_recall=0.9 or recall[CLASS]=0.9", param_hint="--target"
        )
    objective = targets.parse_objective(asked)
    async with cli.terminal() as loupe:
        job = await loupe.jobs.submit(
            str(cli.name(names.DatasetVersionName, dataset)),
            target=objective,
            allow_small_validation=allow_small_validation,
            algorithm_version=str(cli.name(names.AlgorithmVersionName, algorithm)),
            parameters=parse_parameters(param or []),
            model=str(cli.name(names.ModelName, model)) if model else "",
            seed=seed,
            priority=priority,
            max_minutes=max_minutes,
            max_epochs=max_epochs,
        )
        if watch:
            cli.note(f"submitted {job.name}")
            await _watch(cli, loupe, job, 0, install=not no_install)
    cli.show(job, lambda: f"submitted {job.name}; follow it with `loupe job watch {job.name}`")


def parse_parameters(texts: list[str]) -> dict[str, Any]:
    """Read name=value pairs: numbers, true and false as such, everything else as text. Raises InvalidArgument.

    >>> parse_parameters(["epochs=20", "freeze=true", "backbone=resnet18"])
    {'epochs': 20, 'freeze': True, 'backbone': 'resnet18'}
    """
    exact = 1 << 53  # the contract carries numbers as doubles
    parameters: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise errors.invalid("param", text, "NAME=VALUE, for example --param epochs=20")
        parameters[name] = value
        with contextlib.suppress(ValueError, RecursionError):
            read = json.loads(value)
            if isinstance(read, int) and abs(read) > exact:
                raise errors.invalid("param", text, f"a whole number from -{exact} to {exact}")
            if isinstance(read, (int, bool)) or (isinstance(read, float) and math.isfinite(read)):
                parameters[name] = read
    return parameters


class StateChoice(StrEnum):
    """The states of a job, as people write them."""

    QUEUED = "queued"
    DISPATCHING = "dispatching"
    RUNNING = "running"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    TARGET_MISSED = "target-missed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@command(
    job_app,
    "list",
    "loupe job list --project line-7",
    "loupe job list --state running --state queued",
)
async def job_list(
    cli: Cli,
    state: Annotated[
        list[StateChoice] | None,
        typer.Option(
            "--state",
            case_sensitive=False,
            metavar="STATE",
            help=f"Only jobs in this state: {', '.join(StateChoice)}; repeatable.",
        ),
    ] = None,
) -> None:
    """List the project's jobs, newest first."""
    from loupe.terminal.live import state_word

    states = [f"JOB_STATE_{one.name}" for one in state or []]
    async with cli.terminal() as loupe:
        found = [one async for one in loupe.jobs.list(cli.project, states)]
    rows = [
        (short(one.name), state_word(one.state), short(one.dataset_version), target_text(one),
         short(one.result.model_version), when(one.create_time))
        for one in found
    ]  # fmt: skip
    columns = ("job", "state", "data set", "target", "model", "submitted")
    cli.show({"jobs": found}, lambda: table(columns, rows, right=(3,)))


@command(
    job_app,
    "show",
    "loupe job show j1 --project line-7",
    "loupe job show j1 --matrix",
    "loupe job show j1 --csv confusion.csv --png confusion.png",
)
async def job_show(
    cli: Cli,
    job: JobId,
    whole_matrix: MatrixOption = False,
    csv_file: CsvOption = None,
    png_file: PngOption = None,
) -> None:
    """Show a job; when it is over, its verdict: accuracy, worst classes, confusions, labels to check."""
    async with cli.terminal() as loupe:
        found = await loupe.jobs.get(str(cli.name(names.JobName, job)))
        filenames = {} if cli.as_json else await _doubted_files(loupe, found)
    write_matrix(cli, found.name, found.result.report_json, csv_file, png_file)
    cli.show(found, lambda: _job_view(found, filenames, whole=whole_matrix))


def _job_view(job: TrainingJob, filenames: dict[str, str], *, told: str = "", whole: bool = False) -> RenderableType:
    """Show all of a job; told: the sentence that was said of it already. whole: the matrix at any width."""
    from rich.console import Group

    from loupe.terminal.live import state_word

    # The state's message is often the verdict, or the failure's message: each is said once.
    message = "" if job.state_message in (told, job.result.verdict, job.failure.message) else job.state_message
    failure = f"{job.failure.reason}: {job.failure.message}" if job.HasField("failure") else ""
    pairs = [
        ("job", job.name),
        ("state", ": ".join(filter(None, (state_word(job.state), message)))),
        ("data set", job.dataset_version),
        ("algorithm", job.algorithm_version),
        ("target", target_text(job)),
        ("trainer", f"{job.trainer}, attempt {job.attempt}" if job.trainer else ""),
        ("submitted", f"{when(job.create_time)} by {job.submitter}"),
        ("started", when(job.start_time)),
        ("ended", when(job.end_time)),
        ("failure", failure),
    ]
    parts: list[RenderableType] = [facts(pairs)]
    if job.HasField("result"):
        parts.append(render_result(job.result, filenames, verdict=job.result.verdict != told, whole=whole))
    return Group(*parts)


async def _doubted_files(loupe: Terminal, job: TrainingJob) -> dict[str, str]:
    """Return the file names of the pictures whose label looks wrong, where the caller may see them."""
    wanted = doubted_digests(read_report(job.result.report_json))
    names: dict[str, str] = {}
    if wanted:
        # Without the right to read the data set, the digests are shown instead.
        with contextlib.suppress(errors.LoupeError):
            async for item in loupe.datasets.items(job.dataset_version):
                if item.digest in wanted:
                    names[item.digest] = item.filename or item.digest
                    if len(names) == len(wanted):
                        break
    return names


@command(job_app, "watch", "loupe job watch j1 --project line-7", "loupe job watch j1 --json --after 17")
async def job_watch(
    cli: Cli,
    job: JobId,
    after: Annotated[
        int,
        typer.Option(
            "--after", metavar="N", callback=within(0, MAX_INT64), help="Begin after this event's sequence number."
        ),
    ] = 0,
) -> None:
    """Follow a job to its end; a connection that drops is healed, no event is lost or shown twice.

    Exit code 0: the target was reached. 3: it was not. 1: the job failed or was cancelled. 130: Ctrl-C ended the
    watching, and the job goes on.
    """
    async with cli.terminal() as loupe:
        found = await loupe.jobs.get(str(cli.name(names.JobName, job)))
        await _watch(cli, loupe, found, after)


async def _watch(cli: Cli, loupe: Terminal, job: TrainingJob, after: int, *, install: bool = False) -> None:
    """Follow a job, show its result and leave with its exit code; the job goes on when this is interrupted.

    install: bring its model to this machine when it was released.
    """
    try:
        last = await _follow(cli, loupe, job, after)
    except asyncio.CancelledError as stopped:
        raise Interrupted(
            f"no longer watching; {job.name} goes on",
            f"`loupe job watch {job.name}` follows it again, `loupe job cancel {job.name}` ends it",
        ) from stopped
    ended = await loupe.jobs.get(job.name) if install or not cli.as_json else job
    if not cli.as_json:
        cli.console.print(_job_view(ended, await _doubted_files(loupe, ended), told=last.message))
    if install:
        await deliver(cli, loupe, ended)
    raise Ended(exit_of(last.state))


async def _follow(cli: Cli, loupe: Terminal, job: TrainingJob, after: int) -> StateChange:
    """Show a job's events to the last one, and return its final state."""
    from loupe.scheduler.v1.training_job_pb2 import StateChange
    from loupe.terminal.live import JobView, job_display

    last = StateChange()
    view = JobView(objective_of(job), began=seconds_of(job.create_time))
    async with contextlib.aclosing(loupe.jobs.watch(job.name, after)) as events:
        with contextlib.ExitStack() as stack:
            show = cli.emit if cli.as_json else stack.enter_context(job_display(cli.console, view))
            async for event in events:
                show(event)
                if event.WhichOneof("event") == "state_change":
                    last = event.state_change
    return last


def exit_of(state: JobState) -> int:
    """Return the exit code for a job's final state."""
    from loupe.scheduler.v1 import training_job_pb2 as jobs

    codes = {jobs.JOB_STATE_SUCCEEDED: Exit.OK, jobs.JOB_STATE_TARGET_MISSED: Exit.TARGET_MISSED}
    return int(codes.get(state, Exit.UNEXPECTED))


@command(job_app, "cancel", "loupe job cancel j1 --project line-7")
async def job_cancel(cli: Cli, job: JobId) -> None:
    """Cancel a job. One that is over, or whose model is being published, stays as it is."""
    from loupe.terminal.live import state_word

    async with cli.terminal() as loupe:
        found = await loupe.jobs.cancel(str(cli.name(names.JobName, job)))
    cli.show(found, lambda: f"{found.name} is {state_word(found.state)}")


@command(job_app, "explain", "loupe job explain j1 --project line-7")
async def job_explain(cli: Cli, job: JobId) -> None:
    """Explain where a job would go now and why, and how its last attempt was placed."""
    from rich.console import Group
    from rich.text import Text

    async with cli.terminal() as loupe:
        answer = await loupe.jobs.explain(str(cli.name(names.JobName, job)))

    def human() -> RenderableType:
        parts: list[RenderableType] = [Text("now", style="bold"), placement_table(answer.current)]
        parts.append(line(escaped(answer.current.summary)))
        if answer.HasField("last"):
            parts += [Text("\nlast attempt", style="bold"), placement_table(answer.last)]
            parts.append(line(escaped(answer.last.summary)))
        return Group(*parts)

    cli.show(answer, human)


@command(cluster_app, "list", "loupe cluster list")
async def cluster_list(cli: Cli) -> None:
    """List the training clusters with their trainers and loads."""
    async with cli.terminal() as loupe:
        answer = await loupe.clusters.list()
    rows: list[Sequence[object]] = []
    for cluster in answer.clusters:
        candidate = "candidate" if cluster.load < answer.load_threshold and cluster.free_slots else ""
        rows.append((short(cluster.name), "", percent(cluster.load), cluster.free_slots, "", "", "", candidate))
        for one in cluster.trainers:
            slots = f"{one.busy_slots}/{one.slots}"
            note = "" if one.sandboxed else "built-in images only"
            free = one.slots - one.busy_slots
            rows.append(("", short(one.name), percent(one.load), free, slots, one.warm_slots, one.gpus, note))
    columns = ("cluster", "trainer", "load", "free slots", "busy", "warm", "GPUs", "")
    title = f"candidates are below a load of {percent(answer.load_threshold)}"
    cli.show(answer, lambda: table(columns, rows, title=title, right=(2, 3, 4, 5, 6)))
