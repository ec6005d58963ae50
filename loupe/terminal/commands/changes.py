"""loupe dataset add | remove | relabel | annotate | diff | log"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.terminal.commands.data import (
    SHOWN_ROWS,
    SOURCE_HELP,
    VERSION_HELP,
    FormatOption,
    StrictOption,
    changes,
    dataset_app,
    read_told,
    region_count,
    show_push,
    show_version,
    telling_refused,
)
from loupe.terminal.commands.frame import Cli, Ended, command, within
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.escapes import escaped
from loupe.terminal.progress import push_bar
from loupe.terminal.tables import line, short, table, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.names import DatasetVersionName
    from loupe.storage.v1.dataset_pb2 import DatasetVersion
    from loupe.storage.v1.dataset_service_pb2 import CreateDatasetVersionResponse, DatasetDifference
    from loupe.terminal.datasets import VersionDiff

app = typer.Typer()
"""Nothing but what is added to the group `dataset`."""

BASE_HELP = "Data set, or the version to start from: screws, screws/versions/2."
PICTURES_HELP = "Digest (8 digits or more), name of the file in the version, or a file here."
ForceOption = Annotated[
    bool, typer.Option("--force", help="Also where that changes which pictures models are judged by.")
]


@command(dataset_app, "add", "loupe dataset add screws new-pictures/ --project line-7")
async def dataset_add(
    cli: Cli,
    *,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=BASE_HELP)],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    format: FormatOption = "auto",
    strict: StrictOption = False,
    force: ForceOption = False,
) -> None:
    """Make a new version of the newest one and more pictures.

    What stays is not sent again, and keeps its split. New pictures that are nearly the same as one in test go to test.
    A picture that is there in another class is left out and listed, with exit code 6: relabel it.
    """
    base = cli.name(names.DatasetVersionName, dataset)
    name = names.DatasetName(base.project, base.dataset)
    async with telling_refused(cli), cli.terminal() as loupe:
        collection = await read_told(cli, source, format)
        with push_bar(cli.messages, cli.watched) as show:
            report = await loupe.datasets.add(name, collection, base=base.number, strict=strict, force=force, show=show)
    show_push(cli, report)
    if report.left_out:
        raise Ended(6)


@command(
    dataset_app,
    "remove",
    "loupe dataset remove screws scratch/007.png --project line-7",
    "loupe dataset remove screws 3f7a9c01 --force",
)
async def dataset_remove(
    cli: Cli,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=BASE_HELP)],
    pictures: Annotated[list[str], typer.Argument(metavar="FILE-OR-DIGEST...", help=PICTURES_HELP)],
    force: ForceOption = False,
) -> None:
    """Make a new version of the newest one without some pictures; earlier versions keep them."""
    from loupe.terminal.named_pictures import find_pictures

    base = cli.name(names.DatasetVersionName, dataset)
    async with cli.terminal() as loupe:
        digests = await find_pictures(loupe.datasets, base, pictures)
        made = await loupe.datasets.change(base, removed=digests, force=force)
    _show_changed(cli, made)


@command(dataset_app, "relabel", "loupe dataset relabel screws scratch ok/007.png 3f7a9c01 --project line-7")
async def dataset_relabel(
    cli: Cli,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=BASE_HELP)],
    label: Annotated[str, typer.Argument(metavar="LABEL", help="The right class; a new one is made by this.")],
    pictures: Annotated[list[str], typer.Argument(metavar="FILE-OR-DIGEST...", help=PICTURES_HELP)],
    force: ForceOption = False,
) -> None:
    """Make a new version of the newest one in which some pictures are of another class.

    None changes its split, unless whole classes are split: then a picture moves to that of its class.
    """
    from loupe.terminal.named_pictures import find_pictures

    base = cli.name(names.DatasetVersionName, dataset)
    async with cli.terminal() as loupe:
        digests = await find_pictures(loupe.datasets, base, pictures)
        made = await loupe.datasets.change(base, relabelled=dict.fromkeys(digests, label), force=force)
    _show_changed(cli, made)


@command(
    dataset_app,
    "annotate",
    "loupe dataset annotate screws corrected/ --format coco --project line-7",
    "loupe dataset annotate screws --nothing-there ok/007.png --clear 3f7a9c01",
    "loupe dataset annotate screws --from-job j7 --min-confidence 0.8",
)
async def dataset_annotate(
    cli: Cli,
    *,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=BASE_HELP)],
    source: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="Annotations, with their pictures beside them or without.")
    ] = None,
    format: FormatOption = "auto",
    nothing_there: Annotated[
        list[str] | None, typer.Option("--nothing-there", metavar="PICTURE", help="Nothing is to be seen in this one.")
    ] = None,
    clear: Annotated[
        list[str] | None, typer.Option("--clear", metavar="PICTURE", help="Forget what this one is annotated with.")
    ] = None,
    from_job: Annotated[
        str | None, typer.Option("--from-job", metavar="JOB", help="Take over what `loupe predict` found in this job.")
    ] = None,
    min_confidence: Annotated[
        float,
        typer.Option("--min-confidence", metavar="N", callback=within(0, 1), help="Only what is so sure; else all."),
    ] = 0.0,
    force: ForceOption = False,
) -> None:
    """Make a new version of the newest one in which pictures have other boxes and polygons; none changes its split.

    What PATH says of a picture takes the place of all that it is annotated with; pictures that it does not name stay as
    they are. They are known by their digests, where the files lie beside the annotations, else by their names. PICTURE
    is a digest (8 digits or more), the name of the file in the version, or a file here.

    With --from-job the answers of a model are taken over, for pictures only that nobody has labelled. Boxes name the
    model and its confidence, and stand there as not verified; the class of a whole picture does not say where it is
    from.
    """
    from loupe.terminal.annotating import find_annotations

    base = cli.name(names.DatasetVersionName, dataset)
    if from_job is not None:
        if source is not None or nothing_there or clear:
            raise typer.BadParameter("it goes with no other annotations", param_hint="--from-job")
        await _take_over(cli, base, str(cli.name(names.JobName, from_job)), min_confidence, force=force)
        return
    async with cli.terminal() as loupe:
        found = await find_annotations(
            loupe.datasets, base, source, format, nothing_there=nothing_there or (), clear=clear or ()
        )
        for warning in found.warnings:
            cli.note(f"note: {warning}")
        made = await loupe.datasets.change(base, annotated=found.annotated, force=force)
    _show_changed(cli, made, found.warnings)


async def _take_over(cli: Cli, base: DatasetVersionName, job_name: str, min_confidence: float, *, force: bool) -> None:
    """Make a version with what a job's model said of pictures that nobody has labelled."""
    from loupe.terminal.predictions import fetch_predictions, parse_predictions, take_over

    async with cli.terminal() as loupe:
        job = await loupe.jobs.get(job_name)
        predicted = parse_predictions(job, await fetch_predictions(loupe.datasets, job))
        base = names.DatasetVersionName.parse((await loupe.datasets.version(str(base))).name)
        items = [item async for item in loupe.datasets.items(str(base))]
        found = take_over(predicted, items, min_confidence)
        taken = len(found.relabelled) + len(found.annotated)
        cli.note(
            f"{taken} pictures are taken over; {found.labelled} are labelled already, {found.unsure} have no answer "
            f"that is sure enough, {found.missing} are not in {base}"
        )
        if not taken:
            raise errors.FailedPrecondition(
                f"{job_name} says nothing of {base} that could be taken over", resource=job_name
            )
        made = await loupe.datasets.change(base, relabelled=found.relabelled, annotated=found.annotated, force=force)
    _show_changed(cli, made)


