"""What an attempt is asked to do: refused where it cannot be."""

from __future__ import annotations

import pytest

from loupe.errors import InvalidArgument
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
        {"max_seconds": 0.0},
        {"max_epochs": -1},
    ],
)
def test_a_spec_that_cannot_be_is_refused(changes: dict) -> None:
    with pytest.raises(InvalidArgument):
        spec(**changes)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(spec())
