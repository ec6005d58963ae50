"""Load reports: what a trainer writes, and what a reader refuses."""

from __future__ import annotations

import json

import pytest

from loupe.load import BadLoad, GpuLoad, RunningAttempt, TrainerLoad, key_of, load_fraction
from loupe.names import TrainerName

NAME = TrainerName("hall-a", "t1")
KEY = key_of(NAME)
LOAD = TrainerLoad(
    name=str(NAME),
    incarnation="0123456789abcdef",
    beat=7,
    at_ms=1_700_000_000_000,
    cpu_use=0.25,
    memory_used=1 << 30,
    memory_total=4 << 30,
    slots=4,
    busy_slots=2,
    warm_slots=1,
    sandboxed=True,
    gpus=(GpuLoad(0.1, 1 << 30, 2 << 30),),
    attempts=(RunningAttempt("projects/line-7/jobs/j1", 2),),
)


def test_a_report_reads_as_it_was_written() -> None:
    assert TrainerLoad.from_json(KEY, LOAD.to_json()) == LOAD


def test_load_is_the_largest_use() -> None:
    """Busy slots count by their share, a GPU by computing or memory, whichever is more."""
    assert load_fraction(LOAD) == 0.5
    changed = TrainerLoad(**{**vars(LOAD), "gpus": (GpuLoad(0.9, 0, 1),), "busy_slots": 0})
    assert load_fraction(changed) == 0.9
    assert load_fraction(TrainerLoad(**{**vars(LOAD), "cpu_use": 1.0})) == 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "clusters/hall-b/trainers/t1"},
        {"name": "t1"},
        {"name": 5},
        {"incarnation": ""},
        {"incarnation": "x" * 100},
        {"incarnation": "../../../x"},
        {"beat": 0},
        {"beat": True},
        {"beat": "7"},
        {"at_ms": -1},
        {"at_ms": 1.5},
        {"cpu_use": -0.1},
        {"cpu_use": 1.1},
        {"cpu_use": float("nan")},
        {"cpu_use": float("inf")},
        {"cpu_use": None},
        {"cpu_use": True},
        {"memory_total": 0},
        {"memory_used": 5 << 30},
        {"slots": 0},
        {"slots": 1 << 20},
        {"busy_slots": 5},
        {"busy_slots": -1},
        {"warm_slots": 9},
        {"sandboxed": "yes"},
        {"gpus": {}},
        {"gpus": [{"use": 2, "memory_used": 0, "memory_total": 1}]},
        {"gpus": [{"use": 0.5}]},
        {"attempts": [{"job": "j1", "attempt": 1}]},
        {"attempts": [{"job": "projects/line-7/jobs/j1", "attempt": 0}]},
        {"attempts": [{"job": "projects/line-7/jobs/j1", "attempt": 1, "more": 1}]},
        {"more": 1},
    ],
)
def test_a_malformed_report_is_refused(changes: dict) -> None:
    table = json.loads(LOAD.to_json()) | changes
    with pytest.raises(BadLoad):
        TrainerLoad.from_json(KEY, json.dumps(table).encode())


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"\xff", b"{", b"[" * 100_000, b" " * 100_000, b'{"name": 1}'])
def test_what_is_no_report_is_refused(data: bytes) -> None:
    with pytest.raises(BadLoad):
        TrainerLoad.from_json(KEY, data)


def test_a_missing_field_is_refused() -> None:
    for name in json.loads(LOAD.to_json()):
        table = json.loads(LOAD.to_json())
        del table[name]
        with pytest.raises(BadLoad):
            TrainerLoad.from_json(KEY, json.dumps(table).encode())


def test_a_trainer_may_report_under_its_own_key_only() -> None:
    with pytest.raises(BadLoad, match="may not report"):
        TrainerLoad.from_json("loupe/trainers/hall-b/t1", LOAD.to_json())
