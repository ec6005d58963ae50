"""Where a job goes: candidates below the threshold, their rank, and the words for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.names import TrainerName
from services.scheduler.clusters.placement import LOAD_STEPS, ClusterState, Requirements, rank_clusters
from tests.scheduler.samples import cluster, trainer

ANY = Requirements()


def test_the_least_loaded_cluster_wins() -> None:
    """Load decides first; all clusters are named, best first."""
    placement = rank_clusters(
        ANY,
        [
            cluster("north", trainer("a", cpu_fraction=0.5, slots=2)),
            cluster("south", trainer("b", "south", cpu_fraction=0.35)),
            cluster("west", trainer("c", "west", cpu_fraction=0.91)),
        ],
        0.8,
    )
    assert placement.trainer == TrainerName("south", "b")
    assert [each.cluster.cluster for each in placement.considered] == ["south", "north", "west"]
    assert [each.chosen for each in placement.considered] == [True, False, False]
    assert placement.considered[0].explanation == "load 0.35 below 0.80, 1 free warm slot"
    assert placement.considered[2].explanation.startswith("passed over: load 0.91 is not below 0.80")
    assert "2 of 3 clusters qualified" in placement.summary


def test_between_like_loads_warm_slots_decide_then_the_name() -> None:
    """A warm slot saves seconds; a few percent of load are noise."""
    cold, warm = trainer("a", warm=0), trainer("b", "south", warm=1)
    assert rank_clusters(ANY, [cluster("north", cold), cluster("south", warm)], 0.8).trainer == warm.name
    colder = trainer("a", warm=0, cpu_fraction=0.32)
    warmer = trainer("b", "south", warm=1, cpu_fraction=0.38)
    assert rank_clusters(ANY, [cluster("north", colder), cluster("south", warmer)], 0.8).trainer == warmer.name
    first, second = trainer("z", "a"), trainer("a", "b")
    assert rank_clusters(ANY, [cluster("b", second), cluster("a", first)], 0.8).trainer == first.name


def test_within_a_cluster_a_warm_trainer_comes_first_then_the_idle_one() -> None:
    """Warm before load, load before name."""
    trainers = (trainer("a", warm=0), trainer("b", cpu_fraction=0.3), trainer("c", cpu_fraction=0.2))
    assert rank_clusters(ANY, [cluster("north", *trainers)], 0.8).trainer == TrainerName("north", "c")


def test_load_is_the_mean_of_the_trainers_and_must_be_below_the_threshold() -> None:
    """Exactly the threshold is not below it."""
    pair = cluster("north", trainer("a", cpu_fraction=1.0), trainer("b", cpu_fraction=0.6))
    assert pair.load == pytest.approx(0.8)
    assert rank_clusters(ANY, [cluster("n", trainer("a", cpu_fraction=0.8))], 0.8).trainer is None
    assert rank_clusters(ANY, [cluster("n", trainer("a", cpu_fraction=0.79))], 0.8).trainer is not None


def test_a_trainers_load_is_its_scarcest_resource() -> None:
    """cpu, memory, gpu or slots, whichever is the worst."""
    assert trainer("a", memory_fraction=0.7).load == 0.7
    assert trainer("a", gpu_fraction=0.6).load == 0.6
    assert trainer("a", slots=4, busy=3).load == 0.75


@pytest.mark.parametrize(
    ("needs", "fields", "obstacle", "words"),
    [
        (ANY, {"busy": 1}, "slot", "no free slot (1 of 1 busy)"),
        (Requirements(built_in=False), {"sandboxed": False}, "sandbox", "no sandbox"),
        (Requirements(gpu="required"), {"gpus": 0}, "gpu", "needs a GPU"),
        (Requirements(min_memory_mb=4096), {"free_memory_mb": 1000}, "memory", "4096 MiB"),
        (ANY, {"avoid": "a job was lost there just now"}, "slot", "a job was lost there just now"),
    ],
)
def test_each_obstacle_passes_a_cluster_over(
    needs: Requirements, fields: dict[str, Any], obstacle: str, words: str
) -> None:
    """And the same trainer without the obstacle is taken."""
    passed = rank_clusters(needs, [cluster("north", trainer("a", **fields))], 0.8)
    assert passed.trainer is None and passed.considered[0].obstacle == obstacle == passed.waits_for
    assert words in passed.considered[0].explanation and words in passed.summary
    able = trainer("a", gpus=1, free_memory_mb=8000)
    assert rank_clusters(needs, [cluster("north", able)], 0.8).trainer == able.name


def test_an_empty_fleet_says_so() -> None:
    """The reason is one sentence for a person."""
    assert rank_clusters(ANY, [], 0.8).summary == "waits: no training cluster is known"


_TRAINERS = st.builds(
    trainer,
    st.sampled_from("abcdef"),
    cpu_fraction=st.floats(0, 1),
    slots=st.integers(1, 4),
    busy=st.integers(0, 5),
    warm=st.integers(0, 4),
    sandboxed=st.booleans(),
    gpus=st.integers(0, 1),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(_TRAINERS, max_size=4), max_size=4),
    st.builds(Requirements, built_in=st.booleans(), gpu=st.sampled_from(["none", "required"])),
)
def test_what_is_chosen_always_qualifies(groups: list[list], needs: Requirements) -> None:
    """Whatever the fleet: the chosen trainer can run the job, and no qualifying cluster has a load a step lower."""
    fleet: list[ClusterState] = [cluster(f"c{index}", *group) for index, group in enumerate(groups)]
    placement = rank_clusters(needs, fleet, 0.8)
    assert len(placement.considered) == len(fleet)
    candidates = [each for each in placement.considered if not each.obstacle]
    assert bool(candidates) == (placement.trainer is not None)
    if placement.trainer is not None:
        chosen = next(each for each in placement.considered if each.chosen)
        assert chosen.load < 0.8 and chosen.load < min(each.load for each in candidates) + 1 / LOAD_STEPS
        state = next(each for each in fleet if each.name == chosen.cluster)
        able = [each for each in state.trainers if each.name == placement.trainer and each.free_slots]
        assert any((needs.built_in or each.sandboxed) and (each.gpus or needs.gpu == "none") for each in able)
