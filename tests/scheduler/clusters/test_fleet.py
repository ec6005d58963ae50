"""What is believed of Consul: fresh reports of registered trainers under their own keys, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from loupe.load import key_of
from loupe.names import TrainerName
from loupe.notifier import Notifier
from services.scheduler.clusters.fleet import Fleet
from tests.scheduler.fakes import FakeAttempt, FakeTrainer, forged_report

A, B = TrainerName("north", "a"), TrainerName("north", "b")


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    made = Fleet(clock, 5.0, Notifier())
    made.locate(A, "h:1")
    made.locate(B, "h:2")
    return made


def fake(name: TrainerName = A, slots: int = 2) -> FakeTrainer:
    return FakeTrainer(name, FakeAttempt.started, slots)


def names(fleet: Fleet) -> list[str]:
    return [trainer.name.trainer for cluster in fleet.clusters() for trainer in cluster.trainers]


def test_a_fresh_report_counts_until_it_is_five_seconds_old(fleet: Fleet, clock: Clock) -> None:
    """By the time of receipt, whatever the trainer's clock says."""
    fleet.observe({key_of(A): forged_report(fake(), at_ms=1)})
    assert names(fleet) == ["a"]
    clock.now += 5.0
    assert names(fleet) == ["a"]
    clock.now += 0.1
    assert names(fleet) == []


def test_an_old_report_does_not_become_fresh_by_being_read_again(fleet: Fleet, clock: Clock) -> None:
    """The same beat, or an earlier one, is not news."""
    trainer = fake()
    older, newer = trainer.report().to_json(), trainer.report().to_json()
    fleet.observe({key_of(A): newer})
    clock.now += 4.0
    fleet.observe({key_of(A): newer})
    fleet.observe({key_of(A): older})
    clock.now += 2.0
    assert names(fleet) == []
    fleet.observe({key_of(A): trainer.report().to_json()})
    assert names(fleet) == ["a"]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"not json",
        b"[]",
        forged_report(fake(B)),
        forged_report(fake(), cpu_use=float("nan")),
        forged_report(fake(), cpu_use=-1),
        forged_report(fake(), busy_slots=-3),
        forged_report(fake(), name="clusters/north/trainers/../b"),
    ],
)
def test_a_forged_or_malformed_report_is_ignored(fleet: Fleet, value: bytes) -> None:
    """Only that one: the others count."""
    fleet.observe({key_of(A): value, key_of(B): fake(B).report().to_json(), "loupe/trainers/x": b"{}"})
    assert names(fleet) == ["b"]


def test_a_trainer_that_is_not_registered_gets_nothing(clock: Clock) -> None:
    """A key alone makes no trainer: Consul must name its address."""
    fleet = Fleet(clock, 5.0, Notifier())
    fleet.observe({key_of(A): fake().report().to_json()})
    assert names(fleet) == [] and fleet.to_locate() == [A]
    fleet.locate(A, "")
    assert names(fleet) == [] and fleet.to_locate() == []
    clock.now += 0.2
    assert fleet.to_locate() == [A]
    fleet.locate(A, "h:1")
    assert names(fleet) == ["a"] and fleet.address(A) == "h:1"


def test_a_trainers_place_is_asked_for_now_and_then_and_at_once_when_it_began_anew(clock: Clock) -> None:
    """Each by the name that it alone may register; of a thousand a few at a time."""
    fleet = Fleet(clock, 5.0, Notifier())
    crowd = [TrainerName("south", f"t{number}") for number in range(100)]
    trainers = {name: fake(name) for name in crowd}
    fleet.observe({key_of(name): trainer.report().to_json() for name, trainer in trainers.items()})
    asked = []
    while some := fleet.to_locate():
        assert len(some) <= 32
        asked += some
        for name in some:
            fleet.locate(name, "h:1")
    assert sorted(map(str, asked)) == sorted(map(str, crowd))
    again = forged_report(trainers[crowd[7]], incarnation="anotherrun", beat=1)
    fleet.observe({key_of(crowd[7]): again})
    assert fleet.to_locate() == [crowd[7]]
    fleet.locate(crowd[7], "h:2")
    assert fleet.address(crowd[7]) == "h:2" and fleet.to_locate() == []
    clock.now += 2.0
    assert fleet.to_locate() == [crowd[7]]


def test_a_report_that_vanished_counts_no_more_but_the_address_stays(fleet: Fleet) -> None:
    """The trainer took its key along; attempts that run there are still followed."""
    fleet.observe({key_of(A): fake().report().to_json()})
    fleet.observe({})
    fleet.locate(A, "")
    assert names(fleet) == [] and fleet.address(A) == "h:1"


def test_what_a_trainer_was_given_counts_as_busy_until_it_reports_it(fleet: Fleet) -> None:
    """Once, not twice."""
    trainer = fake()
    fleet.observe({key_of(A): trainer.report().to_json()})
    fleet.give(A, ("projects/p/jobs/j", 1))
    state = fleet.clusters()[0].trainers[0]
    assert (state.busy, state.warm, state.free_slots) == (1, 1, 1)
    busy = forged_report(trainer, busy_slots=1, attempts=({"job": "projects/p/jobs/j", "attempt": 1},))
    fleet.observe({key_of(A): busy})
    assert fleet.clusters()[0].trainers[0].busy == 1
    fleet.take_back(A, ("projects/p/jobs/j", 1))
    fleet.observe({key_of(A): trainer.report().to_json()})
    assert fleet.clusters()[0].trainers[0].busy == 0


def test_an_avoided_trainer_comes_back(fleet: Fleet, clock: Clock) -> None:
    """It is shown with the reason meanwhile, and has no free slot."""
    trainer = fake()
    fleet.observe({key_of(A): trainer.report().to_json()})
    fleet.avoid(A, 2.0, "it refused a job just now")
    assert fleet.clusters()[0].free_slots == 0
    clock.now += 2.1
    assert fleet.clusters()[0].free_slots == 2


def test_a_report_from_no_time_at_all_has_none(fleet: Fleet) -> None:
    """The year 146,000,000 cannot be told; the trainer counts as ever."""
    fleet.observe({key_of(A): forged_report(fake(), at_ms=1 << 62)})
    assert names(fleet) == ["a"] and fleet.report_time(A) is None
