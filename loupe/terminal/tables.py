"""Tables and figures as a person reads them on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import RenderableType
    from rich.table import Table

    from loupe.scheduler.v1.cluster_pb2 import Placement

UNITS = ("B", "kB", "MB", "GB")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", right: Iterable[int] = ()
) -> RenderableType:
    """Make a plain table below its title; `right` are the columns whose figures stand at the right."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    rightward = set(right)
    for index, column in enumerate(columns):
        made.add_column(column, justify="right" if index in rightward else "left", overflow="fold")
    for row in rows:
        # Text, not str: what others typed must not be read as markup.
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    # A title of the table's own would be folded to its width.
    return Group(Text(f"\n{title}", style="bold"), made) if title else made


def facts(pairs: Iterable[tuple[str, Any]]) -> Table:
    """Make a table of names and values, without the empty ones."""
    from rich.table import Table
    from rich.text import Text

    made = Table.grid(padding=(0, 2))
    for name, value in pairs:
        if value not in ("", None):
            made.add_row(Text(name, style="dim"), Text(str(value)))
    return made


def short(name: str) -> str:
    """Return a resource's last id, for a version with what it is a version of.

    >>> short("projects/line-7/jobs/j1"), short("projects/line-7/datasets/screws/versions/2")
    ('j1', 'screws/versions/2')
    """
    parts = name.split("/")
    if len(parts) >= 4 and parts[-2] == "versions":
        return f"{parts[-3]}/versions/{parts[-1]}"
    return parts[-1]


def percent(value: float) -> str:
    """Show a fraction as per cent with two digits.

    >>> percent(0.9751)
    '97.51 %'
    """
    return f"{100 * value:.2f} %"


def size(count: int) -> str:
    """Show a number of bytes for people, in powers of 1000.

    >>> size(999), size(1_730_000)
    ('999 B', '1.7 MB')
    """
    amount, unit = float(count), 0
    while amount >= 1000 and unit < len(UNITS) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{amount:.{min(unit, 1)}f} {UNITS[unit]}"


def when(stamp: Timestamp) -> str:
    """Show a time in this machine's zone; empty for no time."""
    from loupe.timestamps import datetime_of

    if not stamp.seconds:
        return ""
    return datetime_of(stamp).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def placement_table(placement: Placement) -> RenderableType:
    """Show the clusters, best first, each with why it was taken or passed over."""
    from rich.text import Text

    rows = []
    for one in placement.considered:
        verdict = "taken" if one.chosen else ("candidate" if one.candidate else "passed over")
        style = "bold green" if one.chosen else ("" if one.candidate else "dim")
        cells = (short(one.cluster), percent(one.load), str(one.free_slots), verdict, one.explanation)
        rows.append([Text(cell, style=style) for cell in cells])
    title = f"clusters (candidates are below a load of {percent(placement.load_threshold)})"
    return table(("cluster", "load", "free slots", "", "why"), rows, title=title, right=(1, 2))
