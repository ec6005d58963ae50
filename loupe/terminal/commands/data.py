"""loupe project | dataset"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loupe.terminal.commands.frame import Cli, Ended, command, new_group, within
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.escapes import escaped
from loupe.terminal.progress import export_bar, push_bar
from loupe.terminal.tables import facts, line, short, size, table, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.storage.v1.dataset_pb2 import DatasetVersion, SplitPolicy
    from loupe.terminal.datasets import Problem, PushReport

SHOWN_ROWS = 20
VERSION_HELP = "Data set: screws, screws/versions/2, or a whole name."

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


@command(project_app, "list", "loupe project list")
async def project_list(cli: Cli) -> None:
    """List the projects that you are in."""
    async with cli.terminal() as loupe:
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


def parse_split(text: str | None, seed: int | None) -> SplitPolicy | None:
    """Read "0.6,0.2,0.2". Raises InvalidArgument."""
    from loupe.storage.v1.dataset_pb2 import SplitPolicy

    if text is None and seed is None:
        return None
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
    return SplitPolicy(train_fraction=train, validation_fraction=validation, test_fraction=test, seed=seed or 0)


@command(
    dataset_app,
    "push",
    "loupe dataset push screws pictures/ --project line-7",
    "loupe dataset push screws listing.csv --split 0.7,0.15,0.15 --seed 3",
)
async def dataset_push(
    cli: Cli,
    *,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="Id of the data set; made when it is not there.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with a folder per class, or a CSV file.")],
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
    strict: StrictOption = False,
    resplit: Annotated[bool, typer.Option("--resplit", help="Divide all pictures anew by --split and --seed.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where pictures leave test, are missing there or change their class.")
    ] = False,
) -> None:
    """Send labelled pictures and make a new version of the data set.

    SOURCE is a folder with a folder per class (in any script; pictures may lie deeper), or one with the folders train,
    validation and test that hold the classes, or a CSV file with the header path,label or path,label,split (separated
    by commas, semicolons or tabs).

    Pictures that the last version has keep their split, and what was ever in test stays there. --split and --seed then
    divide the new pictures only. `loupe dataset add` needs no full list.

    Only what the mesh lacks is sent; after a cut it goes on where it was. Pictures that cannot be read or taken are
    left out and listed, and the exit code is 6 then. How pictures of more than 8 bits were scaled is
    told, and that of several pages or frames the first was taken.
    """
    name, policy = cli.name(names.DatasetName, dataset), parse_split(split, seed)
    async with telling_refused(cli), cli.terminal() as loupe:
        with push_bar(cli.messages, cli.watched) as show:
            report = await loupe.datasets.push(
                name, source, split=policy, strict=strict, force=force, resplit=resplit, show=show
            )
    show_push(cli, report)
    if report.left_out:
        raise Ended(6)


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

    policy = version.split
    fractions = f"{policy.train_fraction:g}, {policy.validation_fraction:g}, {policy.test_fraction:g}"
    pairs = [
        ("version", version.name),
        ("base", _base(version)),
        ("pictures", f"{version.picture_count} ({size(version.byte_count)})"),
        ("split", "given with the pictures" if policy.given else f"{fractions}, seed {policy.seed}"),
        ("near duplicates", f"{version.near_duplicate_clusters} clusters kept on one side of the split"),
        ("created", f"{when(version.create_time)} by {version.creator}"),
        ("digest", version.digest),
    ]
    rows = [(one.label, one.train_count, one.validation_count, one.test_count) for one in version.labels]
    labels = table(("class", "train", "validation", "test"), rows, right=(1, 2, 3), middle=(0,))
    return Group(facts(pairs), labels)


def _base(version: DatasetVersion) -> str:
    counts = f"+{version.added_count} −{version.removed_count} ~{version.relabelled_count}"
    return f"{version.base} ({counts})" if version.base else ""


@command(dataset_app, "list", "loupe dataset list --project line-7")
async def dataset_list(cli: Cli) -> None:
    """List the project's data sets."""
    async with cli.terminal() as loupe:
        found = [one async for one in loupe.datasets.list(cli.project)]
    rows = [(short(one.name), short(one.latest_version), when(one.create_time)) for one in found]
    cli.show({"datasets": found}, lambda: table(("data set", "newest version", "created"), rows))


@command(dataset_app, "show", "loupe dataset show screws --project line-7")
async def dataset_show(cli: Cli, dataset: Annotated[str, typer.Argument(metavar="DATASET", help=VERSION_HELP)]) -> None:
    """Show a version of a data set: classes, counts, split."""
    async with cli.terminal() as loupe:
        found = await loupe.datasets.version(str(cli.name(names.DatasetVersionName, dataset)))
    cli.show(found, lambda: show_version(found))


@command(dataset_app, "export", "loupe dataset export screws/versions/2 exported/ --project line-7")
async def dataset_export(
    cli: Cli,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help=VERSION_HELP)],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="An empty folder, or the one of an export that was cut.")
    ],
) -> None:
    """Write a version into a folder per class, with a splits.csv that pushes the very same version again."""
    from loupe.terminal.export import LISTING, export_version

    name = cli.name(names.DatasetVersionName, dataset)
    async with cli.terminal() as loupe:
        with export_bar(cli.messages, cli.watched) as show:
            count = await export_version(loupe.datasets, name, folder, show)
    value = {"folder": folder, "listing": folder / LISTING, "pictures": count}
    cli.show(value, lambda: f"wrote {count} pictures and {folder / LISTING}")
