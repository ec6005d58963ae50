"""Jobs that train nothing: which pictures a run sees, who counts its answers, and what becomes of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loupe.job_kinds import JobKind, PictureSelection
from loupe.tasks.objective import Objective
from services.trainer.attempts.events import Failed, Finished
from services.trainer.attempts.spec import AnsweringModel
from tests.trainer.fakes import Rig

SCREWS = "projects/line-7/datasets/screws/versions/1"
PARTS = "projects/line-7/datasets/parts/versions/1"
BOXES = [(0.25, 0.25, 0.5, 0.75), (0.5, 0.5, 0.75, 1.0), (0.25, 0.0, 0.5, 0.5), None]

RUN = """
import numpy as np
from loupe.algorithm.host import Outcome, Result
from loupe.algorithm.region_file import RECORD, of_records

def whole(*rows):
    records = [(number, kind, (0, 0, 1, 1), score) for number, (kind, score) in enumerate(rows)]
    return of_records(np.array(records, RECORD), scored=True)

def regions(*rows):
    return of_records(np.array(list(rows), RECORD), scored=True)

def train(host):
    data = host.spec().dataset
"""


def code(*lines: str) -> str:
    """Return an image that does these lines."""
    return RUN + "".join(
        f"    {line}\n" for line in (*lines, "host.finish(Result(Outcome.DONE, {}, {'evaluation': 1}))")
    )


async def run(rig: Rig, *lines: str, **changes: Any) -> Any:
    """Run an image with these lines for an evaluation of the test pictures, and return its last event's content."""
    asked = {
        "kind": JobKind.EVALUATE,
        "pictures": PictureSelection.TEST,
        "model": AnsweringModel("classification", ("light", "odd")),
        "objective": Objective("", 0.0),
    }
    return (await rig.run(code(*lines), **(asked | changes)))[-1].what


async def test_a_run_sees_the_pictures_that_are_asked_about_alone_and_none_of_their_labels(plain_rig: Rig) -> None:
    """Pictures 2 and 5 of six are for testing; the model's classes come first, in its order."""
    last = await run(
        plain_rig,
        "host.log(f'{list(data.labels)} {data.classes.tolist()} {data.splits.tolist()} {len(data.digests)}')",
        "host.log(str(np.load(host.pictures(8, 8)).mean(axis=(1, 2, 3)).tolist()))",
        "host.hand_over_answers(whole((0, 0.9), (0, 0.8)))",
    )
    assert isinstance(last, Finished), last
    events = [event.what async for event in plain_rig.attempts.watch(plain_rig.spec("").key, 0)]
    told = [event.text for event in events if hasattr(event, "text")]
    assert told == ["['light', 'odd', 'dark'] [-1, -1] [2, 2] 2", "[30.0, 240.0]"]


async def test_answers_are_counted_by_the_trainer_and_a_class_that_the_model_does_not_know_is_told(
    plain_rig: Rig,
) -> None:
    """Of a dark and a light picture only the light one can be right; the image's own report is left out."""
    last = await run(plain_rig, "host.hand_over_answers(whole((1, 0.6), (0, 0.9)))")
    report = dict(last.report)
    assert (last.outcome, report["unknown_labels"], report["pictures"]) == ("done", ["dark"], "test")
    assert report["labels"] == ["light", "odd", "dark"]
    assert report["evaluation"]["accuracy"] == 0.5
    assert report["evaluation"]["confusion_matrix"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


async def test_predictions_become_a_file_with_a_line_for_each_picture(plain_rig: Rig) -> None:
    changes = {"kind": JobKind.PREDICT, "pictures": PictureSelection.ALL}
    rows = ", ".join(f"({n % 2}, {0.5 + n / 16})" for n in range(6))
    last = await run(plain_rig, f"host.hand_over_answers(whole({rows}))", **changes)
    assert last.report["predictions"] == {"pictures": 6, "counts": {"light": 3, "odd": 3}}
    (file,) = last.artifacts
    lines = [json.loads(line) for line in plain_rig.storage.files[file.digest].splitlines()]
    assert [line["picture"] for line in lines] == list(plain_rig.storage.datasets[SCREWS].digests)
    assert lines[1] == {"picture": lines[1]["picture"], "label": "odd", "confidence": 0.5625}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("pass",), "no answers"),
        (("host.hand_over_answers(whole((0, 0.9)))",), "1 answers for 2 pictures"),
        (("host.hand_over_answers(whole((0, 0.9), (2, 0.9)))",), "a class that is none of 2"),
        (("host.hand_over_answers(whole((0, 0.9), (1, float('nan'))))",), "a number from 0 to 1"),
        (("host.reveal_test(np.zeros(2, int))",), "labels are not revealed"),
        (("host.hand_over_answers(whole((0, 1), (0, 1)))",) * 2, "handed over twice"),
    ],
)
async def test_answers_that_cannot_be_end_the_run(plain_rig: Rig, lines: tuple[str, ...], words: str) -> None:
    last = await run(plain_rig, *lines)
    assert isinstance(last, Failed) and words in last.message, last


