"""loupe train | cluster"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from loupe.terminal.commands.frame import Cli, command, new_group, within
from loupe.terminal.commands.jobs import watch
from loupe.terminal.commands.lazy import names, targets
from loupe.terminal.commands.orders import (
    MAX_INT32,
    PRIORITY_HELP,
    TARGET_HELP,
    LabelsOption,
    NoInstallOption,
    WatchOption,
    parse_labels,
    parse_parameters,
    with_files,
    within_minutes,
    within_priorities,
    within_seeds,
)
from loupe.terminal.tables import percent, short, table

app = typer.Typer()
cluster_app = new_group(app, "cluster", "Training clusters and their load.")


@command(
    app,
    "train",
    "loupe train screws --target 0.97 --watch --project line-7",
    "loupe train screws --target lowest_recall=0.9",
    "loupe train screws -t 0.99 --algorithm finetune --param size=128 --max-minutes 30",
    'loupe train screws -t 0.9 --param weights=@weights.safetensors --label line=7 --note "after the new lamp"',
    "loupe train screws -t 0.98 --base-model screws/versions/2",
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
            help=f"{TARGET_HELP} Needed.",
        ),
    ] = None,
    target_accuracy: Annotated[str | None, typer.Option("--target-accuracy", hidden=True)] = None,
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm",
            "-a",
            metavar="NAME",
            help="finetune, or one version: finetune/versions/1.2. Else the built-in one for such data and target.",
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            metavar="NAME=VALUE",
            help="A parameter of the algorithm; repeatable. weights=@FILE pushes the file.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="ID", help="The model that is made; else called as the data set.")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", metavar="MODEL", help="Start from its weights: screws, or one version: screws/versions/2."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", callback=within_seeds, help="Makes the run repeatable."),
    ] = 0,
    priority: Annotated[
        int,
        typer.Option(
            "--priority",
            metavar="0-100",
            callback=within_priorities,
            help=PRIORITY_HELP,
        ),
    ] = 0,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            "--max-minutes",
            metavar="N",
            callback=within_minutes,
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
    label: LabelsOption = None,
    note: Annotated[str, typer.Option("--note", metavar="TEXT", help="One line for people.")] = "",
    watch_it: WatchOption = False,
    no_install: NoInstallOption = False,
) -> None:
    """Submit a training job. It runs on the mesh; this terminal may go away and `loupe job watch` it later.

    Ctrl-C ends the watching with exit code 130, and not the job: `loupe job cancel` does that.
    """
    if (asked := target or (target_accuracy and f"accuracy={target_accuracy}")) is None:
        raise typer.BadParameter(
            "expected 0.97, balanced_accuracy=0.95, lowest_recall=0.9 or recall[CLASS]=0.9", param_hint="--target"
        )
    objective = targets.parse_objective(asked)
    parameters, labels = parse_parameters(param or []), parse_labels(label or [])
    version = cli.name(names.DatasetVersionName, dataset)
    algorithm_version = str(cli.name(names.AlgorithmVersionName, algorithm)) if algorithm else ""
    async with cli.terminal() as loupe:
        job = await loupe.jobs.submit(
            str(version),
            target=objective,
            allow_small_validation=allow_small_validation,
            algorithm_version=algorithm_version,
            parameters=await with_files(cli, loupe, f"projects/{version.project}", algorithm_version, parameters),
            model=str(cli.name(names.ModelName, model)) if model else "",
            base_model=str(cli.name(names.ModelVersionName, base_model)) if base_model else "",
            seed=seed,
            priority=priority,
            max_minutes=max_minutes,
            max_epochs=max_epochs,
            labels=labels,
            note=note,
        )
        if watch_it:
            cli.note(f"submitted {job.name}")
            await watch(cli, loupe, job, 0, install=not no_install)
    cli.show(job, lambda: f"submitted {job.name}; follow it with `loupe job watch {job.name}`")


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
