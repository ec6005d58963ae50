"""The image `inference`: it answers as the model's own run did, for every task, and hands nothing else over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.algorithm.context import Context, run_image
from loupe.algorithm.evaluation import evaluate_answers
from loupe.algorithm.host import Outcome
from loupe.algorithm.local import LocalHost, PictureFolder, local_spec
from loupe.algorithm.manifest import read_manifest, resolve_parameters
from loupe.job_kinds import JobKind
from loupe.tasks import TASKS
from loupe.tasks.average_precision import Regions, evaluate
from loupe.tasks.objective import Objective
from tests.algorithms.conftest import IMAGES, Bench, Recorder, RecordingHost
from tests.algorithms.test_detection import ByColour, host_of, scenes  # noqa: F401 - a fixture

INFERENCE = IMAGES / "inference"


def answered(
    folder: PictureFolder,
    model: Mapping[str, Path],
    tmp_path: Path,
    task: str,
    *,
    kind: JobKind = JobKind.EVALUATE,
    recorder: Recorder | None = None,
) -> LocalHost:
    """Run the image over all pictures of a folder with a model's files, and return its host."""
    given = {"model_onnx": "a" * 64, "model_json": "b" * 64, "batch": 7}
    parameters = resolve_parameters(read_manifest(INFERENCE), given)
    spec = local_spec(folder, parameters, Objective("", 0.0))
    host = RecordingHost(recorder or Recorder(), folder, spec, work=tmp_path / "answers", cache=tmp_path / "cache")
    files = {"model_onnx": model["model.onnx"], "model_json": model["model.json"]}
    host._spec = replace(host.spec(), kind=kind, task=task, weights=files)
    run_image(INFERENCE, host)
    return host


def found_of(host: LocalHost) -> Regions:
    assert host.result is not None and host.result.outcome is Outcome.DONE and not host.result.artifacts
    assert host.answers is not None and host.answers.scores is not None
    return host.answers


def test_a_classifier_answers_as_in_its_own_test(bench: Bench, textures: PictureFolder, tmp_path: Path) -> None:
    """Progress tells of every picture."""
    trained = bench.run("scratch", textures, target=0.3, parameters={"size": 32}, max_epochs=1)
    recorder = Recorder()
    host = answered(textures, trained.artifacts, tmp_path, "classification", recorder=recorder)
    found, test = found_of(host), np.flatnonzero(textures.splits == 2)
    assert np.array_equal(found.pictures, np.arange(60)) and (found.boxes == (0, 0, 1, 1)).all()
    figures = evaluate_answers(found.classes[test], textures.classes[test], textures.labels)
    assert figures == {name: trained.report["test"][name] for name in figures}
    assert (recorder.reports[-1].phase, recorder.reports[-1].step, recorder.reports[-1].total_steps) == (
        "predict",
        60,
        60,
    )


def test_an_inspector_answers_by_its_own_threshold(bench: Bench, textures: PictureFolder, tmp_path: Path) -> None:
    asked = {"size": 64, "patches": 100, "good": "stripes", "false_alarms": 0.25}
    trained = bench.run("anomaly", textures, target=0.97, metric="auroc", parameters=asked)
    found = found_of(answered(textures, trained.artifacts, tmp_path, "anomaly"))
    bad = found.scores > trained.report["threshold"]["value"]  # type: ignore[operator]  # there are scores
    assert np.array_equal(found.classes == 1, bad) and 0 < bad.sum() < len(bad)


def test_a_detector_answers_with_all_boxes_or_with_the_sure_ones(
    scenes: PictureFolder,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    """All of them where their precision is measured; where they are to be used, those that the model tells of."""
    host = host_of(scenes, tmp_path)
    context = Context(host, TASKS["detection"])
    context.finish_detector(ByColour(4.0), size=64, architecture="by hand", outcome=Outcome.PLATEAU)
    assert host.result is not None
    model, test = host.result.artifacts, np.flatnonzero(scenes.splits == 2)
    every = found_of(answered(scenes, model, tmp_path, "detection"))
    figures = evaluate(scenes.regions.of(test), every.of(test), len(test), scenes.labels)
    assert figures == host.result.report["test"]
    sure = found_of(answered(scenes, model, tmp_path, "detection", kind=JobKind.PREDICT))
    least = json.loads(model["model.json"].read_text())["min_confidence"]
    assert 0 < len(sure) < len(every) and sure.scores.min() >= least  # type: ignore[union-attr]  # there are scores


def test_a_model_that_is_another_than_the_library_says_is_not_run(
    bench: Bench, textures: PictureFolder, tmp_path: Path
) -> None:
    trained = bench.run("scratch", textures, target=0.3, parameters={"size": 32}, max_epochs=1)
    with pytest.raises(ValueError, match="another task, or other classes"):
        answered(
            replace(textures, labels=["stripes", "checks", "blobs"][::-1]), trained.artifacts, tmp_path, "detection"
        )


def test_a_run_that_is_asked_to_stop_hands_no_answers_over(
    bench: Bench, textures: PictureFolder, tmp_path: Path
) -> None:
    trained = bench.run("scratch", textures, target=0.3, parameters={"size": 32}, max_epochs=1)
    recorder = Recorder(stop_after=lambda progress: progress.phase == "predict")
    recorder.stopping = True
    host = answered(textures, trained.artifacts, tmp_path, "classification", recorder=recorder)
    assert host.result is not None and host.result.outcome is Outcome.STOPPED and host.answers is None
