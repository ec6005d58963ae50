"""Jobs that train nothing, through the running mesh: a model is measured, and answers what nobody labelled."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from loupe.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from loupe.job_kinds import PictureSelection
from loupe.names import DatasetVersionName
from loupe.scheduler.v1 import training_job_pb2
from loupe.terminal.client import Terminal
from loupe.terminal.predictions import fetch_predictions, parse_predictions, take_over
from tests.mesh.conftest import OpenTerminal, Trained


async def ended(terminal: Terminal, job: training_job_pb2.TrainingJob) -> training_job_pb2.TrainingJob:
    """ended follows a job to its end and returns it as it is then."""
    async for _ in terminal.jobs.watch(job.name):
        pass
    return await terminal.jobs.get(job.name)


async def test_an_evaluation_gives_the_very_figures_of_the_models_own_test(
    terminal: OpenTerminal, trained: Trained
) -> None:
    """It makes no model; a rerun of it is one, too."""
    async with terminal() as owner:
        job = await ended(owner, await owner.jobs.evaluate(trained.model.name, trained.version.name))
        models = [one async for one in owner.models.versions(f"{trained.project}/models/textures")]
        again = await owner.jobs.rerun(job.name, priority=1)
        await owner.jobs.cancel(again.name)
    assert job.state == training_job_pb2.JOB_STATE_SUCCEEDED, job
    assert dict(job.result.evaluation.figures) == dict(trained.model.metrics.test)
    assert job.result.evaluation.picture_count == trained.model.metrics.test_pictures
    report, own = json.loads(job.result.report_json), json.loads(trained.job.result.report_json)["test"]
    said = report["evaluation"]
    assert said.pop("calibration_error") == pytest.approx(own["calibration_error"], abs=1e-6)
    assert {name: own[name] for name in said} == said
    assert [one.name for one in models] == [trained.model.name] and not job.result.model_version
    assert (again.kind, again.pictures, again.base_model) == (job.kind, job.pictures, job.base_model)


async def test_what_a_model_says_of_unlabelled_pictures_is_taken_over_by_a_person(
    terminal: OpenTerminal, trained: Trained
) -> None:
    """The labels of some pictures are taken away; what the model says of them stands in no version until then."""
    named = DatasetVersionName.parse(trained.version.name)
    labels = {item.digest: item.label for item in trained.items[:12]}
    async with terminal() as owner:
        with pytest.raises(FailedPrecondition, match="no unlabelled pictures"):
            await owner.jobs.predict(trained.model.name, trained.version.name)
        bare = (await owner.datasets.change(named, relabelled=dict.fromkeys(labels, ""), force=True)).dataset_version
        job = await ended(owner, await owner.jobs.predict(trained.model.name, bare.name))
        predicted = list(parse_predictions(job, await fetch_predictions(owner.datasets, job)))
        items = [item async for item in owner.datasets.items(bare.name)]
        taken = take_over(iter(predicted), items, 0.5)
        made = await owner.datasets.change(DatasetVersionName.parse(bare.name), relabelled=taken.relabelled)
    assert (job.state, job.result.predictions.picture_count) == (training_job_pb2.JOB_STATE_SUCCEEDED, 12)
    assert {each.picture for each in predicted} == set(labels)
    assert sum(labels[each.picture] == each.label for each in predicted) >= 10
    assert (bare.unlabelled_count, made.dataset_version.unlabelled_count) == (12, 12 - len(taken.relabelled))


async def test_who_may_ask_and_what_cannot_be_asked(terminal: OpenTerminal, trained: Trained, hire: Callable) -> None:
    """An operator, who submits no jobs, measures no models; what is refused says what would be right."""
    model, version = trained.model.name, trained.version.name
    async with terminal(await hire("operators", trained.project)) as hands:
        with pytest.raises(PermissionDenied, match=r"jobs\.submit"):
            await hands.jobs.evaluate(model, version)
    async with terminal() as owner:
        with pytest.raises(InvalidArgument, match="an image that can evaluate"):
            await owner.jobs.evaluate(model, version, algorithm_version="algorithms/finetune/versions/latest")
        with pytest.raises(InvalidArgument, match=r"training_job\.pictures"):
            await owner.jobs.evaluate(model, version, pictures=PictureSelection.UNLABELLED)
        with pytest.raises(NotFound):
            await owner.jobs.evaluate(f"{model}9", version)
