"""Tables and figures as a person reads them on a terminal: ids are never broken, long names lose their middle.

Every text is escaped here (`loupe.terminal.escapes`): rows, titles and lines may come from anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from loupe.terminal.escapes import LONGEST_LINE, LONGEST_TEXT, escaped, escaped_lines

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

    from loupe.scheduler.v1.cluster_pb2 import Placement

UNITS = ("B", "kB", "MB", "GB")
LAST_SECOND = 253_370_764_800
"""The first second of the year 9999."""
UNLIMITED = 10_000
"""A width that everything fits in."""
HANGING = "  "
GAP = 3
"""The columns between those of a table."""
LEAST = (48, 32, 24, 18, 14)
"""The columns that are left of a name when it is shortened in the middle: as many as there is room for."""


def width_of(text: str) -> int:
    """Return the columns that a text takes on a terminal; Chinese letters take two."""
    from rich.cells import cell_len

    return cell_len(text)


def shortened(text: str, width: int) -> str:
    """Return a text that takes at most `width` columns, with its middle replaced: names differ at their ends.

    >>> shortened("part-2024-11-05-camera-3.png", 16)
    'part-202…a-3.png'
    """
    if width_of(text) <= width:
        return text
    room = max(0, width - 1)
    return _fitting(text, room - room // 2) + "…" + _fitting(text[::-1], room // 2)[::-1]


def _fitting(text: str, width: int) -> str:
    """Return the beginning of a text that takes at most `width` columns."""
    for end, each in enumerate(text):
        width -= width_of(each)
        if width < 0:
            return text[:end]
    return text


def wrapped(text: str, width: int, hanging: str = "") -> list[str]:
    """Break a text between its words into lines of `width` columns; a longer word has a line of its own, whole.

    hanging: what stands before the lines that go on.

    >>> wrapped("see projects/line-7 now", 10, "  ")
    ['see', '  projects/line-7', '  now']
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        indent = paragraph[: len(paragraph) - len(paragraph.lstrip(" "))]
        first, *words = paragraph[len(indent) :].split(" ")
        current = indent + first
        for word in words:
            joined = f"{current} {word}" if current else word
            if current.strip() and width_of(joined.rstrip()) > width:
                lines.append(current.rstrip())
                joined = hanging + word
            current = joined
        lines.append(current.rstrip())
    return lines


def line(text: object, style: str = "") -> RenderableType:
    """Make a sentence that is wrapped between its words; an id in it is never broken, and its lines stay lines."""
    return _Line(escaped_lines(text), style)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str = "",
    right: Iterable[int] = (),
    middle: Iterable[int] = (),
) -> RenderableType:
    """Make a plain table below its title; `right` are the columns whose figures stand at the right.

    Text is wrapped between words, and no word is ever broken, so that ids and digests can be copied. `middle` are the
    columns of names that people give, of files and classes: where it is narrow, these are shortened in the middle. A
    table that does not fit even so is shown as a block of lines for each row.
    """
    return _Table(columns, [[_cell(cell) for cell in row] for row in rows], title, frozenset(right), frozenset(middle))


def facts(pairs: Iterable[tuple[str, Any]]) -> RenderableType:
    """Show names and values below each other, without the empty ones."""
    return _Facts([(escaped(name), _cell(value, LONGEST_TEXT)) for name, value in pairs if value not in ("", None)])


def _cell(value: Any, longest: int = LONGEST_LINE) -> Text:
    """Make a text of a cell, each of its lines escaped; a Text keeps its style."""
    from rich.text import Text

    # Text, not str: what others typed must not be read as markup.
    style = value.style if isinstance(value, Text) else ""
    return Text(escaped_lines(value.plain if isinstance(value, Text) else value, longest), style=style)


class _Line:
    """A sentence that wraps itself in the width that it gets."""

    def __init__(self, text: str, style: str) -> None:
        self._text = text
        self._style = style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        # What goes on is indented: it must not look like a line that begins.
        for one in wrapped(self._text, options.max_width, HANGING):
            yield Text(one, style=self._style, no_wrap=True, overflow="ignore")


