"""loupe project | dataset | model | algorithm delete | undelete"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands.algorithms import algorithm_app
from loupe.terminal.commands.data import dataset_app, project_app
from loupe.terminal.commands.frame import Cli, command
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.commands.models import model_app
from loupe.terminal.tables import short, when

if TYPE_CHECKING:
    from loupe.storage.v1.dataset_pb2 import Dataset
    from loupe.storage.v1.model_pb2 import Model
    from loupe.terminal.commands.deleted import Deleted

app = typer.Typer()
"""Nothing but what is added to the groups of projects, data sets, models and algorithms."""

VERSIONS = "/versions/"
ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the project.")]
AlgorithmArgument = Annotated[
    str, typer.Argument(metavar="ALGORITHM", help="A version of it: my-algorithm/versions/1.2.")
]
DatasetArgument = Annotated[
    str, typer.Argument(metavar="DATASET", help="Data set, or one version: screws, screws/versions/2.")
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model, or one version: screws, screws/versions/2.")
]


@command(
    dataset_app,
    "delete",
    "loupe dataset delete screws/versions/2 --project line-7",
    "loupe dataset delete screws --project line-7",
)
async def dataset_delete(cli: Cli, dataset: DatasetArgument) -> None:
    """Delete a version, or a data set with all its versions; `undelete` restores it for 30 days.

    How many days is a setting of the mesh. After that the pictures that no other version has are removed, and the room
    that they take is given back. What a model was trained on stays for as long as the model does.
    """
    async with cli.terminal() as loupe:
        if VERSIONS in dataset:
            gone = await loupe.datasets.delete_version(str(cli.name(names.DatasetVersionName, dataset)))
            cli.show(gone, lambda: _deleted(gone.dataset_version, _latest(gone.dataset)))
        else:
            whole = await loupe.datasets.delete(str(cli.name(names.DatasetName, dataset)))
            cli.show(whole, lambda: _deleted(whole.dataset, _count(whole.version_count)))


@command(
    dataset_app,
    "undelete",
    "loupe dataset undelete screws/versions/2 --project line-7",
    "loupe dataset undelete screws --project line-7",
)
async def dataset_undelete(cli: Cli, dataset: DatasetArgument) -> None:
    """Restore a deleted version, or a data set and the versions that were deleted with it."""
    async with cli.terminal() as loupe:
        if VERSIONS in dataset:
            back = await loupe.datasets.undelete_version(str(cli.name(names.DatasetVersionName, dataset)))
            cli.show(back, lambda: f"restored {back.dataset_version.name}; {_latest(back.dataset)}")
        else:
            whole = await loupe.datasets.undelete(str(cli.name(names.DatasetName, dataset)))
            cli.show(whole, lambda: f"restored {whole.dataset.name}, {_count(whole.version_count)}")


@command(
    model_app,
    "delete",
    "loupe model delete screws/versions/2 --project line-7",
    "loupe model delete screws --project line-7",
)
async def model_delete(cli: Cli, model: ModelArgument) -> None:
    """Delete a version, or a model with all its versions; `undelete` restores it for 30 days.

    How many days is a setting of the mesh. After that its files are removed. Copies on terminals stay where they are.
    """
    async with cli.terminal() as loupe:
        if VERSIONS in model:
            gone = await loupe.models.delete_version(str(cli.name(names.ModelVersionName, model)))
            cli.show(gone, lambda: _deleted(gone.model_version, _latest_released(gone.model)))
        else:
            whole = await loupe.models.delete(str(cli.name(names.ModelName, model)))
            cli.show(whole, lambda: _deleted(whole.model, _count(whole.version_count)))


@command(
    model_app,
    "undelete",
    "loupe model undelete screws/versions/2 --project line-7",
    "loupe model undelete screws --project line-7",
)
async def model_undelete(cli: Cli, model: ModelArgument) -> None:
    """Restore a deleted version, or a model and the versions that were deleted with it."""
    async with cli.terminal() as loupe:
        if VERSIONS in model:
            back = await loupe.models.undelete_version(str(cli.name(names.ModelVersionName, model)))
            cli.show(back, lambda: f"restored {back.model_version.name}; {_latest_released(back.model)}")
        else:
            whole = await loupe.models.undelete(str(cli.name(names.ModelName, model)))
            cli.show(whole, lambda: f"restored {whole.model.name}, {_count(whole.version_count)}")


@command(project_app, "delete", "loupe project delete line-7")
async def project_delete(cli: Cli, project: ProjectArgument) -> None:
    """Delete a project with all that is in it; `undelete` restores it for 30 days.

    How many days is a setting of the mesh. Meanwhile nobody finds anything in it, and jobs that are not over fail.
    After that all that it holds is removed, and its id is not given again.
    """
    async with cli.terminal() as loupe:
        gone = await loupe.projects.delete(str(cli.name(names.ProjectName, project)))
    cli.show(gone, lambda: _deleted(gone, "with all that is in it"))


@command(project_app, "undelete", "loupe project undelete line-7")
async def project_undelete(cli: Cli, project: ProjectArgument) -> None:
    """Restore a deleted project, with all that was in it."""
    async with cli.terminal() as loupe:
        back = await loupe.projects.undelete(str(cli.name(names.ProjectName, project)))
    cli.show(back, lambda: f"restored {back.name}, with all that was in it")


@command(algorithm_app, "delete", "loupe algorithm delete my-algorithm/versions/1.2")
async def algorithm_delete(cli: Cli, algorithm: AlgorithmArgument) -> None:
    """Delete a version of an algorithm that does not ship with Loupe; `undelete` restores it for 30 days.

    How many days is a setting of the mesh. No new job gets it; its image stays for as long as a model was made with it.
    """
    async with cli.terminal() as loupe:
        gone = await loupe.algorithms.delete(_algorithm_version(cli, algorithm))
    cli.show(gone, lambda: _deleted(gone, "which no new job gets"))


@command(algorithm_app, "undelete", "loupe algorithm undelete my-algorithm/versions/1.2")
async def algorithm_undelete(cli: Cli, algorithm: AlgorithmArgument) -> None:
    """Restore a deleted version of an algorithm."""
    async with cli.terminal() as loupe:
        back = await loupe.algorithms.undelete(_algorithm_version(cli, algorithm))
    cli.show(back, lambda: f"restored {back.name}")


def _algorithm_version(cli: Cli, algorithm: str) -> str:
    """Return a version's name; without a number it would be the newest one, which is easily another than is meant."""
    if VERSIONS not in algorithm:
        raise errors.invalid("ALGORITHM", algorithm, f"one of its versions, such as {algorithm}{VERSIONS}1.2")
    return str(cli.name(names.AlgorithmVersionName, algorithm))


def _deleted(one: Deleted, more: str) -> str:
    return f"deleted {one.name}, {more}; it can be restored until {when(one.expire_time)}"


def _count(versions: int) -> str:
    return f"with {versions} version{'' if versions == 1 else 's'}"


def _latest(dataset: Dataset) -> str:
    return f"the newest version is now {short(dataset.latest_version) or 'none'}"


def _latest_released(model: Model) -> str:
    return f"the newest released version is now {short(model.latest_released_version) or 'none'}"
