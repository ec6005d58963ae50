"""The table of tasks: what each row promises, and that nobody else branches on a task's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loupe.tasks import TASKS, task_for
from loupe.tasks.objective import Objective
from loupe.tasks.task import LabelCount, Task, UnfitVersion

ROOT = Path(__file__).parents[3]
COUNTS = [LabelCount("crack", 60, 20, 60, 20), LabelCount("dent", 60, 20, 60, 20)]


def test_no_task_is_named_outside_of_the_table() -> None:
    """A new one is a module there; manifests of images, which say what they are, are data."""
    named = re.compile("|".join(rf"""["']{name}["']""" for name in TASKS))
    sources = [each for part in ("loupe", "services", "deploy") for each in (ROOT / part).rglob("*.py")]
    examples = re.compile(r"^\s*(>>>|\.\.\.)")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources
        if (ROOT / "loupe" / "tasks") not in path.parents
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if named.search(line) and not examples.match(line)
    ]
    assert found == []


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_version_that_is_split_by_class_is_for_other_tasks(task: Task) -> None:
    """Each needs its classes in training; the counts alone would not always tell."""
    task.check_version("v", [LabelCount("good", 60, 20, 60, 20), LabelCount("dent", 60, 20, 60, 20)])
    with pytest.raises(UnfitVersion, match="few-shot") as refused:
        task.check_version("v", COUNTS, by_class=True)
    assert refused.value.problem == "split_by_class"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_metric_can_be_asked_for_judged_and_told(task: Task) -> None:
    for metric in task.metrics.values():
        name = f"{metric.name}[crack]" if metric.of_label else metric.name
        bound = (metric.low + metric.high) / 2
        objective = Objective(name, bound, at_most=not metric.greater_is_better)
        assert task.unmeasurable(objective, COUNTS) == ""
        assert task.shortfall(objective, COUNTS) == ""
        assert task.shortfall(objective, [LabelCount("crack", 60, 0, 60, 0), LabelCount("dent", 60, 0, 60, 0)])
        for right, refuted in ((20, False), (0, True)):
            figures = dict.fromkeys(task.metrics, right / 20)
            checked = task.checked(["crack", "dent"], [right, right], [20, 20], figures, 40)
            assert task.refuted(objective, checked) is refuted
            assert task.test_sentence(checked).endswith(".")
        assert "40" in task.validation_sentence(objective, 0.5, 40)
        assert metric.summary and metric.low < metric.high


@pytest.mark.parametrize(
    ("metric", "counts", "task"),
    [
        ("", [LabelCount("crack", 60, 20), LabelCount("dent", 60, 20)], "classification"),
        ("", [LabelCount("crack", 0, 0, 60, 20)], "detection"),
        ("", COUNTS, "classification"),
        ("map50", COUNTS, "detection"),
        ("ap50[crack]", COUNTS, "detection"),
        ("recall[crack]", [LabelCount("crack", 0, 0, 60, 20)], "classification"),
        ("", [], "classification"),
        ("f1", COUNTS, "classification"),
    ],
)
def test_the_task_follows_from_what_there_is_and_what_is_asked(
    metric: str, counts: list[LabelCount], task: str
) -> None:
    assert task_for(metric, "v", counts) is TASKS[task]