def _show_changed(cli: Cli, made: CreateDatasetVersionResponse, found: Sequence[str] = ()) -> None:
    version = made.dataset_version
    value = {"version": version, "warnings": [*found, *made.warnings]}
    cli.show(value, lambda: _changed_view(version, list(made.warnings)))


def _changed_view(version: DatasetVersion, warnings: list[str]) -> RenderableType:
    from rich.console import Group

    notes = [line(f"note: {escaped(warning)}", "yellow") for warning in warnings]
    return Group(*notes, show_version(version))


@command(dataset_app, "diff", "loupe dataset diff screws/versions/1 screws/versions/2 --project line-7")
async def dataset_diff(
    cli: Cli,
    base: Annotated[str, typer.Argument(metavar="A", help=VERSION_HELP)],
    version: Annotated[str, typer.Argument(metavar="B", help="What is compared with A.")],
) -> None:
    """Show what B has otherwise than A: pictures added, removed, of another class or split, annotated otherwise."""
    old, new = cli.name(names.DatasetVersionName, base), cli.name(names.DatasetVersionName, version)
    async with cli.terminal() as loupe:
        found = await loupe.datasets.diff(str(old), str(new), 0 if cli.as_json else SHOWN_ROWS)
    cli.show({"summary": found.summary, "differences": found.differences}, lambda: _diff_view(found))


