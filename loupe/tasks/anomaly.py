"""Anomaly: is a part as the good ones are, of which alone a model has learned?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from loupe.escapes import escaped
from loupe.labels import MAX_LENGTH
from loupe.proportions import wilson_interval
from loupe.tasks import evidence
from loupe.tasks.objective import Objective, shown_share, spoken
from loupe.tasks.task import Checked, LabelCount, Metric, UnfitVersion, refuse_class_split

if TYPE_CHECKING:
    from loupe.tasks.figures import AnomalyFigures

AUROC = "auroc"
RECALL = "recall"

GOOD = "good"
"""The class of good parts where nothing else is said."""

_SHOWN_LABELS = 5


def good_label(labels: Sequence[str], named: str = "") -> str:
    """Return which class is that of the good parts. Raises ValueError, which names the classes.

    named: what the job says; without it, it is GOOD, or the only class that there is.

    >>> good_label(["crack", "good"]), good_label(["screws"]), good_label(["crack", "ok"], "ok")
    ('good', 'screws', 'ok')
    """
    if not named and len(labels) == 1:
        return labels[0]
    chosen = named or GOOD
    if chosen in labels:
        return chosen
    shown = ", ".join(escaped(each, MAX_LENGTH) for each in labels[:_SHOWN_LABELS])
    more = f" and {len(labels) - _SHOWN_LABELS} more" if len(labels) > _SHOWN_LABELS else ""
    raise ValueError(
        f"parameter 'good': there is no class {escaped(chosen, MAX_LENGTH)!r}; name the class of the good parts: "
        f"{shown}{more}"
    )


class Anomaly:
    """The task: how far is a picture from those of good parts, and where in it.

    Its metrics are measured on bad parts, which nothing is learned from. auroc: the share of pairs of a bad and a good
    picture in which the bad one's score is higher, ties counting half (Fawcett, "An introduction to ROC analysis",
    2006). recall: the share of the bad pictures whose score is above the threshold, which good ones of the validation
    pictures set for a rate of false alarms.
    """

    name = "anomaly"
    regions = False
    command = "inspect"
    algorithm = "anomaly"
    metrics: Mapping[str, Metric] = {
        each.name: each
        for each in (
            Metric(AUROC, "how often a bad picture scores higher than a good one"),
            Metric(RECALL, "the share of the bad pictures that is found at the rate of false alarms"),
        )
    }

    @property
    def figures(self) -> type[AnomalyFigures]:
        """The schema of a report's figures of a split; terminals do without it, and it takes long to load."""
        from loupe.tasks.figures import AnomalyFigures

        return AnomalyFigures

    def check_version(self, version: str, labels: Sequence[LabelCount], *, by_class: bool = False) -> None:
        """Raise UnfitVersion where there is no class to learn from and to set the threshold by."""
        if by_class:
            refuse_class_split(version, self.name)
        asked = [each for each in labels if each.label == GOOD] or labels
        of = f" of {GOOD!r}" if any(each.label == GOOD for each in labels) else ""
        trained = [each for each in asked if each.train_count > 0]
        if not trained:
            raise UnfitVersion(
                f"{version} has no training pictures{of}; give pictures of good parts to training",
                problem="no_training_pictures",
            )
        if not any(each.validation_count > 0 for each in trained):
            raise UnfitVersion(
                f"{version} has no validation pictures{of or ' of a class that it has training pictures of'}, which "
                "set the threshold; give some pictures of good parts to validation",
                problem="no_validation_pictures",
            )

    def unmeasurable(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return nothing: without bad pictures a model is made all the same, and `shortfall` says what is lacking."""
        return ""

    def shortfall(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return what the validation pictures lack; see Task.shortfall.

        The good class is GOOD, else the one with most training pictures: the job's parameter is not known here.
        """
        good = next((each for each in labels if each.label == GOOD), None)
        good = good or max(labels, key=lambda each: each.train_count, default=None)
        there = good.validation_count if good else 0
        bad = sum(each.validation_count for each in labels) - there
        metric, needed = spoken(objective.metric), evidence.needed_pictures(objective.bound)
        if not bad:
            return (
                f"without validation pictures of bad parts {metric} cannot be measured: give at least {needed} of them "
                "to validation, under any other class"
            )
        missing = {"good": needed - there, "bad": needed - bad}
        lacking = " and ".join(f"{count} more of {kind} parts" for kind, count in missing.items() if count > 0)
        if not lacking:
            return ""
        return f"{metric} of {shown_share(objective.bound)} needs at least {needed} validation pictures each: {lacking}"

    def checked(
        self,
        labels: Sequence[str],
        right: Sequence[float],
        cases: Sequence[int],
        figures: Mapping[str, float],
        pictures: int,
    ) -> Checked:
        """Return what a trainer counted. cases: the pictures of each bad class; none of the good one."""
        found = {AUROC: figures[AUROC]} if AUROC in figures else {}
        if sum(cases):
            found[RECALL] = sum(right) / sum(cases)
        return Checked(labels, right, cases, found, pictures)

    def refuted(self, objective: Objective, checked: Checked) -> bool:
        """Say whether the upper end of what test pictures show is far below the bound; see Task.refuted.

        An AUROC is taken to be as sure as a share of as many pictures as there are of the rarer kind.
        """
        bad = sum(checked.cases)
        if not bad or objective.metric not in checked.figures:
            return False
        good = checked.pictures - bad
        cases = min(bad, good) if objective.metric == AUROC and good else bad
        return evidence.share_is_refuted(objective.bound, checked.figures[objective.metric] * cases, cases)

    def score_of_report(self, metric: str, split: Mapping[str, Any]) -> float | None:
        """Return a metric by the figures of `loupe.tasks.anomaly_scores.evaluate`; see Task.score_of_report.

        0 where there was no bad picture to measure by: nothing is reached then.
        """
        if metric not in split:
            return None
        return float(split[metric] or 0.0)

    def validation_sentence(self, objective: Objective, score: float, pictures: int) -> str:
        """Return what came out on the validation pictures; see Task.validation_sentence."""
        if not score:
            return (
                f"The {spoken(objective.metric)} is 0 on {pictures} validation pictures, or none of them is of a bad "
                "part and it was not measured"
            )
        return f"The {spoken(objective.metric)} is {shown_share(score)} on {pictures} validation pictures"

    def test_sentence(self, checked: Checked) -> str:
        """Return what came out on the test pictures; see Task.test_sentence."""
        bad = sum(checked.cases)
        if not bad:
            return f"None of the {checked.pictures} test pictures is of a bad part: nothing was measured on them."
        found = sum(checked.right)
        low, high = wilson_interval(found, bad)
        auroc = f"; {spoken(AUROC)} is {shown_share(checked.figures[AUROC])}" if AUROC in checked.figures else ""
        return (
            f"Of {checked.pictures} test pictures {bad} are of bad parts, and {shown_share(found / bad)} of these are "
            f"found (95 % interval {shown_share(low)} to {shown_share(high)}){auroc}."
        )
