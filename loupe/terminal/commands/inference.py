"""loupe evaluate | predict"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.job_kinds import SELECTIONS, JobKind, PictureSelection
from loupe.terminal.commands.frame import Cli, Ended, Interrupted, command, one_of
from loupe.terminal.commands.jobs import exit_of, follow_job, job_view
from loupe.terminal.commands.lazy import names
from loupe.terminal.commands.matrix import CsvOption, MatrixOption, PngOption, write_matrix
from loupe.terminal.commands.orders import PRIORITY_HELP, LabelsOption, parse_labels, within_priorities

if TYPE_CHECKING:
    from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    from loupe.terminal.client import Terminal

app = typer.Typer()

ALL = "all"
SPLITS = {
    "test": PictureSelection.TEST,
    "validation": PictureSelection.VALIDATION,
    "train": PictureSelection.TRAIN,
    ALL: PictureSelection.LABELLED,
}
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="screws for its newest released version, or screws/versions/2.")
]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="screws for its newest version, or screws/versions/2.")
]
AlgorithmOption = Annotated[
    str | None, typer.Option("--algorithm", "-a", metavar="NAME", help="The image that answers; else inference.")
]
PriorityOption = Annotated[
    int, typer.Option("--priority", metavar="0-100", callback=within_priorities, help=PRIORITY_HELP)
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Submit the job and leave; `loupe job watch` follows it.")
]


@command(
    app,
    "evaluate",
    "loupe evaluate screws screws --project line-7",
    "loupe evaluate screws/versions/2 other-line --split all --csv confusion.csv",
)
async def evaluate(
    cli: Cli,
    *,
    model: ModelArgument,
    dataset: DatasetArgument,
    split: Annotated[
        str,
        typer.Option(
            "--split", metavar="SPLIT", callback=one_of(*SPLITS), help=f"One of {', '.join(SPLITS)}; default test."
        ),
    ] = "test",
    algorithm: AlgorithmOption = None,
    priority: PriorityOption = 0,
    label: LabelsOption = None,
    whole_matrix: MatrixOption = False,
    csv_file: CsvOption = None,
    png_file: PngOption = None,
    no_wait: NoWaitOption = False,
) -> None:
    """Measure a model on labelled pictures: a job on the mesh that trains nothing and makes no model.

    Classes are matched by name. Pictures of a class that the model does not know count as wrong, and the class is told.
    Ctrl-C ends the waiting with exit code 130, and not the job.
    """
    name, version = cli.name(names.ModelVersionName, model), cli.name(names.DatasetVersionName, dataset)
    async with cli.terminal() as loupe:
        job = await loupe.jobs.evaluate(
            str(name),
            str(version),
            pictures=SPLITS[split],
            algorithm_version=str(cli.name(names.AlgorithmVersionName, algorithm)) if algorithm else "",
            priority=priority,
            labels=parse_labels(label or []),
        )
        ended = await _ended(cli, loupe, job, no_wait=no_wait)
    write_matrix(cli, ended.name, ended.result.report_json, csv_file, png_file)
    _show(cli, ended, whole=whole_matrix)


@command(
    app,
    "predict",
    "loupe predict screws screws --project line-7",
    "loupe predict screws/versions/2 new-pictures --all --out answers.jsonl",
)
async def predict(
    cli: Cli,
    *,
    model: ModelArgument,
    dataset: DatasetArgument,
    every: Annotated[bool, typer.Option("--all", help="Also the pictures that are labelled.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the answers there, a JSON object a line.")
    ] = None,
    algorithm: AlgorithmOption = None,
    priority: PriorityOption = 0,
    label: LabelsOption = None,
    no_wait: NoWaitOption = False,
) -> None:
    """Have a model answer the unlabelled pictures of a data set: a job on the mesh.

    The answers change nothing. `loupe dataset annotate DATASET --from-job JOB` makes a version of the data set with
    them. Ctrl-C ends the waiting with exit code 130, and not the job.
    """
    if out is not None and no_wait:
        raise typer.BadParameter(
            "the answers are there when the job has ended; leave --no-wait out", param_hint="--out"
        )
    name, version = cli.name(names.ModelVersionName, model), cli.name(names.DatasetVersionName, dataset)
    async with cli.terminal() as loupe:
        job = await loupe.jobs.predict(
            str(name),
            str(version),
            pictures=PictureSelection.ALL if every else SELECTIONS[JobKind.PREDICT][0],
            algorithm_version=str(cli.name(names.AlgorithmVersionName, algorithm)) if algorithm else "",
            priority=priority,
            labels=parse_labels(label or []),
        )
        ended = await _ended(cli, loupe, job, no_wait=no_wait)
        if out is not None and ended.result.HasField("predictions"):
            from loupe.terminal.predictions import fetch_predictions

            out.write_bytes(await fetch_predictions(loupe.datasets, ended))
            cli.note(f"wrote the answers to {out}")
    _show(cli, ended)


async def _ended(cli: Cli, loupe: Terminal, job: TrainingJob, *, no_wait: bool) -> TrainingJob:
    """Return the job as it is at its end, shown to a person meanwhile; as it is now where nobody waits for it."""
    if no_wait:
        return job
    cli.note(f"submitted {job.name}")
    try:
        await follow_job(cli, loupe, job, 0, quiet=cli.as_json)
    except asyncio.CancelledError as stopped:
        raise Interrupted(
            f"no longer waiting; {job.name} goes on",
            f"`loupe job watch {job.name}` follows it, `loupe job cancel {job.name}` ends it",
        ) from stopped
    return await loupe.jobs.get(job.name)


def _show(cli: Cli, job: TrainingJob, *, whole: bool = False) -> None:
    if not job.HasField("end_time"):
        cli.show(job, lambda: f"submitted {job.name}; follow it with `loupe job watch {job.name}`")
        return
    cli.show(job, lambda: job_view(job, {}, whole=whole))
    raise Ended(exit_of(job.state))
