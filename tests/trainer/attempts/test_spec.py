"""What an attempt is asked to do: refused where it cannot be."""

from __future__ import annotations

import pytest

from loupe.errors import InvalidArgument
from loupe.trainer.v1 import attempt_pb2
from services.trainer.attempts.messages import unpack_spec
from tests.trainer.fakes import spec


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_version": "projects/other/datasets/screws/versions/1"},
        {"dataset_version": "projects/line-7/datasets/../versions/1"},
        {"algorithm_digest": "../../etc"},
        {"target_accuracy": 0.0},
        {"target_accuracy": 1.1},
        {"target_accuracy": float("nan")},
        {"target_metric": "f1"},
        {"max_seconds": 0.0},
        {"max_epochs": -1},
    ],
)
def test_a_spec_that_cannot_be_is_refused(changes: dict) -> None:
    with pytest.raises(InvalidArgument):
        spec(**changes)


def test_a_metric_is_accuracy_unless_another_is_asked_for() -> None:
    """Also where an older scheduler asks, which knows no other."""
    asked = attempt_pb2.AttemptSpec(
        key={"job": "projects/line-7/jobs/j1", "attempt": 1},
        dataset_version="projects/line-7/datasets/screws/versions/1",
        algorithm_version="algorithms/finetune/versions/1.0.0",
        algorithm_digest="a" * 64,
        target_accuracy=0.9,
    )
    assert unpack_spec(asked).target_metric == "accuracy"
    asked.target_metric = "lowest_recall"
    assert unpack_spec(asked).target_metric == "lowest_recall"
    asked.target_metric = "f1"
    with pytest.raises(InvalidArgument, match=r"spec\.target_metric is 'f1'"):
        unpack_spec(asked)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(spec())
