"""The tasks: the kinds of questions that models answer. A new one is a module here and a row of this table."""

from __future__ import annotations

from collections.abc import Mapping

from loupe.tasks.classification import Classification
from loupe.tasks.task import Task

_ALL: tuple[Task, ...] = (Classification(),)

TASKS: Mapping[str, Task] = {each.name: each for each in _ALL}
"""Every task by its name."""

DEFAULT = _ALL[0]
"""The task of what names none."""
