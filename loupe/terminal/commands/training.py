"""loupe train | job | cluster"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.terminal.commands.frame import Cli, Ended, command, new_group
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.tables import facts, percent, placement_table, short, table, when
from loupe.terminal.verdict import doubted_digests, read_report, render_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    from loupe.terminal.client import Terminal

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, or its whole name.")]

app = typer.Typer()
job_app = new_group(app, "job", "Training jobs; they go on when the terminal goes away.")
cluster_app = new_group(app, "cluster", "Training clusters and their load.")


@command(
    app,
    "train",
    "loupe train screws --target-accuracy 0.97 --watch --project line-7",
    "loupe train screws -t 0.99 --algorithm finetune --param size=128 --max-minutes 30",
)
async def train(
    cli: Cli,
    *,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Data set: screws, or screws/versions/2.")],
    target_accuracy: Annotated[
        float, typer.Option("--target-accuracy", "-t", help="Above 0, at most 1: training is done when it is reached.")
    ],
    algorithm: Annotated[
        str, typer.Option("--algorithm", "-a", help="Algorithm: finetune, or finetune/versions/1.2.")
    ] = "finetune",
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter of the algorithm; repeatable."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Where the result goes; else the data set's id.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Makes the run repeatable.")] = 0,
    priority: Annotated[int, typer.Option("--priority", min=0, max=100, help="A higher one is placed first.")] = 0,
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", min=0.1, help="Bound of the training time; else 4 hours.")
    ] = None,
    max_epochs: Annotated[int, typer.Option("--max-epochs", min=0, help="Bound of the epochs; 0: none.")] = 0,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow it to its end; exit 3 below the target.")
    ] = False,
) -> None:
    """Submit a training job. It runs on the mesh; this terminal may go away and `loupe job watch` it later."""
    if not 0 < target_accuracy <= 1:
        raise errors.invalid("target-accuracy", target_accuracy, "a number above 0 and at most 1, for example 0.97")
    async with cli.terminal() as loupe:
        job = await loupe.jobs.submit(
            str(cli.name(names.DatasetVersionName, dataset)),
            target_accuracy=target_accuracy,
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
            await _watch(cli, loupe, job, 0)
    cli.show(job, lambda: f"submitted {job.name}; follow it with `loupe job watch {job.name}`")


def parse_parameters(texts: list[str]) -> dict[str, Any]:
    """Read name=value pairs: numbers, true and false as such, everything else as text. Raises InvalidArgument.

    >>> parse_parameters(["epochs=20", "freeze=true", "backbone=resnet18"])
    {'epochs': 20, 'freeze': True, 'backbone': 'resnet18'}
    """
    parameters: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise errors.invalid("param", text, "NAME=VALUE, for example --param epochs=20")
        parameters[name] = value
        with contextlib.suppress(ValueError):
            read = json.loads(value)
            if isinstance(read, (int, float, bool)):
                parameters[name] = read
    return parameters


@command(job_app, "list", "loupe job list --project line-7")
async def job_list(cli: Cli) -> None:
    """List the project's jobs, newest first."""
    from loupe.terminal.live import state_word

    async with cli.terminal() as loupe:
        found = [one async for one in loupe.jobs.list(cli.project)]
    rows = [
        (short(one.name), state_word(one.state), short(one.dataset_version), percent(one.target_accuracy),
         short(one.result.model_version), when(one.create_time))
        for one in found
    ]  # fmt: skip
    columns = ("job", "state", "data set", "target", "model", "submitted")
    cli.show({"jobs": found}, lambda: table(columns, rows, right=(3,)))


@command(job_app, "show", "loupe job show j1 --project line-7")
async def job_show(cli: Cli, job: JobId) -> None:
    """Show a job; when it is over, its verdict: accuracy, worst classes, confusion matrix, labels to check."""
    async with cli.terminal() as loupe:
        found = await loupe.jobs.get(str(cli.name(names.JobName, job)))
        filenames = {} if cli.as_json else await _doubted_files(loupe, found)
    cli.show(found, lambda: _job_view(found, filenames))


def _job_view(job: TrainingJob, filenames: dict[str, str]) -> RenderableType:
    from rich.console import Group

    from loupe.terminal.live import state_word

    pairs = [
        ("job", job.name),
        ("state", ": ".join(filter(None, (state_word(job.state), job.state_message)))),
        ("data set", job.dataset_version),
        ("algorithm", job.algorithm_version),
        ("target", percent(job.target_accuracy)),
        ("trainer", f"{job.trainer}, attempt {job.attempt}" if job.trainer else ""),
        ("submitted", f"{when(job.create_time)} by {job.submitter}"),
        ("started", when(job.start_time)),
        ("ended", when(job.end_time)),
        ("failure", f"{job.failure.reason}: {job.failure.message}" if job.HasField("failure") else ""),
    ]
    parts: list[RenderableType] = [facts(pairs)]
    if job.HasField("result"):
        parts.append(render_result(job.result, filenames))
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
    after: Annotated[int, typer.Option("--after", min=0, help="Begin after this event's sequence number.")] = 0,
) -> None:
    """Follow a job to its end; a connection that drops is healed, no event is lost or shown twice.

    Exit code 0: the target was reached. 3: it was not. 1: the job failed or was cancelled.
    """
    async with cli.terminal() as loupe:
        found = await loupe.jobs.get(str(cli.name(names.JobName, job)))
        await _watch(cli, loupe, found, after)


async def _watch(cli: Cli, loupe: Terminal, job: TrainingJob, after: int) -> None:
    """Follow a job, show its result and leave with its exit code."""
    from loupe.scheduler.v1 import training_job_pb2 as jobs
    from loupe.terminal.live import JobView, job_display

    state = jobs.JOB_STATE_UNSPECIFIED
    async with contextlib.aclosing(loupe.jobs.watch(job.name, after)) as events:
        with contextlib.ExitStack() as stack:
            show = (
                cli.emit if cli.as_json else stack.enter_context(job_display(cli.console, JobView(job.target_accuracy)))
            )
            async for event in events:
                show(event)
                if event.WhichOneof("event") == "state_change":
                    state = event.state_change.state
    if not cli.as_json:
        ended = await loupe.jobs.get(job.name)
        cli.console.print(_job_view(ended, await _doubted_files(loupe, ended)))
    raise Ended({jobs.JOB_STATE_SUCCEEDED: 0, jobs.JOB_STATE_TARGET_MISSED: 3}.get(state, 1))


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
        parts.append(Text(answer.current.summary))
        if answer.HasField("last"):
            parts += [Text("\nlast attempt", style="bold"), placement_table(answer.last), Text(answer.last.summary)]
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
