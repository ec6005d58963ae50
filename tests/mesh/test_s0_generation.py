"""S0, the generation system: each row of the mission, through the running mesh and a real terminal."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loupe.errors import BadCredentials, BadParameter, InvalidArgument, NotFound, PermissionDenied
from loupe.names import AccountName
from loupe.scheduler.v1 import training_job_pb2
from loupe.storage.v1 import dataset_pb2
from loupe.terminal.classifier import Classifier
from tests.mesh.conftest import BLOTS, OpenTerminal, Trained, push, train


async def test_s0_1_storage_checks_every_upload_against_the_groups_permission_parameter(
    terminal: OpenTerminal, hire: Callable, project: str, pictures: Path
) -> None:
    """Below the threshold the upload is refused, naming group, parameter and threshold; at it, it is taken."""
    viewer, operator = await hire("viewers"), await hire("operators")
    async with terminal(viewer) as eyes:
        with pytest.raises(PermissionDenied) as caught:
            await push(eyes, project, pictures)
    assert caught.value.metadata["group"] == f"{project}/groups/viewers"
    assert (caught.value.metadata["parameter"], caught.value.metadata["threshold"]) == ("10", "20")
    async with terminal(operator) as hands:
        assert (await push(hands, project, pictures)).picture_count == 120
    async with terminal() as administrator:
        await administrator.groups.set_parameter(f"{project}/groups/viewers", 20)
    async with terminal(viewer) as eyes:
        assert (await push(eyes, project, pictures)).picture_count == 120, "the adjusted parameter is the threshold"


def test_s0_2_pictures_and_labels_become_a_data_set_which_the_trainers_get(trained: Trained) -> None:
    """The version holds every picture with its label in one split, and the run's report counts the same pictures."""
    assert {item.label for item in trained.items} == {"across", "along", BLOTS}
    assert all(item.split in (1, 2, 3) and len(item.digest) == 64 for item in trained.items)
    by_split = [sum(item.split == split for item in trained.items) for split in (1, 2, 3)]
    assert sum(by_split) == 120
    assert trained.job.result.metrics.test_pictures == by_split[2]


async def test_s0_3_a_request_becomes_parameters_an_algorithm_image_and_candidate_clusters(
    terminal: OpenTerminal, trained: Trained
) -> None:
    """The accepted job names the resolved image and all parameters; wrong ones are refused before anything runs."""
    async with terminal() as owner:
        wrong: dict[str, Any]
        for wrong, error in (
            ({"parameters": {"no_such_parameter": 1}}, BadParameter),
            ({"target": 1.5}, InvalidArgument),
            ({"algorithm_version": "algorithms/nothing/versions/latest"}, NotFound),
        ):
            with pytest.raises(error):
                await owner.jobs.submit(trained.version.name, **({"target": 0.9} | wrong))
    job = trained.job
    assert job.algorithm_version.startswith("algorithms/finetune/versions/")
    assert not job.algorithm_version.endswith("latest")
    assert len(job.parameters) > 0
    assert {entry.cluster for entry in trained.placement.considered} == {"clusters/north", "clusters/south"}
    assert trained.placement.trainer == job.trainer


def test_s0_4_running_the_algorithm_image_makes_the_model(trained: Trained) -> None:
    """The model stands in the library with its lineage and its files."""
    model, job = trained.model, trained.job
    assert model.name == f"{trained.project}/models/textures/versions/1"
    assert (model.lineage.job, model.lineage.dataset_version) == (job.name, trained.version.name)
    assert (model.lineage.algorithm_version, model.lineage.trainer) == (job.algorithm_version, job.trainer)
    assert list(model.labels) == ["across", "along", BLOTS]
    assert {"model.onnx", "model.safetensors", "model.json"} <= {file.filename for file in model.files}


async def test_s0_4_another_algorithm_image_makes_another_model(terminal: OpenTerminal, trained: Trained) -> None:
    """The image that is asked for is the one that runs: a network from scratch, with its own parameters."""
    async with terminal() as owner:
        job, _ = await train(
            owner,
            trained.version.name,
            algorithm_version="algorithms/scratch/versions/latest",
            parameters={"size": 32},
            max_epochs=1,
            target=0.3,
        )
    assert job.algorithm_version.startswith("algorithms/scratch/versions/")
    assert job.result.model_version


async def test_s0_4_training_goes_on_from_a_model_that_there_is(terminal: OpenTerminal, trained: Trained) -> None:
    """Its weights are those that the sandbox gets, and the new model says where it comes from."""
    async with terminal() as owner:
        job, _ = await train(owner, trained.version.name, base_model=trained.model.name, target=0.5)
        model = await owner.models.version(job.result.model_version)
    assert job.base_model == model.lineage.base_model == trained.model.name
    weights = next(file.digest for file in trained.model.files if file.filename == "model.safetensors")
    assert job.parameters["weights"] == weights
    assert json.loads(job.result.report_json)["notes"]["weights"].startswith("uploaded file weights")


