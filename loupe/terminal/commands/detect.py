"""loupe detect"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from loupe.terminal.commands.frame import Cli, command
from loupe.terminal.commands.lazy import errors
from loupe.terminal.commands.model_choice import ModelArgument, model_folder
from loupe.terminal.commands.models import Below
from loupe.terminal.commands.telling import (
    PicturesArgument,
    Telling,
    ThreadsOption,
    answer_named,
    check_outside,
    end,
)

if TYPE_CHECKING:
    from loupe.terminal.detector import Detections, Detector
    from loupe.terminal.drawing import Drawings

app = typer.Typer()


@command(
    app,
    "detect",
    "loupe detect boards board.png --project line-7",
    "loupe detect models/boards/2 new/ 'more/**/*.png' --draw found/",
    "find new/ -name '*.png' | loupe detect boards - --min-confidence 0.5 --json",
)
async def detect(
    cli: Cli,
    *,
    model: ModelArgument,
    pictures: PicturesArgument = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="DIR", help="Write a copy of each picture here, with what was found in it."),
    ] = None,
    min_confidence: Annotated[
        float | None,
        typer.Option(
            "--min-confidence",
            metavar="P",
            help="Leave out what is less sure; else the model's own, found on its validation pictures.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    allow_below_target: Below = False,
) -> None:
    r"""Say what is where in each picture, in a line with tabs: path, a field for each thing. It works without the mesh.

    Such a field is the label, the confidence, and the left, upper, right and lower edge in pixels of the upright
    picture, separated by spaces; "nothing" where nothing was found. In path and label, tab, newline, backslash and
    control characters are written as \t, \n, \\ and \x1b.

    The copies of --draw are called part.detected.png, with a number where there is one: nothing is written over.

    A picture that cannot be read gets its problem told instead, the others go on, and the exit code is 6.
    """
    from loupe.terminal.detector import Detector
    from loupe.terminal.drawing import Drawings

    words = pictures or []
    if not words:
        raise errors.invalid("pictures", "", "pictures, folders, patterns, or - for paths on stdin")
    check_outside("draw", draw, words)
    folder = await model_folder(cli, model, allow_below_target)
    detector = await asyncio.to_thread(Detector, folder, threads, min_confidence=min_confidence)
    drawings = await asyncio.to_thread(Drawings, draw, detector.labels) if draw else None
    answers = DetectionAnswers(cli, detector, drawings)
    expansion = await answer_named(answers, words)
    end(answers, expansion)


class Answer(NamedTuple):
    """What was found in a picture, and where it is drawn, None where it is not."""

    detections: Detections
    drawing: Path | None


class DetectionAnswers(Telling[Answer]):
    """Tells what was found as it comes, on stdout, and draws it where that is wanted."""

    verb = "look through"

    def __init__(self, cli: Cli, detector: Detector, drawings: Drawings | None) -> None:
        super().__init__(cli, 1 if drawings else detector.batch)
        self._detector = detector
        self._drawings = drawings

    def _answers(self, paths: Sequence[Path]) -> Iterator[Answer]:
        for one in self._detector.detect(paths):
            yield Answer(one, self._drawings.write(one) if self._drawings and not one.problem else None)

    def _tell(self, chunk: Sequence[Answer]) -> None:
        from loupe.terminal.answers import detections_line

        for one in chunk:
            self.count += 1
            self.broken += bool(one.detections.problem)
            if self._cli.as_json:
                self._emit(one)
        if not self._cli.as_json:
            sys.stdout.write("".join(f"{detections_line(*one)}\n" for one in chunk))
            sys.stdout.flush()

    def _emit(self, one: Answer) -> None:
        told = one.detections
        value: dict[str, object] = {
            "path": told.path,
            "width": told.width,
            "height": told.height,
            "found": [
                {
                    "label": each.label,
                    "confidence": each.confidence,
                    "box": each.box._asdict(),
                    "pixels": each.pixels._asdict(),
                }
                for each in told.found
            ],
            "problem": told.problem,
        }
        self._cli.emit(value | ({"drawing": one.drawing} if self._drawings else {}))
