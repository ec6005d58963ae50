"""The consoles that a person reads: stdout and stderr, which nothing that passes through them can steer."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from loupe.terminal.escapes import blanked

PIPE_COLUMNS = 200
_ASCII = str.maketrans({"…": "~", "─": "-", "·": ".", "–": "-", "—": "-", "‘": "'", "’": "'", "×": "x", "→": ">"})


@contextlib.contextmanager
def named_in_errors(stream: str) -> Iterator[None]:
    """Name the stream in what the operating system refuses within the block: a write does not know where it goes."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or stream
        raise


class Screen(Console):
    """A console for texts of any origin.

    Printers escape them (`loupe.terminal.escapes`), so that they are laid out as they are shown; what a printer forgot
    is made harmless here, the last place that it passes. No text is read as markup. A line that is too long is left to
    the terminal to wrap, so that an id in it can be copied whole.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable, those with text made harmless."""
        plain = self.options.ascii_only
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                text = blanked(segment.text)
                yield Segment(text.translate(_ASCII) if plain else text, segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as a Console does, without cutting lines at the width."""
        options.setdefault("crop", False)
        options.setdefault("overflow", "ignore")
        with named_in_errors("standard error" if self.stderr else "standard output"):
            super().print(*objects, **options)

    def on_broken_pipe(self) -> None:
        """Leave it to the command line, which knows the exit code."""
        raise BrokenPipeError


def stdout_screen() -> Screen:
    """Return what prints on stdout; where that is no terminal, lines may be longer."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Screen()
    return Screen(width=PIPE_COLUMNS)


def stderr_screen() -> Screen:
    """Return what prints on stderr."""
    return Screen(stderr=True)