class _Table:
    """A table that lays itself out in the width that it gets."""

    def __init__(
        self, columns: Sequence[str], rows: list[list[Text]], title: str, right: frozenset[int], middle: frozenset[int]
    ) -> None:
        self._columns = columns
        self._rows = rows
        self._title = title
        self._right = right
        self._middle = middle

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        if self._title:
            yield line(f"\n{self._title}", "bold")
        widths = self._widths(options.max_width - 1 - GAP * (len(self._columns) - 1))
        if widths is None:
            yield from self._blocks()
            return
        # The line above the header stands where the table's own upper edge would.
        yield Text()
        yield self._line([Text(column, style="bold") for column in self._columns], widths)
        rule = "-" if options.ascii_only else "─"
        yield Text(" " + rule * (sum(widths) + GAP * (len(widths) - 1)))
        for row in self._rows:
            cells = [self._wrapped(index, cell, widths[index]) for index, cell in enumerate(row)]
            for number in range(max(map(len, cells), default=0)):
                yield self._line([cell[number] if number < len(cell) else Text() for cell in cells], widths)
        yield Text()

    def _widths(self, room: int) -> list[int] | None:
        """Return the width of each column; None when not even the words fit beside each other."""
        wanted = [max(self._longest(index, "\n"), width_of(column)) for index, column in enumerate(self._columns)]
        for least in LEAST:
            widths = [self._least(index, wanted[index], least) for index in range(len(wanted))]
            if sum(widths) <= room:
                break
        else:
            return None
        for _ in range(room - sum(widths)):
            needs = [want - width for want, width in zip(wanted, widths, strict=True)]
            if max(needs, default=0) <= 0:
                break
            widths[needs.index(max(needs))] += 1
        return widths

    def _least(self, index: int, wanted: int, least: int) -> int:
        longest = min(least, wanted) if index in self._middle else self._longest(index, None)
        return max(longest, width_of(self._columns[index]))

    def _longest(self, index: int, separator: str | None) -> int:
        """Return the width of the longest part of a column's cells: of a line, or a word."""
        cells = [row[index].plain for row in self._rows if index < len(row)]
        return max((width_of(part) for cell in cells for part in cell.split(separator)), default=1)

    def _wrapped(self, index: int, cell: Text, width: int) -> Sequence[Text]:
        from rich.text import Text

        if index in self._middle:
            return [Text(shortened(one, width), style=cell.style) for one in cell.plain.split("\n")]
        return [Text(one, style=cell.style) for one in wrapped(cell.plain, width)]

    def _line(self, cells: Sequence[Text], widths: Sequence[int]) -> Text:
        from rich.text import Text

        made = Text(" ", no_wrap=True, overflow="ignore")
        for index, (cell, width) in enumerate(zip(cells, widths, strict=False)):
            space = " " * (width - width_of(cell.plain))
            before, behind = (space, "") if index in self._right else ("", space)
            made.append(before).append(cell).append(behind)
            if index < len(widths) - 1:
                made.append(" " * GAP)
        made.rstrip()
        return made

    def _blocks(self) -> Iterable[RenderableType]:
        """Show each row as a block of names and values."""
        from rich.text import Text

        for row in self._rows:
            yield Text()
            yield _Facts([(name, cell) for name, cell in zip(self._columns, row, strict=False) if cell.plain])
        yield Text()


class _Facts:
    """Names and values; a value is wrapped between words, and one that is a single long word stays whole."""

    def __init__(self, pairs: Sequence[tuple[str, Text]]) -> None:
        self._pairs = pairs

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        first = max((width_of(name) for name, _ in self._pairs), default=0) + 2
        for name, value in self._pairs:
            for number, one in enumerate(wrapped(value.plain, max(20, options.max_width - first))):
                label = "" if number else name
                made = Text(no_wrap=True, overflow="ignore")
                yield made.append(label, style="dim").append(" " * (first - width_of(label))).append(one, value.style)


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
    """Show a time in this machine's zone; empty for no time, or one that no calendar has."""
    seconds = seconds_of(stamp)
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds is not None else ""


def seconds_of(stamp: Timestamp) -> float | None:
    """Return a time as seconds since 1970; None for no time, or one that no calendar has."""
    return stamp.seconds + stamp.nanos / 1e9 if 0 < stamp.seconds < LAST_SECOND else None


def placement_table(placement: Placement) -> RenderableType:
    """Show the clusters, best first, each with why it was taken or passed over."""
    from rich.text import Text

    rows = []
    for one in placement.considered:
        verdict = "taken" if one.chosen else ("candidate" if one.candidate else "passed over")
        style = "bold green" if one.chosen else ("" if one.candidate else "dim")
        explanation = one.explanation.removeprefix(f"{verdict}: ")  # it is said once
        cells = (short(one.cluster), percent(one.load), str(one.free_slots), verdict, explanation)
        rows.append([Text(cell, style=style) for cell in cells])
    title = f"clusters (candidates are below a load of {percent(placement.load_threshold)})"
    return table(("cluster", "load", "free slots", "", "why"), rows, title=title, right=(1, 2))
