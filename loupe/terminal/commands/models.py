"""loupe model | classify"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands.frame import Cli, Ended, command, new_group
from loupe.terminal.commands.lazy import names
from loupe.terminal.progress import pull_bar
from loupe.terminal.tables import facts, short, size, table, when
from loupe.terminal.verdict import metric_rows, read_report, report_parts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.storage.v1.model_pb2 import ModelVersion
    from loupe.terminal.classifier import Prediction
    from loupe.terminal.pull import Pulled

MODEL_HELP = "Model: screws, screws/versions/2, or a whole name."
Below = Annotated[bool, typer.Option("--allow-below-target", help="Take a model that did not reach its target.")]

app = typer.Typer()
model_app = new_group(app, "model", "Models: what training made, with what it was made from.")


@command(model_app, "list", "loupe model list --project line-7")
async def model_list(cli: Cli) -> None:
    """List the project's models."""
    async with cli.terminal() as loupe:
        found = [one async for one in loupe.models.list(cli.project)]
    rows = [
        (short(one.name), short(one.latest_released_version), short(one.latest_version), when(one.create_time))
        for one in found
    ]
    cli.show({"models": found}, lambda: table(("model", "released", "newest", "created"), rows))


@command(model_app, "show", "loupe model show screws --project line-7")
async def model_show(cli: Cli, model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]) -> None:
    """Show a model version: figures, what it was made from, confusion matrix."""
    async with cli.terminal() as loupe:
        found = await loupe.models.version(str(cli.name(names.ModelVersionName, model)))
    cli.show(found, lambda: _version_view(found))


def _version_view(version: ModelVersion) -> RenderableType:
    from rich.console import Group

    made = version.lineage
    pairs = [
        ("model", version.name),
        ("released", "yes" if version.released else "no: it did not reach its target"),
        *metric_rows(version.metrics),
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
    return Group(facts(pairs), *report_parts(read_report(version.report_json), {}))


@command(model_app, "pull", "loupe model pull screws --project line-7", "loupe model pull screws/versions/2 --to m/")
async def model_pull(
    cli: Cli,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)],
    folder: Annotated[Path | None, typer.Option("--to", metavar="FOLDER", help="Else the user's data folder.")] = None,
    allow_below_target: Below = False,
) -> None:
    """Bring a model to this machine: every file checked, and installed only when it answers its golden pictures."""
    pulled = await _pull(cli, model, folder, allow_below_target)
    value = {"model": pulled.version.name, "folder": pulled.folder, "fresh": pulled.fresh}
    said = "pulled" if pulled.fresh else "already here:"
    cli.show(value, lambda: f"{said} {pulled.version.name} in {pulled.folder}")


async def _pull(cli: Cli, model: str, folder: Path | None, allow_below_target: bool) -> Pulled:

    name = str(cli.name(names.ModelVersionName, model))
    async with cli.terminal() as loupe:
        with pull_bar(cli.messages, cli.watched) as show:
            return await loupe.models.pull(name, folder, allow_below_target=allow_below_target, show=show)


@command(app, "classify", "loupe classify screws part.png --project line-7", "loupe classify models/screws/2 new/")
async def classify(
    cli: Cli,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a pulled model, or a name as for `model pull`.")
    ],
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURE...", help="Pictures, or folders of them.")],
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; else all.")] = None,
    allow_below_target: Below = False,
) -> None:
    """Say what each picture shows: path, label, confidence. The model is pulled when it is not here.

    A picture that cannot be read gets its problem told instead, the others go on, and the exit code is 6.
    """
    from loupe.terminal.classifier import Classifier

    folder = await _model_folder(cli, model, allow_below_target)
    paths = list(_expand(pictures))
    classifier = await asyncio.to_thread(Classifier, folder, threads)
    broken = 0
    for prediction in classifier.classify(paths):
        broken += bool(prediction.problem)
        _tell(cli, classifier.labels, prediction)
    if broken:
        cli.note(f"{broken} of {len(paths)} pictures could not be read")
        raise Ended(6)


async def _model_folder(cli: Cli, model: str, allow_below_target: bool) -> Path:
    from loupe.terminal.pull import default_folder

    if (Path(model) / "model.json").is_file():
        return Path(model)
    name = cli.name(names.ModelVersionName, model)
    known = default_folder(name)
    # A version never changes: what was pulled and checked once can be used without the mesh.
    if name.number != "latest" and (known / "model.json").is_file():
        return known
    return (await _pull(cli, str(name), None, allow_below_target)).folder


def _expand(pictures: Sequence[Path]) -> Iterator[Path]:
    """Yield pictures, and for a folder every picture below it, sorted."""
    from loupe.terminal.picture_source import SUFFIXES

    for path in pictures:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
        else:
            yield path


def _tell(cli: Cli, labels: Sequence[str], one: Prediction) -> None:
    if cli.as_json:
        value = {"path": one.path, "label": one.label, "confidence": one.confidence, "problem": one.problem}
        cli.emit(value | {"probabilities": dict(zip(labels, one.probabilities, strict=False))})
    elif one.problem:
        typer.echo(f"{one.path}\terror: {one.problem}")
    else:
        typer.echo(f"{one.path}\t{one.label}\t{one.confidence:.4f}")
