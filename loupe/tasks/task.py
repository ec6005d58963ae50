"""What Loupe has to know of a kind of question that a model answers; one module beside this one for each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from loupe.tasks.objective import Objective

if TYPE_CHECKING:
    from loupe.tasks.figures import SplitFigures


@dataclass(frozen=True)
class Metric:
    """A figure by which the models of a task are judged.

    greater_is_better: else smaller values are. low, high: its range, both included where a model can reach them.
    of_label: it is told of one class, as in "recall[crack]".
    """

    name: str
    summary: str
    greater_is_better: bool = True
    low: float = 0.0
    high: float = 1.0
    of_label: bool = False

    @property
    def form(self) -> str:
        """The metric as people write it.

        >>> Metric("recall", "…", of_label=True).form
        'recall[CLASS]'
        """
        return f"{self.name}[CLASS]" if self.of_label else self.name


@dataclass(frozen=True)
class LabelCount:
    """The pictures of a class in a data set version, and the regions annotated with it, by what they are for."""

    label: str
    train_count: int
    validation_count: int
    train_regions: int = 0
    validation_regions: int = 0
    test_count: int = 0
    test_regions: int = 0


@dataclass(frozen=True)
class Checked:
    """What was counted of a model's answers for the test pictures, outside of the algorithm (docs/decisions/0015).

    labels: the classes. right, cases: of each class, how many of its cases were found; a case is what the task counts,
    a picture or a region. figures: the task's metrics by name, those of one class not among them. pictures: how many
    there were.
    """

    labels: Sequence[str]
    right: Sequence[float]
    cases: Sequence[int]
    figures: Mapping[str, float]
    pictures: int


class UnfitVersion(ValueError):
    """Says why a data set version cannot be trained on.

    problem: a short stable word. label: the class that it is of; empty for all.
    """

    def __init__(self, message: str, problem: str, label: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.label = label


def refuse_class_split(version: str, task: str) -> None:
    """Raise UnfitVersion over a version that a task cannot be trained on, as no class is in two of its splits."""
    raise UnfitVersion(
        f"{version} is split by class, for few-shot tasks: none of its validation and test classes is in training, and "
        f"{task} learns each class that it tells; push it with --split-by picture --resplit, or into another data set",
        problem="split_by_class",
    )


class Task(Protocol):
    """A kind of question. Services, the SDK of algorithms and terminals ask it, and never look at its name.

    name: as it stands in an image's manifest, a model's package and the contract. metrics: by name, the first one is
    meant where none is named. regions: whether it is about regions of pictures; else about pictures as a whole.
    command: the terminal's, that answers with its models. algorithm: the built-in image that is taken where none is
    named.
    """

    name: str
    metrics: Mapping[str, Metric]
    regions: bool
    command: str
    algorithm: str

    @property
    def figures(self) -> type[SplitFigures]:
        """The schema of a report's figures of a split; its fields that are named as metrics are those."""

    def check_version(self, version: str, labels: Sequence[LabelCount], *, by_class: bool = False) -> None:
        """Raise UnfitVersion where a version with these classes cannot be trained on.

        by_class: each class is in one of its splits only.
        """

    def unmeasurable(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return which metric would be right where this one measures nothing in these classes; empty where it does."""

    def shortfall(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return what the validation pictures lack to say that an objective is reached (docs/decisions/0012).

        One sentence for people without its full stop; empty where nothing is lacking.
        """

    def checked(
        self,
        labels: Sequence[str],
        right: Sequence[float],
        cases: Sequence[int],
        figures: Mapping[str, float],
        pictures: int,
    ) -> Checked:
        """Return what a trainer counted; figures and pictures, where it sends none, follow from the rest."""

    def refuted(self, objective: Objective, checked: Checked) -> bool:
        """Say whether test pictures speak against a model that is said to have reached an objective."""

    def score_of_report(self, metric: str, split: Mapping[str, Any]) -> float | None:
        """Return a metric by the figures that a report has for a split; None where it lacks them."""

    def validation_sentence(self, objective: Objective, score: float, pictures: int) -> str:
        """Return what came out on the validation pictures, a sentence without its full stop."""

    def test_sentence(self, checked: Checked) -> str:
        """Return what came out on the test pictures, a whole sentence."""
