"""What Loupe has to know of a kind of question that a model answers; one module beside this one for each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from loupe.tasks.objective import Objective


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
    """The pictures of a class in a data set version, by what they are for."""

    label: str
    train_count: int
    validation_count: int


class UnfitVersion(ValueError):
    """Says why a data set version cannot be trained on.

    problem: a short stable word. label: the class that it is of; empty for all.
    """

    def __init__(self, message: str, problem: str, label: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.label = label


class Task(Protocol):
    """A kind of question. Services, the SDK of algorithms and terminals ask it, and never look at its name.

    name: as it stands in an image's manifest, a model's package and the contract. metrics: by name, the first one is
    meant where none is named.
    """

    name: str
    metrics: Mapping[str, Metric]

    def check_version(self, version: str, labels: Sequence[LabelCount]) -> None:
        """Raise UnfitVersion where a version with these classes cannot be trained on."""

    def unmeasurable(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return which metric would be right where this one measures nothing in these classes; empty where it does."""

    def shortfall(self, objective: Objective, labels: Sequence[LabelCount]) -> str:
        """Return what the validation pictures lack to say that an objective is reached (docs/decisions/0012).

        One sentence for people without its full stop; empty where nothing is lacking.
        """

    def refuted(
        self, objective: Objective, labels: Sequence[str], right: Sequence[int], pictures: Sequence[int]
    ) -> bool:
        """Say whether test pictures speak against a model that is said to have reached an objective.

        right, pictures: of each class, as they were counted outside of the algorithm (docs/decisions/0015).
        """

    def score_of_report(self, metric: str, split: Mapping[str, Any]) -> float | None:
        """Return a metric by the figures that a report has for a split; None where it lacks them."""
