"""loupe job"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.codes import Exit
from loupe.terminal.commands.deleted import DeletedOption, show_deleted
from loupe.terminal.commands.follow import deliver
from loupe.terminal.commands.frame import Cli, Ended, Interrupted, command, new_group, within
from loupe.terminal.commands.lazy import errors, names, targets
from loupe.terminal.commands.matrix import CsvOption, MatrixOption, PngOption, write_matrix
from loupe.terminal.commands.orders import (
    MAX_INT64,
    PRIORITY_HELP,
    TARGET_HELP,
    LabelsOption,
    NoInstallOption,
    WatchOption,
    parse_changes,
    parse_labels,
    relabelled,
    with_files,
    within_minutes,
    within_priorities,
    within_seeds,
)
from loupe.terminal.escapes import escaped
from loupe.terminal.job_kinds import kind_of, pictures_of, trains
from loupe.terminal.tables import facts, line, placement_table, seconds_of, short, table, when
from loupe.terminal.targets import objective_of, target_text
from loupe.terminal.verdict import doubted_digests, read_report, render_result

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.scheduler.v1.training_job_pb2 import JobState, StateChange, TrainingJob
    from loupe.terminal.client import Terminal

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, or its whole name.")]

app = typer.Typer()
job_app = new_group(app, "job", "Training jobs; they go on when the terminal goes away.")


class StateChoice(StrEnum):
    """The states of a job, as people write them."""

    QUEUED = "queued"
    DISPATCHING = "dispatching"
    RUNNING = "running"
    PUBLISHING = "publishing"
    SUCCEEDED = "succeeded"
    TARGET_MISSED = "target-missed"
    MISSED = "missed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def state(self) -> str:
        """The JobState's name."""
        return f"JOB_STATE_{StateChoice.TARGET_MISSED.name if self is StateChoice.MISSED else self.name}"


@command(
    job_app,
    "list",
    "loupe job list --project line-7",
    "loupe job list --state running --state queued",
    "loupe job list --state failed --state missed --label line=7",
    "loupe job list --deleted",
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
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="KEY=VALUE", help="Only jobs with this label; repeatable: with all."),
    ] = None,
    deleted: DeletedOption = False,
) -> None:
    """List the project's jobs, newest first; with --deleted, those that can be restored."""
    from loupe.terminal.live import state_word

    states, labels = [one.state for one in state or []], parse_labels(label or [])
    async with cli.terminal() as loupe:
        if deleted:
            return await show_deleted(cli, loupe.jobs.deleted(cli.project, states, labels))
        found = [one async for one in loupe.jobs.list(cli.project, states, labels)]
    rows: list[Sequence[object]] = [
        (short(one.name), kind_of(one), state_word(one.state), short(one.dataset_version), target_text(one),
         short(one.result.model_version if trains(one) else one.base_model), when(one.create_time))
        for one in found
    ]  # fmt: skip
    columns = ["job", "kind", "state", "data set", "target", "model", "submitted"]
    if any(one.labels for one in found):
        columns.append("labels")
        rows = [(*row, labels_text(one)) for row, one in zip(rows, found, strict=True)]
    cli.show({"jobs": found}, lambda: table(columns, rows, right=(4,)))


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
    cli.show(found, lambda: job_view(found, filenames, whole=whole_matrix))


