"""What an attempt is asked to do: refused where it cannot be."""

from __future__ import annotations

import pytest

from loupe.errors import InvalidArgument
from loupe.tasks.objective import Objective
from loupe.trainer.v1 import attempt_pb2
from services.trainer.attempts.messages import unpack_spec
from tests.trainer.fakes import spec


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_version": "projects/other/datasets/screws/versions/1"},
        {"dataset_version": "projects/line-7/datasets/../versions/1"},
        {"algorithm_digest": "../../etc"},
        {"max_seconds": 0.0},
        {"max_epochs": -1},
    ],
)
def test_a_spec_that_cannot_be_is_refused(changes: dict) -> None:
    with pytest.raises(InvalidArgument):
        spec(**changes)


def test_an_objective_comes_whole_or_is_missed() -> None:
    """Of which metric it may be, the task's table says where the job is submitted."""
    asked = attempt_pb2.AttemptSpec(
        key={"job": "projects/line-7/jobs/j1", "attempt": 1},
        dataset_version="projects/line-7/datasets/screws/versions/1",
        algorithm_version="algorithms/finetune/versions/1.0.0",
        algorithm_digest="a" * 64,
        objective={"metric": "recall[crack]", "at_least": 0.9},
    )
    assert unpack_spec(asked).objective == Objective("recall[crack]", 0.9)
    asked.objective.at_most = 0.1
    assert unpack_spec(asked).objective == Objective("recall[crack]", 0.1, at_most=True)
    asked.ClearField("objective")
    with pytest.raises(InvalidArgument, match=r"spec\.objective.*at_least or at_most"):
        unpack_spec(asked)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(spec())
