"""Run an algorithm image on this machine: `python -m loupe.algorithm run IMAGE --data PICTURES --target 0.97`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from loupe.algorithm.host import Outcome, Progress, Result
from loupe.algorithm.image import BadImage, digest, pack
from loupe.algorithm.local import BadFolder, LocalHost, local_spec, read_folder
from loupe.algorithm.local_regions import read_coco
from loupe.algorithm.manifest import BadManifest, InvalidParameter, read_manifest, resolve_parameters
from loupe.algorithm.process import restart_for_training
from loupe.algorithm.rules import TaskRules, rules_of
from loupe.errors import InvalidArgument
from loupe.job_kinds import JobKind
from loupe.tasks import TASKS
from loupe.tasks.targets import parse_objective

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Try out algorithm images without a mesh.")

TARGET_MISSED = 3


@app.command()
def check(image: Annotated[Path, typer.Argument(help="folder with algorithm.toml")]) -> None:
    """Check an image folder and print its name, version and digest."""
    try:
        manifest = read_manifest(image)
        print(f"{manifest.name} {manifest.version} sha256:{digest(pack(image))}")
    except (BadManifest, BadImage) as error:
        raise typer.BadParameter(str(error)) from error


@app.command()
def run(
    image: Annotated[Path, typer.Argument(help="folder with algorithm.toml")],
    data: Annotated[
        Path,
        typer.Option(
            help="folder per class, or a folder with splits.csv (path,label,split); for detection one with "
            "annotations.json, a COCO file"
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="when training is done: 0.97 of the validation pictures are right, or balanced_accuracy=0.95, or "
            "lowest_recall=0.9",
        ),
    ],
    *,
    param: Annotated[list[str] | None, typer.Option(help="name=value, as often as needed")] = None,
    weights: Annotated[list[str] | None, typer.Option(help="name=file.safetensors for a file parameter")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 1,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    seconds: Annotated[float | None, typer.Option(help="budget in seconds")] = None,
    epochs: Annotated[int | None, typer.Option(help="budget in epochs")] = None,
    cache: Annotated[Path | None, typer.Option(help="keep decoded pictures here from run to run")] = None,
    out: Annotated[Path | None, typer.Option(help="put the model package and report.json here")] = None,
) -> None:
    """Train on a folder of pictures. Exits with 3 when the target was not reached."""
    restart_for_training("loupe.algorithm", threads)
    console = Console()
    try:
        manifest = read_manifest(image)
        if JobKind.TRAIN not in manifest.kinds:
            raise typer.BadParameter(f"{manifest.name} trains nothing; it answers on a mesh, in `loupe evaluate`")
        task = TASKS[manifest.task]
        objective = parse_objective(target, task)
        files = {name: Path(value) for name, value in map(_pair, weights or [])}
        given = dict(map(_pair, param or [])) | {name: str(path) for name, path in files.items()}
        parameters = resolve_parameters(manifest, given)
        folder = read_coco(data) if task.regions else read_folder(data)
    except (BadFolder, BadManifest, InvalidArgument, InvalidParameter) as error:
        raise typer.BadParameter(str(error)) from error
    spec = local_spec(
        folder,
        parameters,
        objective,
        seed=seed,
        threads=threads,
        device=device,
        max_seconds=seconds,
        max_epochs=epochs,
        weights=files,
    )
    from loupe.algorithm.context import run_image

    columns = (TextColumn("{task.description:10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="loupe-") as scratch,
        Bars(*columns, TextColumn("{task.fields[numbers]}"), console=console) as bars,
    ):
        host = LocalHost(
            folder,
            spec,
            work=Path(scratch) / "run",
            cache=cache or Path(scratch) / "cache",
            show=_Screen(bars),
            say=console.print,
        )
        run_image(image, host)
        result = host.result
        if result is None:
            console.print(f"{manifest.name} ended without finishing; it must call context.finish")
            raise typer.Exit(1)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for name, path in {**result.artifacts, "report.json": host.work / "report.json"}.items():
                shutil.copyfile(path, out / name)
    _print_result(console, result, rules_of(task))
    raise typer.Exit(0 if result.outcome is Outcome.TARGET_REACHED else TARGET_MISSED)


class _Screen:
    """Shows each phase as a bar and each message as a line."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.phase not in self._tasks:
            self._tasks[progress.phase] = self._bars.add_task(progress.phase, total=None, numbers="")
        numbers = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in progress.metrics.items())
        self._bars.update(
            self._tasks[progress.phase],
            completed=progress.step,
            total=progress.total_steps or None,
            numbers=numbers,
        )
        if progress.message:
            self._bars.console.print(f"{progress.phase}: {progress.message}", highlight=False, markup=False)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r}: expected name=value")
    return name, value


def _print_result(console: Console, result: Result, rules: TaskRules) -> None:
    report = result.report
    console.print(f"outcome: [bold]{result.outcome}[/bold]")
    for name in ("validation", "test"):
        if metrics := report.get(name):
            console.print(f"{name}: {rules.summary(metrics)}", highlight=False)
    if errors := report.get("label_errors"):
        table = Table("picture", "label", "looks like", "score", title=f"{len(errors)} labels to look at")
        for row in errors[:10]:
            table.add_row(row["digest"][:12], row["label"], row["suggested"], f"{row['score']:.3f}")
        console.print(table)


if __name__ == "__main__":
    app()