async def test_a_training_run_hands_no_answers_over(plain_rig: Rig) -> None:
    last = await run(plain_rig, "host.hand_over_answers(whole((0, 1)))", kind=JobKind.TRAIN, pictures=None, model=None)
    assert isinstance(last, Failed) and "a run that trains" in last.message


async def test_pictures_that_are_not_there_are_no_job(plain_rig: Rig) -> None:
    last = await run(plain_rig, "pass", kind=JobKind.PREDICT, pictures=PictureSelection.UNLABELLED)
    assert isinstance(last, Failed)
    assert (last.reason, last.retryable, "no unlabelled pictures" in last.message) == ("BAD_DATASET", False, True)


async def run_detector(rig: Rig, *lines: str, **changes: Any) -> Any:
    rig.storage.add_annotated(PARTS, BOXES, [2, 2, 2, 2])
    model = AnsweringModel("detection", ("hole",))
    return await run(rig, *lines, task="detection", dataset_version=PARTS, model=model, **changes)


async def test_boxes_are_measured_against_those_of_the_version(plain_rig: Rig) -> None:
    """The dent is of a class that the model does not know; its other answers are right."""
    boxes = "(0, 0, (0.25, 0.125, 0.5, 0.375), 0.9), (2, 0, (0.25, 0, 0.5, 0.25), 0.8)"
    report = (await run_detector(plain_rig, f"host.hand_over_answers(regions({boxes}))")).report
    assert report["evaluation"]["map50"] == pytest.approx(0.5)
    assert (report["unknown_labels"], report["evaluation"]["pictures"]) == (["dent"], 3)


async def test_predicted_boxes_are_told_in_parts_of_the_upright_picture(plain_rig: Rig) -> None:
    """Pictures are twice as wide as high; what lies beside one is left out. The first one's size is found out."""
    boxes = "(0, 0, (0.25, 0.125, 0.5, 0.375), 0.9), (0, 0, (0, 0.6, 1, 1), 0.8)"
    last = await run_detector(
        plain_rig,
        f"host.hand_over_answers(regions({boxes}))",
        kind=JobKind.PREDICT,
        pictures=PictureSelection.ALL,
    )
    lines = [json.loads(line) for line in plain_rig.storage.files[last.artifacts[0].digest].splitlines()]
    assert [len(line["found"]) for line in lines] == [1, 0, 0, 0]
    assert lines[0]["found"] == [{"label": "hole", "confidence": 0.9, "box": [0.25, 0.25, 0.5, 0.75]}]


async def test_an_inspectors_answers_are_told_by_their_scores(plain_rig: Rig) -> None:
    """Which class is the good one is the model's to say; classes that it never saw are those of bad parts."""
    model = AnsweringModel("anomaly", ("light",), {"good": "light"})
    lines = ("host.hand_over_answers(whole((1, 7.5), (0, -1.0)))",)
    report = (await run(plain_rig, *lines, task="anomaly", model=model)).report
    assert (report["evaluation"]["auroc"], report["evaluation"]["recall"]) == (1.0, 1.0)
    assert report["unknown_labels"] == []
    last = await run(plain_rig, *lines, task="anomaly", model=model, kind=JobKind.PREDICT, attempt=2)
    answers = [json.loads(line) for line in plain_rig.storage.files[last.artifacts[0].digest].splitlines()]
    assert [(each["bad"], each["score"]) for each in answers] == [(True, 7.5), (False, -1.0)]
