"""`--deleted` of lists: what can be restored."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands.frame import Cli
from loupe.terminal.tables import short, table, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.auth.v1.account_pb2 import Account
    from loupe.scheduler.v1.training_job_pb2 import TrainingJob
    from loupe.storage.v1.algorithm_pb2 import AlgorithmVersion
    from loupe.storage.v1.dataset_pb2 import Dataset, DatasetVersion
    from loupe.storage.v1.model_pb2 import Model, ModelVersion
    from loupe.storage.v1.project_pb2 import Project

    Deleted = Account | Project | Dataset | DatasetVersion | TrainingJob | Model | ModelVersion | AlgorithmVersion

DeletedOption = Annotated[bool, typer.Option("--deleted", help="What is deleted and can be restored.")]


async def show_deleted(cli: Cli, deleted: AsyncIterator[Deleted]) -> None:
    """Show what is deleted and can be restored."""
    found = [one async for one in deleted]
    cli.show({"deleted": found}, lambda: _deleted_table(found))


def _deleted_table(found: Sequence[Deleted]) -> RenderableType:
    rows = [(short(one.name), when(one.delete_time), when(one.expire_time)) for one in found]
    return table(("deleted", "when", "can be restored until"), rows)
