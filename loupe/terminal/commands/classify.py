"""loupe classify"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.terminal.commands import camera as cameras
from loupe.terminal.commands.answering import Answers, opened
from loupe.terminal.commands.frame import Cli, Interrupted, command
from loupe.terminal.commands.lazy import errors
from loupe.terminal.commands.model_choice import ModelArgument, installed, model_folder
from loupe.terminal.commands.models import Below
from loupe.terminal.commands.telling import PicturesArgument, ThreadsOption, answer_named, check_outside, end
from loupe.terminal.precision import Precision
from loupe.terminal.tables import facts, line, percent

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loupe.terminal.classifier import Classifier
    from loupe.terminal.installed import Installed
    from loupe.terminal.score import Score

app = typer.Typer()


@command(
    app,
    "classify",
    "loupe classify screws part.png --project line-7",
    "loupe classify models/screws/2 new/ 'more/**/*.png'",
    "loupe classify screws --watch camera/ --csv answers.csv",
    "loupe classify screws new/ --max-error 0.01    # unknown where more than 1 % would be wrong",
    "loupe classify screws --camera 0 --interval 2 --min-confidence 0.9 --save-unknown unknown/",
    "loupe classify screws test/ --matrix    # test/ has a folder per class: the answers are scored",
)
async def classify(
    cli: Cli,
    *,
    model: ModelArgument,
    pictures: PicturesArgument = None,
    watch: Annotated[
        Path | None,
        typer.Option("--watch", metavar="DIR", help="Go on with what is written into this folder, until Ctrl-C."),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            "--camera",
            metavar="DEVICE",
            help="Take pictures: from camera 0, /dev/video0, rtsp://camera/stream, or a video file, until Ctrl-C.",
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option("--interval", metavar="SECONDS", min=0.0, help="With --camera: between pictures; else 1."),
    ] = None,
    trigger: Annotated[
        cameras.Trigger, typer.Option("--trigger", help="With --camera: take a picture every interval, or at Enter.")
    ] = cameras.Trigger.INTERVAL,
    min_confidence: Annotated[
        float, typer.Option("--min-confidence", metavar="P", help="Below this probability, answer unknown.")
    ] = 0.0,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            metavar="RATE",
            help="Answer unknown as far as it takes to be wrong in at most this share of the answers, 0.01 for 1 %.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Also write the answers as CSV; with --watch or --camera, added to it."
        ),
    ] = None,
    save_unknown: Annotated[
        Path | None,
        typer.Option("--save-unknown", metavar="DIR", help="Keep the pictures here that are answered with unknown."),
    ] = None,
    explain: Annotated[
        Path | None,
        typer.Option("--explain", metavar="DIR", help="Write a picture per answer: what it rests on, in red."),
    ] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="With a score: the whole confusion matrix.")] = False,
    matrix_csv: Annotated[
        Path | None, typer.Option("--matrix-csv", metavar="FILE", help="With a score: write the matrix as CSV.")
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option("--precision", help="Which of the model's files answers; auto: the quicker one on this machine."),
    ] = Precision.AUTO,
    threads: ThreadsOption = None,
    allow_below_target: Below = False,
) -> None:
    r"""Say what each picture shows, in a line with tabs: path, label, confidence. It works without the mesh.

    In path and label, tab, newline, backslash and control characters are written as \t, \n, \\ and \x1b. For a folder
    with a folder per class, named as the model's classes, the score follows on stderr, with --json as the last line.

    With --max-error, the confidence that it takes is found by the model's validation pictures, and told first, with
    --json as the first line. Where they cannot vouch for so low a rate, nothing is answered and the exit code is 3.

    With --watch and --camera, a version that `loupe follow` installs meanwhile is used from then on. A picture of a
    camera is called by when it was taken, and is gone afterwards unless --save-unknown keeps it.

    A picture that cannot be read gets its problem told instead, the others go on, and the exit code is 6.
    """
    from loupe.terminal.classifier import Classifier
    from loupe.terminal.picture_paths import FolderWatch
    from loupe.terminal.unknown_pictures import UnknownPictures

    words = pictures or []
    taking = cameras.opened(camera, interval, trigger, others=bool(words) or watch is not None)
    if not words and watch is None and taking is None:
        raise errors.invalid("pictures", "", "pictures, folders, patterns, - for paths on stdin, --watch or --camera")
    check_outside("explain", explain, sources := [*words, *([watch] if watch else [])])
    check_outside("save-unknown", save_unknown, sources)
    # What is written from now on belongs to the watch, whatever is answered before.
    watched = await asyncio.to_thread(FolderWatch, watch) if watch else None

    async def load(folder: Path) -> Classifier:
        classifier = await asyncio.to_thread(
            Classifier, folder, threads, min_confidence=min_confidence, max_error=max_error, precision=precision
        )
        _tell_operating_point(cli, classifier)
        return classifier

    classifier = await load(await model_folder(cli, model, allow_below_target))
    if save_unknown and not classifier.min_confidence:
        raise errors.invalid(
            "save-unknown", str(save_unknown), "--min-confidence P or --max-error RATE with it: else nothing is unknown"
        )
    if classifier.has_int8:
        cli.note(f"its {classifier.precision.upper()} model answers")
    arriving = taking or watched
    with await asyncio.to_thread(opened, cli, classifier, csv, explain, more=arriving is not None) as answers:
        answers.fleeting = taking is not None
        answers.unknown = await asyncio.to_thread(UnknownPictures, save_unknown) if save_unknown else None
        expansion = await answer_named(answers, words)
        if arriving:
            newest, passed_over = installed(cli, model, allow_below_target), set[Path]()
            await _answer_arriving(
                answers,
                arriving.arrivals(),
                lambda: _renewed(cli, answers.classifier, newest, load, passed_over),
            )
    if answers.unknown and answers.unknown.count:
        cli.note(answers.unknown.told())
    if answers.score:
        _tell_score(cli, answers.score, matrix, matrix_csv)
    elif matrix or matrix_csv:
        cli.note("not scored: name one folder, with a folder per class in it that is called like the model's class")
    end(answers, expansion)


def _tell_operating_point(cli: Cli, classifier: Classifier) -> None:
    """Tell from which confidence on there are answers for a --max-error, and what that came to in validation."""
    point, max_error, pictures = classifier.operating_point, classifier.max_error, classifier.validation_pictures
    if point is None or max_error is None:
        return
    if cli.as_json:
        told = {"max_error": max_error, **point._asdict(), "validation_pictures": pictures}
        cli.emit({"operating_point": told})
    cli.note(
        f"answers from a confidence of {point.min_confidence:g} on, for at most {100 * max_error:.4g} % wrong: of the "
        f"{pictures} validation pictures {point.answered} are answered ({percent(point.answered / pictures)}), "
        f"{point.wrong} of them wrongly"
    )


async def _renewed(
    cli: Cli,
    classifier: Classifier,
    newest: Callable[[], Installed] | None,
    load: Callable[[Path], Awaitable[Classifier]],
    passed_over: set[Path],
) -> Classifier:
    """Return a classifier with the newest version that was installed in the meantime; else the one that there is.

    passed_over: the versions of which was told already that they do not do; it is added to.
    """
    if newest is None:
        return classifier
    # A version that went, or that cannot be loaded, is no reason to stop what works.
    with contextlib.suppress(errors.LoupeError, OSError):
        found = newest()
        if found.folder != classifier.folder:
            try:
                classifier = await load(found.folder)
            except errors.FailedPrecondition as error:
                if found.folder not in passed_over:
                    cli.note(f"goes on without {found.name}: {error}")
                passed_over.add(found.folder)
                raise
            cli.note(f"from now on with {found.name}")
    return classifier


async def _answer_arriving(
    answers: Answers, arrivals: AsyncGenerator[Sequence[Path]], renew: Callable[[], Awaitable[Classifier]]
) -> None:
    """Classify what arrives, each with the newest model that is installed by then, to its end or until cancelled."""
    try:
        async with contextlib.aclosing(arrivals):
            async for batch in arrivals:
                answers.classifier = await renew()
                await answers.answer(batch)
    except asyncio.CancelledError:
        kept = f"; {answers.unknown.told()}" if answers.unknown and answers.unknown.count else ""
        raise Interrupted(f"interrupted: {answers.count} pictures were classified{kept}", "") from None


def _tell_score(cli: Cli, score: Score, matrix: bool, matrix_csv: Path | None) -> None:
    if matrix_csv:
        from loupe.terminal.confusion import matrix_csv as as_csv

        matrix_csv.write_text(as_csv(score.matrix, score.labels), encoding="utf-8")
    if cli.as_json:
        cli.emit({"score": score.document()})
    else:
        cli.messages.print(_score_view(score, cli.messages.width, matrix))


def _score_view(score: Score, width: int, whole: bool) -> RenderableType:
    from rich.console import Group

    from loupe.terminal.confusion import needed_width, pairs_table, whole_matrix

    low, high = score.interval
    unknown = sum(score.unknown)
    total = score.answered + unknown + score.unreadable
    accuracy = (
        f"{percent(score.accuracy)} of {score.answered} pictures (95 % interval {percent(low)} to {percent(high)})"
    )
    pairs = [
        ("accuracy", accuracy if score.answered else "no picture got a class"),
        ("balanced", f"{percent(score.balanced_accuracy)}, the mean over the classes" if score.answered else ""),
        ("unknown", f"{unknown} of {total} pictures; they are not in the figures" if unknown else ""),
        ("unreadable", f"{score.unreadable} of {total} pictures" if score.unreadable else ""),
        (
            "not scored",
            f"folders that are no class of the model: {', '.join(score.truth.strange)}" if score.truth.strange else "",
        ),
    ]
    parts: list[RenderableType] = [line(""), facts(pairs)]
    if score.answered:
        parts.append(pairs_table(score.matrix, score.labels, "classified"))
        if whole or needed_width(score.matrix, score.labels) <= width:
            parts.append(whole_matrix(score.matrix, score.labels, width, "classified"))
        else:
            parts.append(line("\n--matrix shows the whole matrix, --matrix-csv FILE writes it", "dim"))
    return Group(*parts)
