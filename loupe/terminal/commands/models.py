"""loupe model"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.tasks.classification import ACCURACY
from loupe.tasks.objective import spoken
from loupe.terminal.commands.deleted import DeletedOption, show_deleted
from loupe.terminal.commands.frame import Cli, command, new_group
from loupe.terminal.commands.lazy import names
from loupe.terminal.commands.matrix import CsvOption, MatrixOption, PngOption, write_matrix
from loupe.terminal.progress import pull_bar
from loupe.terminal.tables import GAP, facts, shortened, size, table, when, width_of
from loupe.terminal.targets import score_of, task_of, why_unreleased
from loupe.terminal.verdict import forecast_text, metric_rows, read_report, report_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from loupe.storage.v1.model_pb2 import Model, ModelMetrics, ModelVersion
    from loupe.tasks.task import Task
    from loupe.terminal.client import Terminal
    from loupe.terminal.pull import Pulled

MODEL_HELP = "Model: screws, screws/versions/2, or a whole name."
ASKED_AT_ONCE = 8
LEAST_OF_A_NAME = 14
Below = Annotated[bool, typer.Option("--allow-below-target", help="Take a model that was not released.")]

app = typer.Typer()
model_app = new_group(app, "model", "Models: what training made, with what it was made from.")


@command(model_app, "list", "loupe model list --project line-7", "loupe model list --deleted")
async def model_list(cli: Cli, deleted: DeletedOption = False) -> None:
    """List the project's models: the newest released version and the newest one, with figures.

    The figures are those of the released version, of the newest one where none is released: the accuracy on test
    pictures with its 95 % interval, the size of its files, and the day when it was made. With --deleted, what can be
    restored of models and of their versions is listed instead.
    """
    async with cli.terminal() as loupe:
        if deleted:
            return await show_deleted(cli, loupe.models.deleted(cli.project))
        found = [one async for one in loupe.models.list(cli.project)]
        versions = await _versions(loupe, found)
    value = [_list_value(one, version) for one, version in zip(found, versions, strict=True)]
    cli.show({"models": value}, lambda: _list_view(found, versions, cli.console.width))


def _list_view(models: Sequence[Model], versions: Sequence[ModelVersion | None], width: int) -> RenderableType:
    """Show a line per model in `width` columns: what is too long then is its name, and no figure is broken."""
    columns = ("model", "released", "newest", "on test (95 %)", "size", "made")
    rows = [_list_row(one, version) for one, version in zip(models, versions, strict=True)]
    others = sum(max(width_of(row[index]) for row in (columns, *rows)) for index in range(1, len(columns)))
    room = max(LEAST_OF_A_NAME, width - 1 - others - GAP * (len(columns) - 1))
    return table(columns, [(shortened(row[0], room), *row[1:]) for row in rows], right=(1, 2, 4), middle=(0,))


async def _versions(loupe: Terminal, models: Sequence[Model]) -> list[ModelVersion | None]:
    """Return the version of each model whose figures are shown."""
    free = asyncio.Semaphore(ASKED_AT_ONCE)

    async def one(model: Model) -> ModelVersion | None:
        async with free:
            return await loupe.models.newest(model)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(model)) for model in models]
    return [task.result() for task in tasks]


def _list_value(model: Model, version: ModelVersion | None) -> dict[str, Any]:
    """Return a model for programs: its own fields, and `version`, whose figures are shown, without its report."""
    from loupe.terminal.json_values import json_value

    shown = json_value(version) if version is not None else None
    if shown is not None:
        shown.pop("report_json", None)
        shown["size"] = _bytes(version)
    value: dict[str, Any] = json_value(model)
    return value | {"version": shown}


def _list_row(model: Model, version: ModelVersion | None) -> Sequence[str]:
    released, newest = (each.rpartition("/")[2] for each in (model.latest_released_version, model.latest_version))
    first = (model.name.rpartition("/")[2], released or "no", newest)
    if version is None:
        return (*first, "", "", when(model.create_time)[:10])
    return (*first, accuracy_cell(version.metrics), size(_bytes(version)), when(version.create_time)[:10])


def accuracy_cell(metrics: ModelMetrics) -> str:
    """Show the accuracy on test with its interval, rounded down; on validation where there was no test.

    >>> from loupe.storage.v1.model_pb2 import ModelMetrics
    >>> accuracy_cell(ModelMetrics(test_accuracy=0.9899, test_accuracy_low=0.95, test_accuracy_high=1, test_pictures=9))
    '98.9 % (95.0-100)'
    >>> accuracy_cell(ModelMetrics(validation_accuracy=0.97))
    '97.0 % (validation)'
    """
    task = task_of(metrics)
    if task is None or ACCURACY not in task.metrics:
        return _first_figure(metrics, task)
    if not metrics.test_pictures:
        return f"{_tenths(metrics.validation_accuracy)} % (validation)"
    low, high = _tenths(metrics.test_accuracy_low), _tenths(metrics.test_accuracy_high)
    return f"{_tenths(metrics.test_accuracy)} % ({low}-{high})"


def _first_figure(metrics: ModelMetrics, task: Task | None) -> str:
    """Show the first of the task's figures that is there; of a task that is not known here the score alone."""
    for split, figures in (("test", metrics.test), ("validation", metrics.validation)):
        for name in task.metrics if task else ():
            if name in figures:
                return f"{_tenths(figures[name])} % {spoken(name)}" + ("" if split == "test" else " (validation)")
    return f"{_tenths(score_of(metrics))} % (validation)"


