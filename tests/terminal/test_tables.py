"""Tables at 80 columns: ids and digests stay whole, names lose their middle, nothing is left out."""

from __future__ import annotations

import io

import pytest

from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.tasks.objective import Objective
from loupe.terminal.live import JobView, job_display
from loupe.terminal.screen import Screen
from loupe.terminal.tables import facts, line, seconds_of, shortened, table, when, width_of, wrapped
from loupe.timestamps import timestamp

ID = "i" * 63
DIGEST = "0123456789abcdef" * 4


def shown(renderable: object, width: int = 80) -> str:
    out = io.StringIO()
    Screen(width=width, file=out, color_system=None).print(renderable)
    return out.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_ids_are_never_broken(width: int) -> None:
    rows = [(ID, "target missed", f"{ID}/versions/12", "97.00 %", "2025-01-01 10:00:00")] * 2
    text = shown(table(("job", "state", "data set", "target", "submitted"), rows, right=(3,)), width)
    assert text.count(f"{ID}/versions/12") == 2 and text.count("97.00 %") == 2
    text = shown(facts([("job", f"projects/{ID}/jobs/{ID}"), ("digest", DIGEST)]), width)
    assert f"projects/{ID}/jobs/{ID}\n" in text and f"  {DIGEST}\n" in text


def test_long_names_lose_their_middle_and_the_table_keeps_its_width() -> None:
    name = "line 7/camera 3/" + "very-" * 30 + "long-0001.png"
    text = shown(table(("file", "problem"), [(name, "the picture is cut off " * 4)], middle=(0,)))
    assert max(map(width_of, text.splitlines())) <= 80
    assert "line 7/" in text and "…" in text and "0001.png" in text


def test_text_is_wrapped_between_words() -> None:
    text = shown(table(("", "why"), [("a", "one two three " * 20)]))
    assert all(set(row.split()) <= {"a", "one", "two", "three", "why"} or "─" in row for row in text.splitlines())


def test_wide_characters_count_twice() -> None:
    assert width_of(shortened("零件" * 20, 11)) <= 11
    text = shown(table(("class", "n"), [("零件", 1), ("ok", 22)], right=(1,)))
    assert len({width_of(row) for row in text.splitlines() if row.strip()[-1:].isdigit()}) == 1


def test_every_row_has_its_columns_in_a_narrow_window_too() -> None:
    text = shown(table(("a", "b", "c"), [(ID, DIGEST, f"row {n}") for n in range(3)]), 40)
    assert [text.count(each) for each in (ID, DIGEST, "row 2")] == [3, 3, 1]


def test_a_line_that_goes_on_does_not_look_like_one_that_begins() -> None:
    text = shown(line("word " * 15 + "error: not really one"))
    assert text.splitlines()[1].startswith("  ")
    assert wrapped("a  b", 80) == ["a  b"]


def test_times_that_no_calendar_has_are_nothing() -> None:
    assert when(timestamp(0)) == "" and when(timestamp(1_700_000_000.5)).startswith("2023-11-1")
    far = timestamp(1)
    far.seconds = 1 << 60
    assert when(far) == "" and seconds_of(far) is None


def events(began: float) -> list[jobs.JobEvent]:
    progress = jobs.JobProgress(phase="head", epoch=1, metrics={"validation_accuracy": float("nan")})
    return [
        jobs.JobEvent(
            sequence=1,
            time=timestamp(began + 2),
            state_change=jobs.StateChange(state="JOB_STATE_RUNNING", message="on a"),
        ),
        jobs.JobEvent(sequence=2, time=timestamp(began + 31.5), progress=progress),
        jobs.JobEvent(
            sequence=3,
            time=timestamp(began + 90),
            state_change=jobs.StateChange(state="JOB_STATE_SUCCEEDED", message="done"),
        ),
    ]


def test_replayed_events_have_the_time_when_they_happened() -> None:
    out = io.StringIO()
    screen = Screen(width=80, file=out, color_system=None)
    began = 1_700_000_000.0
    # An hour later, in a row.
    with job_display(screen, JobView(Objective("accuracy", 0.9), clock=lambda: began + 3600, began=began)) as show:
        for event in events(began):
            show(event)
    assert [row.split()[0] for row in out.getvalue().splitlines()] == ["2.0", "31.5", "90.0"]


def test_a_view_without_the_beginning_counts_from_the_first_event() -> None:
    view = JobView(clock=lambda: 1_700_000_100.0)
    for event in events(1_700_000_000.0):
        view.add(event)
    assert view.happened == 88.0 and view.elapsed == 98.0


def test_a_state_of_a_newer_mesh_and_a_clock_behind_are_no_trouble() -> None:
    view = JobView(clock=lambda: 0.0)
    view.add(jobs.JobEvent(sequence=1, time=timestamp(50.0), state_change=jobs.StateChange(state=99)))  # type: ignore[arg-type]
    assert view.state == "state 99" and view.elapsed == 0.0
    assert shown(view.render())


@pytest.mark.parametrize(
    ("metric", "said"), [("accuracy", "accuracy 99.00 % of 90.00 %"), ("lowest_recall", "80.00 %")]
)
def test_the_live_view_goes_by_the_target_metric(metric: str, said: str) -> None:
    view = JobView(Objective(metric, 0.9))
    figures = {"validation_accuracy": 0.99} | ({} if metric == "accuracy" else {"validation_score": 0.8})
    view.add(jobs.JobEvent(sequence=1, progress=jobs.JobProgress(phase="train", metrics=figures)))
    assert said in view.line()
    *_, bar = view.render().columns[1].cells
    assert bar.complete_style == ("green" if metric == "accuracy" else "yellow")
