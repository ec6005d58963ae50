"""The heartbeat: what it says of the trainer, and what it reads of the GPUs."""

from __future__ import annotations

import pytest

from loupe.load import GpuLoad, RunningAttempt, TrainerLoad, key_of
from loupe.names import TrainerName
from services.trainer.attempts.spec import AttemptKey
from services.trainer.heartbeat.heartbeat import Heartbeat, parse_gpus
from services.trainer.sandbox.slots import SlotCounts

NAME = TrainerName("hall-a", "t1")
KEY = key_of(NAME)


def test_the_heartbeat_reports_what_its_reader_takes() -> None:
    """Two reports of one process: same incarnation, counted beats, the slots and attempts as they are."""
    heartbeat = Heartbeat(
        NAME,
        "a" * 32,
        sandboxed=False,
        counts=lambda: SlotCounts(2, 1, 1),
        running=lambda: [AttemptKey("projects/line-7/jobs/j1", 3)],
        milliseconds=lambda: 12345,
    )
    first, second = (TrainerLoad.from_json(KEY, heartbeat.report().to_json()) for _ in range(2))
    assert (first.beat, second.beat, first.incarnation) == (1, 2, "a" * 32)
    assert (second.slots, second.busy_slots, second.warm_slots, second.sandboxed) == (2, 1, 1, False)
    assert second.attempts == (RunningAttempt("projects/line-7/jobs/j1", 3),)
    assert second.at_ms == 12345 and 0 < second.memory_use < 1


def test_gpus_are_read_from_the_drivers_tool() -> None:
    assert parse_gpus("35, 1024, 81559\n0, 0, 81559\n") == (
        GpuLoad(0.35, 1 << 30, 81559 << 20),
        GpuLoad(0.0, 0, 81559 << 20),
    )
    assert parse_gpus("") == ()
    with pytest.raises(ValueError):
        parse_gpus("[N/A], 0, 1")