def test_s0_5_training_is_done_when_the_accuracy_reaches_the_threshold(trained: Trained) -> None:
    """Accuracy is tested after each round; the job ends at the first round at or above the target."""
    tested = [
        event.progress.metrics["validation_accuracy"]
        for event in trained.events
        if event.WhichOneof("event") == "progress" and "validation_accuracy" in event.progress.metrics
    ]
    assert tested
    assert max(tested) >= 0.9
    assert trained.job.state == training_job_pb2.JOB_STATE_SUCCEEDED
    assert trained.job.result.outcome == "target_reached"
    assert trained.job.result.metrics.validation_accuracy >= 0.9


async def test_s0_5_a_target_that_cannot_be_reached_ends_with_a_verdict(
    terminal: OpenTerminal, project: str, tmp_path: Path, pictures: Path
) -> None:
    """Labels that are noise: the job ends below the target, says why, and its model is kept but not released."""
    mixed = tmp_path / "mixed"
    for number, picture in enumerate(sorted((pictures / BLOTS).iterdir())):
        target = mixed / ("left" if number % 2 else "right")
        target.mkdir(parents=True, exist_ok=True)
        (target / picture.name).write_bytes(picture.read_bytes())
    async with terminal() as owner:
        version = await push(owner, project, mixed)
        job, _ = await train(owner, version.name, target=1.0, max_minutes=0.2)
        model = await owner.models.version(job.result.model_version)
    assert job.state == training_job_pb2.JOB_STATE_TARGET_MISSED
    assert job.result.outcome in ("plateau", "budget")
    assert job.result.verdict
    assert not model.released


async def test_s0_6_clusters_below_the_load_threshold_are_candidates(terminal: OpenTerminal, trained: Trained) -> None:
    """The clusters' loads come from the trainers' heartbeats; a cluster at or above the threshold is passed over."""
    async with terminal() as owner:
        listed = await owner.clusters.list()
    assert [cluster.name for cluster in listed.clusters] == ["clusters/north", "clusters/south"]
    assert all(cluster.trainers[0].slots == 1 for cluster in listed.clusters)
    for entry in trained.placement.considered:
        below = entry.load < trained.placement.load_threshold
        assert entry.candidate == (below and entry.free_slots > 0), entry.explanation
        assert entry.explanation
    assert sum(entry.chosen for entry in trained.placement.considered) == 1
    assert all(entry.candidate for entry in trained.placement.considered if entry.chosen)


def test_s0_7_the_model_goes_to_the_terminal_which_classifies_with_it(trained: Trained, pictures: Path) -> None:
    """The pulled model answers held-out pictures as well on the terminal as the report says."""
    held_out = [item for item in trained.items if item.split == dataset_pb2.SPLIT_TEST]
    answers = list(Classifier(trained.folder).classify([pictures / item.filename for item in held_out]))
    right = sum(answer.label == item.label for answer, item in zip(answers, held_out, strict=True))
    assert right / len(held_out) == pytest.approx(trained.job.result.metrics.test_accuracy, abs=1e-6)


async def test_s0_8_accounts_land_in_groups_whose_parameter_can_be_adjusted(
    terminal: OpenTerminal, hire: Callable, project: str
) -> None:
    """A new account lands in its group; who may not create accounts or raise parameters is refused."""
    operator = await hire("operators")
    async with terminal(operator) as hands:
        assert list((await hands.sessions.who_am_i()).groups) == [f"{project}/groups/operators"]
        with pytest.raises(PermissionDenied):
            await hands.accounts.create(f"a{secrets.token_hex(4)}", "long-enough-1", f"{project}/groups/viewers")
        with pytest.raises(PermissionDenied):
            await hands.groups.set_parameter(f"{project}/groups/operators", 40)
        with pytest.raises(BadCredentials):
            await hands.sessions.login(AccountName(operator), "wrong password")
    async with terminal() as administrator:
        changed = await administrator.groups.set_parameter(f"{project}/groups/operators", 25)
    assert changed.permission_parameter == 25


async def test_another_projects_things_look_like_nothing(
    terminal: OpenTerminal, hire: Callable, project: str, trained: Trained
) -> None:
    """Who is in no group of a project cannot tell its resources from ones that do not exist."""
    async with terminal() as owner:
        with pytest.raises(NotFound):  # the owner of both projects may not mix them either
            await owner.jobs.submit(trained.version.name.replace(trained.project, project), target=0.9)
    async with terminal(await hire("owners")) as outsider:
        for call, name in (
            (outsider.datasets.version, trained.version.name),
            (outsider.jobs.get, trained.job.name),
            (outsider.models.version, trained.model.name),
            (outsider.projects.get, trained.project),
        ):
            with pytest.raises(NotFound) as hidden:
                await call(name)
            absent = name.replace(trained.project, "projects/nowhere")
            with pytest.raises(NotFound) as missing:
                await call(absent)
            assert hidden.value.message.replace(name, "X") == missing.value.message.replace(absent, "X")