def _diff_view(found: VersionDiff) -> RenderableType:
    from rich.console import Group

    from loupe.storage.v1 import dataset_service_pb2 as service

    summary = found.summary
    kinds = (
        ("added", service.DATASET_DIFFERENCE_KIND_ADDED, summary.added_count),
        ("removed", service.DATASET_DIFFERENCE_KIND_REMOVED, summary.removed_count),
        ("relabelled", service.DATASET_DIFFERENCE_KIND_RELABELLED, summary.relabelled_count),
        ("moved between splits", service.DATASET_DIFFERENCE_KIND_MOVED, summary.moved_count),
        ("annotated otherwise", service.DATASET_DIFFERENCE_KIND_ANNOTATED, summary.annotated_count),
    )
    counts = ", ".join(f"{count} {title}" for title, _, count in kinds)
    parts = [line(f"{summary.base} → {summary.name}: {counts}")]
    for title, kind, count in kinds:
        rows = [_difference(one) for one in found.differences if one.kind == kind]
        if rows:
            more = f" (the first {len(rows)}; all with --json)" if count > len(rows) else ""
            columns = ("file", "digest", "class", "split")
            parts.append(table(columns, rows, title=f"{title}: {count}{more}", middle=(0, 2)))
    return Group(*parts)


def _difference(one: DatasetDifference) -> tuple[str, str, str, str]:
    from loupe.terminal.picture_source import SPLIT_WORDS

    old, new = SPLIT_WORDS.get(one.base_split, ""), SPLIT_WORDS.get(one.split, "")
    return (one.filename, one.digest[:12], _arrow(one.base_label, one.label), _arrow(old, new))


def _arrow(old: str, new: str) -> str:
    return f"{old} → {new}" if old and new and old != new else new or old


@command(dataset_app, "log", "loupe dataset log screws --project line-7")
async def dataset_log(
    cli: Cli, dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of the data set.")]
) -> None:
    """List a data set's versions, newest first: when and by whom, of which base, and what changed."""
    name = cli.name(names.DatasetName, dataset)
    async with cli.terminal() as loupe:
        found = [one async for one in loupe.datasets.versions(str(name))]
    columns = ("version", "created", "by", "base", "changes", "pictures", "boxes")
    cli.show({"versions": found}, lambda: table(columns, [_log_row(one) for one in found], right=(5, 6)))


def _log_row(one: DatasetVersion) -> tuple[Any, ...]:
    changed = changes(one) if one.base else "full list"
    number, base = one.name.rpartition("/")[2], one.base.rpartition("/")[2]
    counts = one.picture_count, region_count(one) or ""
    return (number, when(one.create_time), short(one.creator), base, changed, *counts)
