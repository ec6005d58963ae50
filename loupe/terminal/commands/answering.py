"""What `loupe classify` tells of each picture, and where to: lines, JSON, a CSV file, a score, explanations, copies."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from loupe.terminal.commands.frame import Cli
from loupe.terminal.commands.telling import Telling

if TYPE_CHECKING:
    from loupe.terminal.answers import AnswerFile
    from loupe.terminal.classifier import Classifier, Prediction
    from loupe.terminal.saliency import Explanations
    from loupe.terminal.score import Score
    from loupe.terminal.unknown_pictures import UnknownPictures


class Answer(NamedTuple):
    """A prediction, and where its explanation is and the copy that was kept of it, None where there is none."""

    prediction: Prediction
    explanation: Path | None
    saved: Path | None


class Answers(Telling[Answer]):
    """Tells answers as they come: on stdout, to a CSV file, to a score, each with an explanation where one is wanted.

    unknown: what keeps those that no class was sure of. fleeting: the pictures are gone afterwards, and are called by
    their names alone.
    """

    verb = "classify"

    def __init__(
        self, cli: Cli, classifier: Classifier, file: AnswerFile | None, explanations: Explanations | None
    ) -> None:
        from loupe.terminal.model_folder import BATCH

        super().__init__(cli, 1 if explanations else BATCH)
        self.classifier = classifier
        self.score: Score | None = None
        self.unknown: UnknownPictures | None = None
        self.fleeting = False
        self._file = file
        self._explanations = explanations

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def named(self, words: Sequence[Path], pictures: Sequence[Path]) -> None:
        """Score the answers where one folder is named, with a folder per class in it."""
        from loupe.terminal.score import Score, truth_of

        if len(words) == 1 and words[0].is_dir():
            truth = truth_of(words[0], pictures, self.classifier.labels)
            self.score = Score(truth, self.classifier.labels) if truth else None

    def _answers(self, paths: Sequence[Path]) -> Iterator[Answer]:
        return map(self._answer, self.classifier.classify(paths))

    def _answer(self, one: Prediction) -> Answer:
        """Write what is wanted of a picture while it is there."""
        explanation = None
        if self._explanations and not one.problem:
            explanation = self._explanations.write(self.classifier, one.path)
        saved = self.unknown.keep(one) if self.unknown else None
        if self.fleeting:
            one = replace(one, path=saved or Path(one.path.name))
        return Answer(one, explanation, saved)

    def _tell(self, chunk: Sequence[Answer]) -> None:
        from loupe.terminal.answers import tsv_line

        lines, rows = [], []
        for one, explanation, saved in chunk:
            true = self.score.add(one) if self.score else None
            true_label = "" if true is None else self.classifier.labels[true]
            self.count += 1
            self.broken += bool(one.problem)
            rows.append((one, true_label, explanation))
            if self._cli.as_json:
                self._emit(one, true_label, explanation, saved)
            else:
                lines.append(tsv_line(one, explanation) + "\n")
        sys.stdout.write("".join(lines))
        sys.stdout.flush()
        if self._file:
            self._file.add(rows)

    def _emit(self, one: Prediction, true_label: str, explanation: Path | None, saved: Path | None) -> None:
        value: dict[str, object] = {
            "path": one.path,
            "label": one.label,
            "confidence": one.confidence,
            "unknown": one.unknown,
            "likeliest": one.likeliest,
            "problem": one.problem,
        }
        if self.score:
            value["true_label"] = true_label or None
        if self._explanations:
            value["explanation"] = explanation
        if self.unknown:
            value["saved"] = saved
        probabilities = dict(zip(self.classifier.labels, one.probabilities, strict=False))
        self._cli.emit(value | {"probabilities": probabilities})


def opened(cli: Cli, classifier: Classifier, csv: Path | None, explain: Path | None, *, more: bool) -> Answers:
    """Open what the answers go to. more: add to the CSV file."""
    from loupe.terminal.answers import AnswerFile
    from loupe.terminal.saliency import Explanations

    file = AnswerFile(csv, more=more) if csv else None
    return Answers(cli, classifier, file, Explanations(explain) if explain else None)
