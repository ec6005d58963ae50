"""Detection: what a version must have, what its boxes prove, and average precision as COCO counts it."""

from __future__ import annotations

import numpy as np
import pytest

from loupe.tasks import TASKS
from loupe.tasks.average_precision import MAX_DETECTIONS, Regions, checked, evaluate
from loupe.tasks.objective import Objective
from loupe.tasks.task import LabelCount, UnfitVersion

DETECTION = TASKS["detection"]
LABELS = ["dent", "scratch", "rust"]
BOXES = np.array([[0.1, 0.1, 0.3, 0.3], [0.5, 0.5, 0.9, 0.8], [0.2, 0.2, 0.6, 0.6]], dtype=np.float32)
TRUTH = Regions(np.array([0, 0, 1]), np.array([0, 1, 0]), BOXES)


def said(boxes: np.ndarray, scores: list[float]) -> Regions:
    return Regions(TRUTH.pictures, TRUTH.classes, boxes, np.array(scores, dtype=np.float32))


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ([LabelCount("dent", 60, 20)], "no_training_regions"),
        ([LabelCount("dent", 0, 0, 0, 5)], "no_training_regions"),
        ([LabelCount("dent", 0, 0, 5, 0)], "no_validation_regions"),
    ],
)
def test_there_must_be_boxes_to_learn_from_and_to_decide_by(counts: list[LabelCount], problem: str) -> None:
    with pytest.raises(UnfitVersion) as caught:
        DETECTION.check_version("v", counts)
    assert caught.value.problem == problem


def test_one_class_is_enough() -> None:
    DETECTION.check_version("v", [LabelCount("dent", 0, 0, 1, 1)])


def test_boxes_are_what_a_release_rests_on() -> None:
    counts = [LabelCount("dent", 0, 0, 60, 3), LabelCount("good", 500, 500)]
    assert DETECTION.shortfall(Objective("ap50[dent]", 0.9), counts) == (
        "an AP50 of 90.00 % of dent needs at least 16 boxes in validation pictures of that class, and there are 3: "
        "13 more"
    )
    assert DETECTION.shortfall(Objective("map50", 0.9), counts).endswith("of each class: 13 more of dent")
    assert "dent" in DETECTION.unmeasurable(Objective("ap50[dint]", 0.9), counts)


def test_boxes_that_are_all_right_have_a_precision_of_1() -> None:
    figures = evaluate(TRUTH, said(BOXES, [0.9, 0.8, 0.7]), 3, LABELS)
    assert (figures["map50"], figures["map"]) == (pytest.approx(1), pytest.approx(1))
    assert (figures["pictures"], figures["regions"], figures["worst_classes"]) == (3, 3, [])
    assert figures["per_class"][2] == {"label": "rust", "ap50": 0.0, "ap": 0.0, "regions": 0}


def test_a_box_beside_is_wrong_and_one_that_is_missing_too() -> None:
    """Of two dents one is found, after a wrong one that is surer: precision 1/2 up to a recall of 1/2."""
    moved = BOXES.copy()
    moved[0] += 0.3
    figures = evaluate(TRUTH, said(moved, [0.9, 0.8, 0.7]), 2, LABELS)
    assert figures["per_class"][0]["ap50"] == pytest.approx(0.5 * 51 / 101, abs=1e-6)
    assert figures["map50"] == pytest.approx((0.5 * 51 / 101 + 1) / 2, abs=1e-6)
    assert figures["worst_classes"] == ["dent"]


def test_loose_boxes_are_right_by_map50_alone() -> None:
    loose = BOXES + np.array([0, 0, 0.06, 0], dtype=np.float32)
    figures = evaluate(TRUTH, said(loose, [0.9, 0.8, 0.7]), 2, LABELS)
    assert figures["map50"] == pytest.approx(1) and figures["map"] < 0.9


def test_only_the_surest_boxes_of_a_picture_count() -> None:
    """Whoever says everything is not found to be right: the true box is the one after MAX_DETECTIONS wrong ones."""
    many = np.tile(np.array([[0.8, 0.05, 0.9, 0.1]], dtype=np.float32), (MAX_DETECTIONS, 1))
    found = Regions(
        np.zeros(MAX_DETECTIONS + 1, dtype=np.int64),
        np.zeros(MAX_DETECTIONS + 1, dtype=np.int64),
        np.concatenate([many, BOXES[:1]]),
        np.linspace(0.9, 0.1, MAX_DETECTIONS + 1, dtype=np.float32),
    )
    assert evaluate(TRUTH, found, 2, LABELS)["per_class"][0]["ap50"] == 0


def test_nothing_found_is_0_and_nothing_annotated_cannot_be_measured() -> None:
    nothing = Regions(
        np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    )
    assert evaluate(TRUTH, nothing, 2, LABELS)["map50"] == 0
    with pytest.raises(ValueError, match="no annotation"):
        evaluate(nothing, said(BOXES, [0.9, 0.8, 0.7]), 2, LABELS)


def test_test_pictures_are_counted_by_boxes() -> None:
    counted = checked(evaluate(TRUTH, said(BOXES, [0.9, 0.8, 0.7]), 2, LABELS))
    assert counted.cases == [2, 1, 0] and counted.right == pytest.approx([2, 1, 0])
    assert DETECTION.test_sentence(counted) == "On 2 test pictures with 3 boxes mAP50 is 100.00 % and mAP 100.00 %."


def test_test_pictures_without_boxes_measure_nothing_and_refute_nothing() -> None:
    """The trainer has no figures for them then."""
    counted = DETECTION.checked(LABELS, [0, 0, 0], [0, 0, 0], {}, 7)
    assert DETECTION.test_sentence(counted) == "None of the 7 test pictures has a box: nothing was measured on them."
    assert not any(DETECTION.refuted(Objective(metric, 0.9), counted) for metric in ("map50", "map", "ap50[dent]"))


def test_regions_of_some_pictures_are_numbered_by_their_place() -> None:
    chosen = TRUTH.of(np.array([1, 0]))
    assert chosen.pictures.tolist() == [0, 1, 1] and chosen.classes.tolist() == [0, 0, 1]
    assert len(TRUTH.of(np.array([7]))) == 0
