"""loupe inspect"""

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
from loupe.terminal.commands.telling import PicturesArgument, Telling, ThreadsOption, answer_named, check_outside, end
from loupe.terminal.tables import percent

if TYPE_CHECKING:
    from loupe.terminal.heat_map import HeatMaps
    from loupe.terminal.inspector import Inspection, Inspector

app = typer.Typer()


@command(
    app,
    "inspect",
    "loupe inspect castings part.png --project line-7",
    "loupe inspect castings new/ --draw found/",
    "loupe inspect castings new/ --false-alarms 0.001    # call fewer good parts bad, and miss more bad ones",
)
async def inspect(
    cli: Cli,
    *,
    model: ModelArgument,
    pictures: PicturesArgument = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="DIR", help="Write each picture here, a bad part with what is unusual in red."),
    ] = None,
    false_alarms: Annotated[
        float | None,
        typer.Option(
            "--false-alarms",
            metavar="RATE",
            help="The share of good parts that may be called bad, 0.01 for 1 %; else the one of the training.",
        ),
    ] = None,
    threads: ThreadsOption = None,
    allow_below_target: Below = False,
) -> None:
    r"""Say of each picture whether it is as good parts are, in a line with tabs: path, good or bad, score.

    It works without the mesh. A score above the threshold is bad; the threshold, which is told first, with --json as
    the first line, comes from the scores of good validation pictures. Where these are too few for the rate of false
    alarms, that is said, and the highest of their scores is the threshold.

    In path, tab, newline, backslash and control characters are written as \t, \n, \\ and \x1b. A picture that cannot
    be read gets its problem told instead, the others go on, and the exit code is 6.
    """
    from loupe.terminal.heat_map import HeatMaps
    from loupe.terminal.inspector import Inspector

    words = pictures or []
    if not words:
        raise errors.invalid("pictures", "", "pictures, folders or patterns")
    check_outside("draw", draw, words)
    folder = await model_folder(cli, model, allow_below_target)
    inspector = await asyncio.to_thread(lambda: Inspector(folder, threads, false_alarms=false_alarms))
    _tell_threshold(cli, inspector)
    maps = await asyncio.to_thread(HeatMaps, draw) if draw else None
    answers = _Inspections(cli, inspector, maps)
    end(answers, await answer_named(answers, words))


class _Inspected(NamedTuple):
    """An answer, and where it was drawn."""

    inspection: Inspection
    drawing: Path | None


class _Inspections(Telling[_Inspected]):
    """Inspects pictures, draws what is unusual in bad parts, and tells each answer."""

    verb = "inspect"

    def __init__(self, cli: Cli, inspector: Inspector, maps: HeatMaps | None) -> None:
        from loupe.terminal.model_folder import BATCH

        super().__init__(cli, BATCH)
        self._inspector, self._maps = inspector, maps

    def _answers(self, paths: Sequence[Path]) -> Iterator[_Inspected]:
        for one in self._inspector.inspect(paths):
            yield _Inspected(one, self._maps.write(one) if self._maps else None)

    def _tell(self, chunk: Sequence[_Inspected]) -> None:
        from loupe.terminal.answers import tsv_field

        for one, drawing in chunk:
            self.count += 1
            self.broken += bool(one.problem)
            said = "" if one.problem else "bad" if one.bad else "good"
            if self._cli.as_json:
                score = None if one.problem else one.score
                told = {"path": one.path, "answer": said, "score": score, "problem": one.problem, "drawing": drawing}
                self._cli.emit(told)
                continue
            fields: list[object] = [one.path]
            fields += [f"error: {one.problem}"] if one.problem else [said, f"{one.score:.4f}"]
            sys.stdout.write("\t".join(map(tsv_field, [*fields, *([drawing] if drawing else [])])) + "\n")
        sys.stdout.flush()


def _tell_threshold(cli: Cli, inspector: Inspector) -> None:
    """Tell what a score must exceed, and whether the good validation pictures vouch for the rate of false alarms."""
    threshold, calibration = inspector.threshold, inspector.calibration
    if cli.as_json:
        asked = {"good": calibration.good, "asked_false_alarms": inspector.false_alarms}
        told = {"threshold": threshold.value, "false_alarms": threshold.false_alarms, "lacking": threshold.lacking}
        cli.emit({"inspection": {**asked, **told, "validation_pictures": calibration.pictures}})
    said = f"bad is what scores above {threshold.value:.4g}, for at most {percent(threshold.false_alarms)} false alarms"
    if threshold.lacking:
        said += (
            f": the {calibration.pictures} good validation pictures are too few for {percent(inspector.false_alarms)}; "
            f"{threshold.lacking} more would do"
        )
    cli.note(said)
