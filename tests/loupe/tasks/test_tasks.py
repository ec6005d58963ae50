"""The table of tasks: what each row promises, and that nobody else branches on a task's name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from loupe.tasks import TASKS
from loupe.tasks.objective import Objective
from loupe.tasks.task import LabelCount, Task

ROOT = Path(__file__).parents[3]
COUNTS = [LabelCount("crack", 60, 20), LabelCount("dent", 60, 20)]


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
def test_every_metric_can_be_asked_for_judged_and_told(task: Task) -> None:
    for metric in task.metrics.values():
        name = f"{metric.name}[crack]" if metric.of_label else metric.name
        bound = (metric.low + metric.high) / 2
        objective = Objective(name, bound, at_most=not metric.greater_is_better)
        assert task.unmeasurable(objective, COUNTS) == ""
        assert task.shortfall(objective, COUNTS) == ""
        assert task.shortfall(objective, [LabelCount("crack", 60, 0), LabelCount("dent", 60, 0)])
        assert not task.refuted(objective, ["crack", "dent"], [20, 20], [20, 20])
        assert task.refuted(objective, ["crack", "dent"], [0, 0], [20, 20])
        assert metric.summary and metric.low < metric.high
