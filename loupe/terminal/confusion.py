"""What a model takes for what: the worst pairs of classes, the confusion matrix as a table, as CSV and as a picture.

A matrix is counts[true][said], square, in the order of the labels. Labels may be anything; they are escaped here.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from loupe.terminal.escapes import escaped
from loupe.terminal.tables import UNLIMITED, line, shortened, table, width_of

if TYPE_CHECKING:
    from PIL import Image, ImageFont
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

MOST_CLASSES = 1_000
"""The classes of a matrix that is read from a report."""
SHOWN_PAIRS = 10
LONGEST_SPLIT = 20
LABEL_COLUMNS = range(10, 21)
"""The columns that a class's name has in the matrix of a terminal: these at least, and these at most."""

Matrix = Sequence[Sequence[int]]


class Pair(NamedTuple):
    """A mistake that the model makes: `pictures` of the `of` of class `true` are said to be `predicted`."""

    true: str
    predicted: str
    pictures: int
    of: int


@dataclass(frozen=True)
class Confusion:
    """A matrix with its labels, and the split whose pictures were counted: "test" or "validation"."""

    labels: Sequence[str]
    matrix: Matrix
    split: str = "test"


def figures_of(report: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the figures of a report that say most of the model, and what their pictures are called.

    They are what an evaluation measured, else those of test pictures, else those of validation pictures.
    """
    if "evaluation" in report:
        return report["evaluation"], str(report.get("pictures", ""))[:LONGEST_SPLIT]
    split = "test" if report.get("test") else "validation"
    return report.get(split), split


def confusion_of(report: Mapping[str, Any]) -> Confusion | None:
    """Return the matrix of a report; None where it has none, or one that is not square or not of counts."""
    figures, split = figures_of(report)
    labels = report.get("labels")
    matrix = figures.get("confusion_matrix") if isinstance(figures, dict) else None
    if not isinstance(matrix, list) or not isinstance(labels, list) or not 0 < len(matrix) <= MOST_CLASSES:
        return None
    if len(labels) != len(matrix) or not all(isinstance(label, str) for label in labels):
        return None
    if not all(isinstance(row, list) and len(row) == len(matrix) and all(map(_is_count, row)) for row in matrix):
        return None
    return Confusion(labels, matrix, split)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def worst_pairs(matrix: Matrix, labels: Sequence[str]) -> list[Pair]:
    """Return what the model confuses, the most pictures first, then the greater share of the class.

    >>> for pair in worst_pairs([[8, 2, 0], [0, 5, 0], [1, 2, 1]], ["ok", "dent", "scratch"]):
    ...     print(*pair)
    scratch dent 2 4
    ok dent 2 10
    scratch ok 1 4
    """
    totals = [sum(row) for row in matrix]
    found = [
        Pair(labels[true], labels[said], count, totals[true])
        for true, row in enumerate(matrix)
        for said, count in enumerate(row)
        if count and true != said
    ]
    return sorted(found, key=lambda pair: (-pair.pictures, pair.of))


def matrix_csv(matrix: Matrix, labels: Sequence[str]) -> str:
    r"""Return the whole matrix as CSV: a header with what was said, then a row per true class.

    A label that a spreadsheet would take for a formula gets an apostrophe before it.

    >>> matrix_csv([[8, 2], [0, 5]], ["ok", "=dent"])
    "true \\ said,ok,'=dent\nok,8,2\n'=dent,0,5\n"
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    names = [_cell(label) for label in labels]
    rows.writerow(["true \\ said", *names])
    rows.writerows([name, *row] for name, row in zip(names, matrix, strict=True))
    return text.getvalue()


def _cell(label: str) -> str:
    shown = escaped(label)
    return f"'{shown}" if shown.startswith(("=", "+", "-", "@")) else shown


def pairs_table(matrix: Matrix, labels: Sequence[str], split: str = "test", most: int = SHOWN_PAIRS) -> RenderableType:
    """Show the worst pairs, `most` of them, or say that nothing was confused."""
    from rich.text import Text

    pairs = worst_pairs(matrix, labels)
    right, total = sum(row[index] for index, row in enumerate(matrix)), sum(map(sum, matrix))
    title = f"confused most often, of {total} {split} pictures ({right} right, {total - right} wrong)"
    if not pairs:
        return Text(f"\nnone of {total} {split} pictures is confused", style="green")
    if len(pairs) > most:
        title += f"; the first {most} of {len(pairs)} pairs"
    rows = [(one.true, one.predicted, one.pictures, one.of, f"{one.pictures / one.of:.0%}") for one in pairs[:most]]
    columns = ("true class", "said to be", "pictures", "of", "share")
    return table(columns, rows, title=title, right=(2, 3, 4), middle=(0, 1))


def needed_width(matrix: Matrix, labels: Sequence[str]) -> int:
    """Return the columns of a terminal that the whole matrix needs in one piece."""
    return _label_width(labels, LABEL_COLUMNS[0]) + sum(_cell_widths(matrix))


def render(matrix: Matrix, labels: Sequence[str], width: int = UNLIMITED, split: str = "test") -> RenderableType:
    """Show the worst pairs, then the whole matrix where `width` columns hold it, else how to see it.

    Rows are the true classes, columns what the model said, by the classes' numbers. No class is ever left out.
    """
    from rich.console import Group

    parts: list[RenderableType] = [pairs_table(matrix, labels, split)]
    if needed_width(matrix, labels) <= width:
        parts.append(whole_matrix(matrix, labels, width, split))
    else:
        count, needed = len(labels), needed_width(matrix, labels)
        more = f"the matrix of {count} classes is {needed} columns wide: --matrix shows it in parts, --csv FILE and"
        parts.append(line(f"\n{more} --png FILE write it", "dim"))
    return Group(*parts)


class ConfusionView:
    """Shows a confusion as `render` does, in the width that there is; whole: the matrix at any width, in parts."""

    def __init__(self, confusion: Confusion, *, whole: bool = False) -> None:
        self._confusion = confusion
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        one = self._confusion
        if self._whole:
            yield pairs_table(one.matrix, one.labels, one.split)
            yield whole_matrix(one.matrix, one.labels, options.max_width, one.split)
        else:
            yield render(one.matrix, one.labels, options.max_width, one.split)


def whole_matrix(matrix: Matrix, labels: Sequence[str], width: int, split: str = "test") -> RenderableType:
    """Show every cell, in as many blocks of columns as `width` asks for; a number is never broken."""
    from rich.console import Group
    from rich.text import Text

    title = f"\n{split} pictures: the true class (rows) and what the model said (columns, by number)"
    made = Text(no_wrap=True, overflow="ignore")
    widths = _cell_widths(matrix)
    first = _label_width(labels, min(LABEL_COLUMNS[-1], max(LABEL_COLUMNS[0], width - sum(widths) - 1)))
    names = [_numbered(index, label, first - 1) for index, label in enumerate(labels)]
    for block in _blocks(widths, width - first):
        made.append("\n" + " " * first)
        for said in block:
            made.append(f"{said + 1:>{widths[said]}}", style="bold")
        for true, row in enumerate(matrix):
            made.append("\n" + names[true] + " " * (first - width_of(names[true])))
            total = max(1, sum(row))
            for said in block:
                digits = str(row[said]) if row[said] else "·"
                made.append(" " * (widths[said] - len(digits)))
                made.append(digits, style=_style(row[said], total, good=true == said))
        made.append("\n")
    return Group(line(title, "bold"), made)


def _numbered(index: int, label: str, width: int) -> str:
    return shortened(f"{index + 1} {escaped(label)}", width)


def _label_width(labels: Sequence[str], most: int) -> int:
    """Return the width of the names' column, with the space after it."""
    return 1 + max(width_of(_numbered(index, label, most)) for index, label in enumerate(labels))


def _cell_widths(matrix: Matrix) -> list[int]:
    """Return the width of each column, with the space before it."""
    return [1 + max(len(str(said + 1)), *(len(str(row[said])) for row in matrix)) for said in range(len(matrix))]


def _blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """Deal the columns out so that each block fits; a column that is too wide alone is a block all the same."""
    blocks: list[list[int]] = [[]]
    left = width
    for index, one in enumerate(widths):
        if blocks[-1] and one > left:
            blocks.append([])
            left = width
        blocks[-1].append(index)
        left -= one
    return blocks


def _style(count: int, total: int, *, good: bool) -> str:
    if not count:
        return "dim"
    red, green, blue = colour(count / total, good=good)
    return f"white on rgb({red},{green},{blue})"


def colour(share: float, *, good: bool) -> tuple[int, int, int]:
    """Return the colour of a cell: green for what is right, red for mistakes, which show from small shares on."""
    strength = share if good else min(1.0, 3 * share)
    lit = int(40 + 130 * strength)
    return (40, lit, 40) if good else (lit, 40, 40)


def write_png(matrix: Matrix, labels: Sequence[str], path: Path, split: str = "test") -> None:
    """Draw the whole matrix into a PNG file. Raises OSError."""
    drawn = picture(matrix, labels, split)
    data = io.BytesIO()
    drawn.save(data, "PNG")
    path.write_bytes(data.getvalue())


FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")
TEXT = 14
PIXELS_OF_NAMES = 220
INK, PAPER, FAINT = (20, 20, 20), (255, 255, 255), (225, 225, 225)


def picture(matrix: Matrix, labels: Sequence[str], split: str = "test") -> Image.Image:
    """Draw every cell with its count, the classes' numbers and names at the left and, turned, on top; for 2 to 100."""
    from PIL import Image, ImageDraw

    font, small = font_of(labels, TEXT), font_of(labels, TEXT - 2)
    names = [_drawable(index, label, font) for index, label in enumerate(labels)]
    cell = max(26, 8 + max(int(small.getlength(str(count))) for row in matrix for count in row))
    margin = 16 + max(int(font.getlength(name)) for name in names)
    top = margin + 30
    title = f"{split} pictures: true class (rows), what the model said (columns)"
    width = max(margin + cell * len(labels) + 12, int(font.getlength(title)) + 24)
    drawn = Image.new("RGB", (width, top + cell * len(labels) + 12), PAPER)
    pen = ImageDraw.Draw(drawn)
    pen.text((12, 16), title, INK, font, anchor="lm")
    for index, name in enumerate(names):
        pen.text((margin - 6, top + cell * index + cell // 2), name, INK, font, anchor="rm")
        turned = Image.new("L", (margin, TEXT + 6), 0)
        ImageDraw.Draw(turned).text((2, (TEXT + 6) // 2), name, 255, font, anchor="lm")
        turned = turned.rotate(90, expand=True)
        where = (margin + cell * index + (cell - turned.width) // 2, top - 4 - turned.height)
        drawn.paste(INK, (*where, where[0] + turned.width, where[1] + turned.height), turned)
    for true, row in enumerate(matrix):
        total = max(1, sum(row))
        for said, count in enumerate(row):
            left, upper = margin + cell * said, top + cell * true
            fill = _fill(count / total, good=true == said) if count else PAPER
            pen.rectangle((left, upper, left + cell, upper + cell), fill, FAINT)
            if count:
                ink = PAPER if sum(fill) < 380 else INK
                pen.text((left + cell // 2, upper + cell // 2), str(count), ink, small, anchor="mm")
    return drawn


def _fill(share: float, *, good: bool) -> tuple[int, int, int]:
    """Return a cell's colour on paper: the greater the share, the darker."""
    strength = 0.15 + 0.85 * (share if good else min(1.0, 3 * share))
    full = (20, 120, 50) if good else (190, 30, 30)
    red, green, blue = (int(255 - (255 - channel) * strength) for channel in full)
    return red, green, blue


def font_of(labels: Sequence[str], size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the first font of this machine that has all characters of the labels, else the one that has most."""
    from PIL import ImageFont

    characters = {each for label in labels for each in escaped(label)}
    best: ImageFont.FreeTypeFont | ImageFont.ImageFont = ImageFont.load_default(size)
    most = _known(best, characters)
    for name in FONTS:
        if most == len(characters):
            break
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if (known := _known(font, characters)) > most:
            best, most = font, known
    return best


def _known(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, characters: set[str]) -> int:
    return sum(_has(font, each) for each in characters)


def _has(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, character: str) -> bool:
    """Tell whether a font draws a character as something else than the box for what it does not know."""
    if character.isspace() or character.isascii():
        return True
    return bytes(font.getmask(character)) != bytes(font.getmask("\U0010fffe"))


def drawable(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a text escaped, with question marks for what the font cannot draw."""
    return "".join(each if _has(font, each) else "?" for each in escaped(text))


def _drawable(index: int, label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return "3 scratch", shortened to fit; characters that no font here has become question marks."""
    name = f"{index + 1} {drawable(label, font)}"
    width = len(name)
    while width > 6 and font.getlength(shortened(name, width)) > PIXELS_OF_NAMES:
        width -= 1
    return shortened(name, width)
