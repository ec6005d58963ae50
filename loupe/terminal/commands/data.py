"""loupe project | dataset"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.terminal.commands.deleted import DeletedOption, show_deleted
from loupe.terminal.commands.frame import Cli, Ended, command, new_group, one_of, within
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.escapes import escaped
from loupe.terminal.progress import export_bar, push_bar
from loupe.terminal.tables import facts, line, short, size, table, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.storage.v1.dataset_pb2 import DatasetVersion, LabelCount, SplitPolicy
    from loupe.terminal.datasets import Problem, PushReport
    from loupe.terminal.picture_source import Collection

SHOWN_ROWS = 20
VERSION_HELP = "Data set: screws, screws/versions/2, or a whole name."

SOURCE_HELP = "Folder with a folder per class, a CSV file, or what --format names."
FORMATS = ("folders", "csv", "coco", "voc", "yolo", "datumaro")

FormatOption = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        callback=one_of("auto", *FORMATS),
        help=f"auto, {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Look at every picture first; list all that cannot be taken, and send none.")
]

app = typer.Typer()
project_app = new_group(
    app, "project", "Projects: each holds data sets, jobs and models, and no right crosses its border."
)
dataset_app = new_group(app, "dataset", "Data sets: labelled pictures, in versions that never change.")


@command(project_app, "create", "loupe project create line-7")
async def project_create(
    cli: Cli,
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the new project.")],
    display_name: Annotated[str, typer.Option("--display-name", help="For people.")] = "",
) -> None:
    """Create a project with the groups owners, engineers, operators and viewers; you become an owner."""
    name = cli.name(names.ProjectName, project)
    async with cli.terminal() as loupe:
        made = await loupe.projects.create(name.project, display_name)
    cli.show(made, lambda: f"created {made.name}")


@command(project_app, "list", "loupe project list", "loupe project list --deleted")
async def project_list(cli: Cli, deleted: DeletedOption = False) -> None:
    """List the projects that you are in; with --deleted, those that you can restore."""
    async with cli.terminal() as loupe:
        if deleted:
            return await show_deleted(cli, loupe.projects.deleted())
        found = [one async for one in loupe.projects.list()]
    rows = [(short(one.name), one.display_name, when(one.create_time)) for one in found]
    cli.show({"projects": found}, lambda: table(("project", "name", "created"), rows))


@command(project_app, "show", "loupe project show line-7")
async def project_show(
    cli: Cli, project: Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the project.")]
) -> None:
    """Show a project."""
    async with cli.terminal() as loupe:
        found = await loupe.projects.get(str(cli.name(names.ProjectName, project)))
    pairs = [("project", found.name), ("name", found.display_name), ("created", when(found.create_time))]
    cli.show(found, lambda: facts(pairs))


@command(project_app, "use", "loupe project use line-7")
async def project_use(
    cli: Cli, project: Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the project.")]
) -> None:
    """Remember a project, so that --project can be left out."""
    name = cli.name(names.ProjectName, project)
    async with cli.terminal() as loupe:
        await loupe.projects.get(str(name))
    async with cli.store.lock():
        cli.store.save(replace(cli.store.load(), project=name.project))
    cli.show({"project": str(name)}, lambda: f"short ids are looked up in {name} from now on")


def parse_split(text: str | None, seed: int | None, unit: str | None = None) -> SplitPolicy | None:
    """Read "0.6,0.2,0.2"; unit: "picture" or "class". Raises InvalidArgument."""
    from loupe.storage.v1.dataset_pb2 import SPLIT_UNIT_CLASS, SPLIT_UNIT_PICTURE, SplitPolicy

    if text is None and seed is None and unit is None:
        return None
    units = {"picture": SPLIT_UNIT_PICTURE, "class": SPLIT_UNIT_CLASS}
    try:
        # All 0 are the data set's own fractions.
        fractions = [float(part) for part in text.split(",")] if text is not None else [0.0, 0.0, 0.0]
    except ValueError:
        fractions = []
    right = len(fractions) == 3 and all(0 <= part <= 1 for part in fractions) and abs(sum(fractions) - 1) <= 1e-6
    if text is not None and not right:
        raise errors.invalid(
            "split", text, "three fractions that add up to 1: train,validation,test, as in 0.6,0.2,0.2"
        )
    train, validation, test = fractions
    return SplitPolicy(
        train_fraction=train,
        validation_fraction=validation,
        test_fraction=test,
        seed=seed or 0,
        unit=units[unit] if unit is not None else None,
    )


@command(
    dataset_app,
    "push",
    "loupe dataset push screws pictures/ --project line-7",
    "loupe dataset push screws listing.csv --split 0.7,0.15,0.15 --seed 3",
    "loupe dataset push screws exported-by-another-tool/ --format coco",
    "loupe dataset push letters alphabets/ --split-by class",
)
async def dataset_push(
    cli: Cli,
    *,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of the data set; made when it is not there.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help=SOURCE_HELP)],
    format: FormatOption = "auto",
    split: Annotated[
        str | None, typer.Option("--split", metavar="TRAIN,VAL,TEST", help="Fractions; default 0.6,0.2,0.2.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            callback=within(-1 << 63, (1 << 63) - 1),
            help="Another seed makes another split; default 0.",
        ),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(
            "--split-by",
            metavar="UNIT",
            callback=one_of("picture", "class"),
            help="class puts whole classes into one split, for few-shot learning; default picture.",
        ),
    ] = None,
    strict: StrictOption = False,
    resplit: Annotated[bool, typer.Option("--resplit", help="Divide all pictures anew by --split and --seed.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where pictures leave test, are missing there or change their class.")
    ] = False,
) -> None:
    """Send labelled pictures and make a new version of the data set.

    SOURCE is a folder with a folder per class (in any script; pictures may lie deeper), or one with the folders train,
    validation and test that hold the classes, or a CSV file with the header path,label or path,label,split (separated
    by commas, semicolons or tabs). It may also be annotated: a CSV file with boxes, or a folder in the format COCO,
    Pascal VOC, YOLO or Datumaro, which is found out by what is in it.

    Pictures that the last version has keep their split, and what was ever in test stays there. --split and --seed then
    divide the new pictures only. `loupe dataset add` needs no full list.

    With --split-by class no class is in two splits, and --split says how many of the classes go to each. A class that
    was ever in test stays there, with all that is added to it; new pictures that are nearly the same as one on the
    other side of test are left out and listed.

    Only what the mesh lacks is sent; after a cut it goes on where it was. Pictures that cannot be read or taken are
    left out and listed, and the exit code is 6 then. How pictures of more than 8 bits were scaled is
    told, and that of several pages or frames the first was taken.
    """
    name, policy = cli.name(names.DatasetName, dataset), parse_split(split, seed, split_by)
    async with telling_refused(cli), cli.terminal() as loupe:
        collection = await read_told(cli, source, format)
        with push_bar(cli.messages, cli.watched) as show:
            report = await loupe.datasets.push(
                name, collection, split=policy, strict=strict, force=force, resplit=resplit, show=show
            )
    show_push(cli, report)
    if report.left_out:
        raise Ended(6)


async def read_told(cli: Cli, source: Path, format: str) -> Collection:
    """Read a source, and tell a person in which format and why. Raises InvalidArgument, BadDataset."""
    from loupe.terminal.formats.sources import AUTO, TITLES, read_source

    found = await asyncio.to_thread(read_source, source, format)
    if format == AUTO:
        cli.note(f"{source} is read as {TITLES[found.format]}: {found.explanation}")
    return found


@asynccontextmanager
async def telling_refused(cli: Cli) -> AsyncIterator[None]:
    """Show every picture that a strict push refuses, before its error is told."""
    from loupe.terminal.datasets import PicturesRefused

    try:
        yield
    except PicturesRefused as refused:
        problems = refused.problems
        cli.show({"problems": [vars(one) for one in problems]}, lambda: _problem_table(problems, len(problems)))
        raise


def show_push(cli: Cli, report: PushReport) -> None:
    """Show what a push came to."""
    cli.show(_push_value(report), lambda: _push_view(report))


def _push_value(report: PushReport) -> dict[str, Any]:
    return {
        "version": report.version,
        "format": {"name": report.format, "explanation": report.explanation},
        "sent": {"pictures": report.uploaded.pictures, "bytes": report.uploaded.bytes, "cuts": report.uploaded.cuts},
        "left_out": report.left_out,
        "problems": [vars(one) for one in report.problems],
        "duplicates": [vars(one) for one in report.duplicates],
        "skipped": [vars(one) for one in report.skipped],
        "warnings": report.warnings,
    }


def _push_view(report: PushReport) -> RenderableType:
    from rich.console import Group

    sent = f"sent {report.uploaded.pictures} pictures, {size(report.uploaded.bytes)}; the rest was there already"
    parts: list[RenderableType] = [line(sent)]
    if report.problems:
        parts.append(_problem_table(report.problems, SHOWN_ROWS))
    for title, files in (("duplicates", report.duplicates), ("skipped", report.skipped)):
        if files:
            reasons = [(one.filename, one.reason) for one in files[:SHOWN_ROWS]]
            parts.append(table(("file", "why"), reasons, title=_of(title, files, SHOWN_ROWS), middle=(0,)))
    parts += [line(f"note: {escaped(warning)}", "yellow") for warning in report.warnings]
    return Group(*parts, show_version(report.version))


def _problem_table(problems: Sequence[Problem], most: int) -> RenderableType:
    rows = [(one.filename, one.message, one.remedy) for one in problems[:most]]
    columns = ("file", "problem", "what would be right")
    return table(columns, rows, title=_of("left out", problems, most), middle=(0,))


def _of(title: str, rows: Sequence[Any], most: int) -> str:
    return f"{title}: {len(rows)}" + (f" (the first {most}; all with --json)" if len(rows) > most else "")


def show_version(version: DatasetVersion) -> RenderableType:
    """Show a version: its facts, and how many pictures of each class are in which split."""
    from rich.console import Group

    from loupe.storage.v1.dataset_pb2 import SPLIT_UNIT_CLASS

    policy = version.split
    fractions = f"{policy.train_fraction:g}, {policy.validation_fraction:g}, {policy.test_fraction:g}"
    unit = "by class, " if policy.unit == SPLIT_UNIT_CLASS else ""
    pairs = [
        ("version", version.name),
        ("base", _base(version)),
        ("pictures", f"{version.picture_count} ({size(version.byte_count)})"),
        ("boxes and polygons", region_count(version) or ""),
        ("nothing there", version.nothing_there_count or ""),
        ("unlabelled", version.unlabelled_count or ""),
        ("split", "given with the pictures" if policy.given else f"{unit}{fractions}, seed {policy.seed}"),
        ("near duplicates", f"{version.near_duplicate_clusters} clusters kept on one side of the split"),
        ("created", f"{when(version.create_time)} by {version.creator}"),
        ("digest", version.digest),
    ]
    return Group(facts(pairs), _label_table(version))


def _label_table(version: DatasetVersion) -> RenderableType:
    """Show of each class the pictures in each split, and the regions, as far as the version has such."""
    columns = ["class"]
    rows: list[list[object]] = [[one.label] for one in version.labels]
    pictures = [[one.train_count, one.validation_count, one.test_count] for one in version.labels]
    regions = [[one.train_regions, one.validation_regions, one.test_regions] for one in version.labels]
    for first, counts in (("train", pictures), ("boxes: train", regions)):
        if any(map(any, counts)):
            columns += [first, "validation", "test"]
            rows = [[*row, *more] for row, more in zip(rows, counts, strict=True)]
    return table(columns, rows, right=range(1, len(columns)), middle=(0,))


def _regions(one: LabelCount) -> int:
    return one.train_regions + one.validation_regions + one.test_regions


def region_count(version: DatasetVersion) -> int:
    """Return how many boxes and polygons a version has."""
    return sum(map(_regions, version.labels))


def _base(version: DatasetVersion) -> str:
    return f"{version.base} ({changes(version)})" if version.base else ""


def changes(version: DatasetVersion) -> str:
    """Return what a version has otherwise than its base, in short."""
    counts = f"+{version.added_count} −{version.removed_count} ~{version.relabelled_count}"
    return f"{counts} ▭{version.annotated_count}" if version.annotated_count else counts


@command(dataset_app, "list", "loupe dataset list --project line-7", "loupe dataset list --deleted")
async def dataset_list(cli: Cli, deleted: DeletedOption = False) -> None:
    """List the project's data sets, with the pictures, boxes and polygons of the newest version.

    With --deleted: what can be restored of them and of their versions.
    """
    async with cli.terminal() as loupe:
        if deleted:
            return await show_deleted(cli, loupe.datasets.deleted(cli.project))
        found = [one async for one in loupe.datasets.list(cli.project)]
        newest = {
            one.latest_version: await loupe.datasets.version(one.latest_version) for one in found if one.latest_version
        }
    rows = [(short(one.name), *_newest(newest.get(one.latest_version)), when(one.create_time)) for one in found]
    columns = ("data set", "newest version", "pictures", "boxes", "created")
    value = {"datasets": found, "newest_versions": list(newest.values())}
    cli.show(value, lambda: table(columns, rows, right=(2, 3)))


def _newest(version: DatasetVersion | None) -> tuple[Any, ...]:
    if version is None:
        return ("", "", "")
    return (short(version.name), version.picture_count, region_count(version) or "")


@command(dataset_app, "show", "loupe dataset show screws --project line-7")
async def dataset_show(cli: Cli, dataset: Annotated[str, typer.Argument(metavar="DATASET", help=VERSION_HELP)]) -> None:
    """Show a version of a data set: classes, counts, split."""
    async with cli.terminal() as loupe:
        found = await loupe.datasets.version(str(cli.name(names.DatasetVersionName, dataset)))
    cli.show(found, lambda: show_version(found))


@command(
    dataset_app,
    "export",
    "loupe dataset export screws/versions/2 exported/ --project line-7",
    "loupe dataset export screws exported/ --format yolo",
)
async def dataset_export(
    cli: Cli,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=VERSION_HELP)],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="An empty folder, or the one of an export that was cut.")
    ],
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", callback=one_of(*FORMATS), help=f"One of {', '.join(FORMATS)}.")
    ] = "folders",
) -> None:
    """Write a version into a folder per class, with a splits.csv that pushes the very same version again.

    With --format it is written as another tool reads it. What the format cannot say is told with a count.
    """
    from loupe.terminal.export import export_version

    name = cli.name(names.DatasetVersionName, dataset)
    async with cli.terminal() as loupe:
        with export_bar(cli.messages, cli.watched) as show:
            made = await export_version(loupe.datasets, name, folder, show, format)
    for warning in made.warnings:
        cli.note(f"note: {warning}")
    value = {"folder": folder, "listing": made.listing, "pictures": made.pictures, "warnings": made.warnings}
    cli.show(value, lambda: f"wrote {made.pictures} pictures and {made.listing}")


@command(dataset_app, "sheet", "loupe dataset sheet screws look.png --class scratch --split test")
async def dataset_sheet(
    cli: Cli,
    *,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=VERSION_HELP)],
    file: Annotated[Path, typer.Argument(metavar="FILE.png", help="Where it is written.")],
    label: Annotated[str | None, typer.Option("--class", metavar="CLASS", help="Only pictures that show it.")] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", metavar="SPLIT", callback=one_of("train", "validation", "test"), help="Only of a split."
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", metavar="N", callback=within(1, 500), help="How many at most; default 48.")
    ] = 48,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", callback=within(0, (1 << 63) - 1), help="Another one draws others.")
    ] = 0,
) -> None:
    """Draw some pictures of a version side by side, with their classes, boxes and polygons: look before training."""
    from loupe.terminal.sheet import draw_sheet

    name = cli.name(names.DatasetVersionName, dataset)
    async with cli.terminal() as loupe:
        shown, of = await draw_sheet(loupe.datasets, name, file, label=label, split=split, count=count, seed=seed)
    cli.show({"file": file, "pictures": shown, "of": of}, lambda: f"drew {shown} of {of} pictures in {file}")
