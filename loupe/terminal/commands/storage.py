"""loupe storage, and the quotas of projects"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands.data import project_app
from loupe.terminal.commands.frame import Cli, command, new_group
from loupe.terminal.commands.lazy import errors, names
from loupe.terminal.tables import percent, short, size, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType

    from loupe.storage.v1.project_pb2 import ProjectQuota, ProjectUsage

NONE = "none"
MOST = 2**63 - 1
BAR_COLUMNS = 10
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AMOUNT = re.compile(r"(\d{1,20}(?:\.\d{1,12})?) ?([a-z]*)", re.ASCII | re.IGNORECASE)

app = typer.Typer()
storage_app = new_group(app, "storage", "Storage: what a project holds.")


@command(storage_app, "usage", "loupe storage usage --project line-7")
async def storage_usage(cli: Cli) -> None:
    """Show what the project holds, how much it may hold, and what waits to be collected.

    Deleted versions count until they are purged, and pictures that no version names any more until they are removed.
    What removed pictures take in their packs until these are compacted counts no more.
    """
    async with cli.terminal() as loupe:
        found = await loupe.projects.usage(cli.project)
    cli.show(found, lambda: usage_view(found))


@command(
    project_app,
    "quota",
    "loupe project quota line-7 --pictures 50000 --bytes 20GB",
    "loupe project quota line-7 --bytes none",
)
async def project_quota(
    cli: Cli,
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="Id of the project.")],
    pictures: Annotated[
        str | None, typer.Option("--pictures", metavar="N", help="Most pictures; none for no limit.")
    ] = None,
    bytes_: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="Most bytes, such as 20GB; none for no limit.")
    ] = None,
) -> None:
    """Limit what a project may hold; for administrators of the mesh. What it holds already stays.

    An option that is left out leaves that limit as it is. Bytes are those of pictures and all other blobs together;
    kB, MB, GB and TB are powers of 1000.
    """
    if pictures is None and bytes_ is None:
        raise errors.invalid("quota", "", "--pictures N, --bytes SIZE or both")
    name = str(cli.name(names.ProjectName, project))
    count = None if pictures is None else parse_amount("pictures", pictures, {"": 1})
    total = None if bytes_ is None else parse_amount("bytes", bytes_, _UNITS)
    async with cli.terminal() as loupe:
        quota = await loupe.projects.set_quota(name, max_pictures=count, max_bytes=total)
    cli.show(quota, lambda: f"{name} may hold {_quota_text(quota)}")


def parse_amount(option: str, text: str, units: dict[str, int]) -> int:
    """Read a limit: a whole number of at least 1 in one of the units, or "none", which is 0. Raises InvalidArgument.

    >>> parse_amount("bytes", "1.5GB", _UNITS), parse_amount("pictures", "none", {"": 1})
    (1500000000, 0)
    """
    if text.lower() == NONE:
        return 0
    match = _AMOUNT.fullmatch(text)
    amount = Fraction(match[1]) * units.get(match[2].lower(), 0) if match else Fraction(0)
    if amount.denominator != 1 or not 1 <= amount <= MOST:
        sizes = ", such as 500MB or 20GB" if len(units) > 1 else ""
        raise errors.invalid(option, text, f"a whole number from 1 to {MOST}{sizes}, or {NONE} for no limit")
    return int(amount)


def usage_view(usage: ProjectUsage) -> RenderableType:
    """Show what a project holds, each line with its quota where there is one, and how full it is."""
    quota, pictures = usage.quota, usage.pictures
    total = pictures.byte_count + usage.blobs.byte_count
    rows = [
        ("pictures", pictures.count, size(pictures.byte_count), *_filled(pictures.count, quota.max_pictures, str)),
        ("other blobs", usage.blobs.count, size(usage.blobs.byte_count), "", ""),
        ("  of checkpoints", usage.checkpoints.count, size(usage.checkpoints.byte_count), "", ""),
        ("  of models", usage.model_files.count, size(usage.model_files.byte_count), "", ""),
        ("all bytes", "", size(total), *_filled(total, quota.max_bytes, size)),
        ("data set versions", usage.dataset_versions, "", "", ""),
        ("  of them deleted", usage.deleted_dataset_versions, "", "", ""),
        ("model versions", usage.model_versions, "", "", ""),
        ("  of them deleted", usage.deleted_model_versions, "", "", ""),
        ("unnamed pictures", usage.unnamed_pictures.count, size(usage.unnamed_pictures.byte_count), "", ""),
        ("removed, not compacted", "", size(usage.dead_bytes), "", ""),
    ]
    return table((short(usage.project), "number", "size", "quota", "used"), rows, right=(1, 2, 3))


def bar(share: float) -> str:
    """Draw a share of 0 to 1; more than all is drawn as all.

    >>> bar(0.42), bar(1.2)
    ('####......', '##########')
    """
    filled = min(BAR_COLUMNS, int(share * BAR_COLUMNS))
    return "#" * filled + "." * (BAR_COLUMNS - filled)


def _filled(used: int, limit: int, shown: Callable[[int], str]) -> tuple[str, str]:
    share = used / limit if limit else 0.0
    return (shown(limit), f"{bar(share)} {percent(share)}") if limit else ("", "")


def _quota_text(quota: ProjectQuota) -> str:
    pictures = f"{quota.max_pictures} pictures" if quota.max_pictures else "any number of pictures"
    return f"{pictures} and {size(quota.max_bytes) if quota.max_bytes else 'any number of bytes'}"