def _tenths(share: float) -> str:
    """Show a share in per cent with one digit, rounded down: 100 is said of nothing less."""
    tenths = int(share * 1000 + 1e-9)
    return f"{tenths / 10:.1f}" if tenths < 1000 else "100"


def _bytes(version: ModelVersion | None) -> int:
    return sum(one.size for one in version.files) if version is not None else 0


@command(model_app, "show", "loupe model show screws --project line-7", "loupe model show screws --csv matrix.csv")
async def model_show(
    cli: Cli,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    matrix: MatrixOption = False,
    csv: CsvOption = None,
    png: PngOption = None,
) -> None:
    """Show a model version: figures, what it was made from, what it confuses."""
    async with cli.terminal() as loupe:
        found = await loupe.models.version(str(cli.name(names.ModelVersionName, model)))
    write_matrix(cli, found.name, found.report_json, csv, png)
    cli.show(found, lambda: _version_view(found, whole=matrix))


def _version_view(version: ModelVersion, *, whole: bool) -> RenderableType:
    from rich.console import Group

    made, report = version.lineage, read_report(version.report_json)
    pairs = [
        ("model", version.name),
        ("released", "yes" if version.released else f"no: it {why_unreleased(version.metrics)}"),
        *metric_rows(version.metrics),
        ("would need", forecast_text(report, version.metrics)),
        ("classes", ", ".join(version.labels)),
        ("files", ", ".join(f"{one.filename} ({size(one.size)})" for one in version.files)),
        ("job", f"{made.job}, attempt {made.attempt} on {made.trainer}" if made.job else ""),
        ("data set", made.dataset_version),
        ("algorithm", made.algorithm_version),
        ("parameters", made.parameters_json),
        ("seed", made.seed),
        ("code", made.code_version),
        ("created", when(version.create_time)),
    ]
    return Group(facts(pairs), *report_parts(report, {}, whole=whole))


@command(model_app, "pull", "loupe model pull screws --project line-7", "loupe model pull screws/versions/2 --to m/")
async def model_pull(
    cli: Cli,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    folder: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="Else the user's data folder.")] = None,
    allow_below_target: Below = False,
) -> None:
    """Bring a model to this machine: every file checked, and installed only when it answers its golden pictures."""
    pulled = await pull(cli, model, folder, allow_below_target)
    said = "pulled" if pulled.fresh else "already here:"
    cli.show(pulled_value(pulled), lambda: f"{said} {pulled.version.name} in {pulled.folder}")


async def pull(cli: Cli, model: str, folder: Path | None, allow_below_target: bool) -> Pulled:
    """Bring a model to this machine with a bar that shows how far it is."""
    name = cli.name(names.ModelVersionName, model)
    async with cli.terminal() as loupe:
        with pull_bar(cli.messages, cli.watched) as show:
            return await loupe.models.pull(
                str(name), folder, allow_below_target=allow_below_target, named=name.number != "latest", show=show
            )


def pulled_value(pulled: Pulled) -> dict[str, Any]:
    """Return for programs which version stands where, and whether it was brought now."""
    return {"model": pulled.version.name, "folder": pulled.folder, "fresh": pulled.fresh}
