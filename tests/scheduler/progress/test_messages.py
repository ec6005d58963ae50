"""An event cut to its essentials is small and still says what happened."""

from __future__ import annotations

from typing import Any

import pytest

from loupe.scheduler.v1 import cluster_pb2
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from services.scheduler.progress.messages import essentials

HUGE = "x" * 600_000
WHO: dict[str, Any] = {"job": "projects/p/jobs/j", "attempt": 2, "sequence": 7}


def cut_of(event: JobEvent) -> JobEvent:
    body = essentials(event.SerializeToString())
    assert body is not None
    return JobEvent.FromString(body)


@pytest.mark.parametrize(
    "content",
    [
        {
            "state_change": {
                "state": 6,
                "message": HUGE,
                "result": {"outcome": HUGE, "verdict": HUGE, "report_json": HUGE},
            }
        },
        {"state_change": {"state": 7, "message": HUGE, "failure": {"reason": HUGE, "message": HUGE}}},
        {"progress": {"phase": HUGE, "epoch": 3, "metrics": {HUGE: 1.0}, "message": HUGE}},
        {"log": HUGE},
        {"placement": {"trainer": "clusters/n/trainers/a", "summary": HUGE, "considered": [{"explanation": HUGE}] * 9}},
        {"placement": {"considered": [{"explanation": HUGE, "chosen": True}, {"explanation": HUGE}]}},
        {},
    ],
)
def test_what_happened_stays(content: dict[str, Any]) -> None:
    """Kind, state, who and when; of the texts a beginning."""
    event = JobEvent(**WHO, time={"seconds": 1_000}, **content)
    cut = cut_of(event)
    assert cut.ByteSize() < 5_000
    assert (cut.job, cut.attempt, cut.sequence, cut.time) == (event.job, 2, 7, event.time)
    assert cut.WhichOneof("event") == event.WhichOneof("event")
    assert cut.state_change.state == event.state_change.state
    assert cut.state_change.HasField("result") == event.state_change.HasField("result")
    assert cut.placement.trainer == event.placement.trainer and cut.progress.epoch == event.progress.epoch


def test_what_is_short_stays_whole() -> None:
    """But for the report."""
    result = {"outcome": "plateau", "model_version": "m", "verdict": "v", "metrics": {"test_accuracy": 0.5}}
    chosen = cluster_pb2.ConsideredCluster(cluster="clusters/n", chosen=True, explanation="load 0.1")
    contents: tuple[dict[str, Any], ...] = (
        {"state_change": {"state": 6, "message": "m", "result": result}},
        {"state_change": {"state": 7, "message": "m", "failure": {"reason": "INTERNAL", "message": "m"}}},
        {"log": "l"},
        {"placement": {"trainer": "t", "summary": "s", "load_threshold": 0.9, "considered": [chosen]}},
    )
    for content in contents:
        event = JobEvent(**WHO, time={"seconds": 1_000}, **content)
        assert cut_of(event) == event


def test_what_is_no_event_has_no_essentials() -> None:
    """None, instead of an error that would stop everything."""
    assert essentials(b"\xff\xff\xff") is None