def job_view(job: TrainingJob, filenames: dict[str, str], *, told: str = "", whole: bool = False) -> RenderableType:
    """Show all of a job; told: the sentence that was said of it already. whole: the matrix at any width."""
    from rich.console import Group

    from loupe.terminal.live import state_word

    # The state's message is often the verdict, or the failure's message: each is said once.
    message = "" if job.state_message in (told, job.result.verdict, job.failure.message) else job.state_message
    failure = f"{job.failure.reason}: {job.failure.message}" if job.HasField("failure") else ""
    pairs = [
        ("job", job.name),
        ("kind", "" if trains(job) else kind_of(job)),
        ("state", ": ".join(filter(None, (state_word(job.state), message)))),
        ("data set", job.dataset_version),
        ("algorithm", job.algorithm_version),
        ("target", target_text(job)),
        ("labels", labels_text(job)),
        ("note", job.note),
        ("reruns", job.rerun_of),
        ("resumes", job.resume_of),
        ("starts from" if trains(job) else "model", job.base_model),
        ("pictures", pictures_of(job)),
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


def labels_text(job: TrainingJob) -> str:
    """Return a job's labels as they are typed, by their keys."""
    return " ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))


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
        await watch(cli, loupe, found, after)


async def watch(cli: Cli, loupe: Terminal, job: TrainingJob, after: int, *, install: bool = False) -> None:
    """Follow a job, show its result and leave with its exit code; the job goes on when this is interrupted.

    install: bring its model to this machine when it was released.
    """
    try:
        last = await follow_job(cli, loupe, job, after)
    except asyncio.CancelledError as stopped:
        raise Interrupted(
            f"no longer watching; {job.name} goes on",
            f"`loupe job watch {job.name}` follows it again, `loupe job cancel {job.name}` ends it",
        ) from stopped
    ended = await loupe.jobs.get(job.name) if install or not cli.as_json else job
    if not cli.as_json:
        cli.console.print(job_view(ended, await _doubted_files(loupe, ended), told=last.message))
    if install:
        await deliver(cli, loupe, ended)
    raise Ended(exit_of(last.state))


async def follow_job(cli: Cli, loupe: Terminal, job: TrainingJob, after: int, *, quiet: bool = False) -> StateChange:
    """Show a job's events to the last one, unless quiet, and return its final state."""
    from loupe.scheduler.v1.training_job_pb2 import StateChange
    from loupe.terminal.live import JobView, job_display

    last = StateChange()
    view = JobView(objective_of(job) if trains(job) else None, began=seconds_of(job.create_time))
    async with contextlib.aclosing(loupe.jobs.watch(job.name, after)) as events:
        with contextlib.ExitStack() as stack:
            told = cli.emit if cli.as_json or quiet else stack.enter_context(job_display(cli.console, view))
            async for event in events:
                if not quiet:
                    told(event)
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


@command(job_app, "label", "loupe job label j1 line=7 shift=late", "loupe job label j1 line=8 shift-")
async def job_label(
    cli: Cli,
    job: JobId,
    labels: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE|KEY-", help="line=7 sets a label, line- takes it away.")
    ],
) -> None:
    """Label a job, so that `loupe job list --label` finds it; its other labels stay."""
    name = str(cli.name(names.JobName, job))
    relabelled({}, labels)  # before the mesh is asked
    async with cli.terminal() as loupe:
        found = await loupe.jobs.get(name)
        found = await loupe.jobs.update(name, labels=relabelled(found.labels, labels))
    cli.show(found, lambda: f"{found.name} has {labels_text(found) or 'no label'}")


@command(job_app, "note", 'loupe job note j1 "after the new lamp"', 'loupe job note j1 ""')
async def job_note(
    cli: Cli,
    job: JobId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="One line for people, instead of the old one.")],
) -> None:
    """Write a note on a job; an empty one takes it away."""
    async with cli.terminal() as loupe:
        found = await loupe.jobs.update(str(cli.name(names.JobName, job)), note=text)
    cli.show(found, lambda: f"{found.name} is noted: {found.note}" if found.note else f"{found.name} has no note")


@command(
    job_app,
    "rerun",
    "loupe job rerun j1 --param size=128 --seed 2 --watch",
    "loupe job rerun j1 --dataset screws --max-minutes 30",
)
async def job_rerun(
    cli: Cli,
    job: JobId,
    *,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter that changes; NAME- for its default."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", "-t", metavar="TARGET", help=TARGET_HELP)] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", callback=within_seeds, help="Another seed.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="NAME", help="screws for its newest version, or screws/versions/2."),
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option("--algorithm", "-a", metavar="NAME", help="finetune for its newest, or finetune/versions/1.2."),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option("--max-minutes", metavar="N", callback=within_minutes, help="Bound of the training time."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="ID", help="The model that is made.")] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", metavar="MODEL", help="Start from its weights.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option("--priority", metavar="0-100", callback=within_priorities, help=PRIORITY_HELP)
    ] = None,
    label: LabelsOption = None,
    note: Annotated[str | None, typer.Option("--note", metavar="TEXT", help="Why it is run again.")] = None,
    watch_it: WatchOption = False,
    no_install: NoInstallOption = False,
) -> None:
    """Run a job again: the same versions of data set and algorithm, the same parameters, but for what is said here.

    Parameters change one by one. With another algorithm, those that were at their default get its default, and one that
    was chosen and that it does not have is an error. Labels go with the job, its note does not.
    """
    name = cli.name(names.JobName, job)
    objective = None if target is None else targets.parse_objective(target)
    parameters, labels = parse_changes(param or []), parse_labels(label or [])
    async with cli.terminal() as loupe:
        old = await loupe.jobs.get(str(name))
        version = str(cli.name(names.AlgorithmVersionName, algorithm)) if algorithm else None
        made = await loupe.jobs.rerun(
            str(name),
            dataset_version=str(cli.name(names.DatasetVersionName, dataset)) if dataset else None,
            target=objective,
            algorithm_version=version,
            parameters=await with_files(
                cli, loupe, f"projects/{name.project}", version or old.algorithm_version, parameters
            ),
            model=str(cli.name(names.ModelName, model)) if model else None,
            base_model=str(cli.name(names.ModelVersionName, base_model)) if base_model else None,
            seed=seed,
            priority=priority,
            max_minutes=max_minutes,
            labels={**old.labels, **labels} if labels else None,
            note=note,
        )
        if watch_it:
            cli.note(f"submitted {made.name}, which reruns {old.name}")
            await watch(cli, loupe, made, 0, install=not no_install)
    cli.show(made, lambda: f"submitted {made.name}, which reruns {old.name}; `loupe job watch {made.name}` follows it")
