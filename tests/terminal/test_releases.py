"""Receiving releases: nothing is missed, nothing comes twice, and what does not arrive is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from loupe import errors
from loupe.backoff import Backoff
from loupe.scheduler.v1 import training_job_pb2 as jobs
from loupe.storage.v1 import model_pb2
from loupe.terminal.client import Terminal
from loupe.terminal.profile import ProfileStore
from loupe.terminal.pull import Pulled
from loupe.terminal.releases import LONGEST_RETRY_SECONDS, JobEnds, Problem, Releases
from tests.terminal.fake_mesh import FakeMesh

PROJECT = "projects/line-7"
JOB = f"{PROJECT}/jobs/j1"
AWAY = errors.Unavailable("storage cannot be reached", dependency="storage")


def version(number: int, model: str = "screws") -> str:
    return f"{PROJECT}/models/{model}/versions/{number}"


class Library:
    """A mesh in memory: a script of what each round finds, a clock that only waiting moves."""

    def __init__(self, *rounds: dict[str, int] | Exception) -> None:
        self.rounds = list(rounds)
        self.now = 0.0
        self.pulls: list[tuple[float, str]] = []
        self.failures: dict[str, list[Exception]] = {}
        self.here: set[str] = set()
        self.problems: list[Problem] = []

    async def models(self) -> AsyncIterator[model_pb2.Model]:
        found = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        if isinstance(found, Exception):
            raise found
        for model, number in found.items():
            released = version(number, model) if number else ""
            name = f"{PROJECT}/models/{model}"
            yield model_pb2.Model(name=name, latest_version=version(99, model), latest_released_version=released)

    async def pull(self, name: str) -> Pulled:
        self.pulls.append((self.now, name))
        if failures := self.failures.get(name):
            raise failures.pop(0) if len(failures) > 1 else failures[0]
        fresh = name not in self.here
        self.here.add(name)
        return Pulled(model_pb2.ModelVersion(name=name, released=True), Path(name), fresh=fresh)

    async def wait(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    def releases(self, **options: Any) -> Releases:
        backoff = Backoff(math.inf, clock=lambda: self.now, sleep=self.wait)
        return Releases(
            self.models, self.pull, self.wait, on_problem=self.problems.append, clock=lambda: self.now,
            backoff=backoff, **options,
        )  # fmt: skip

    async def arrived(self, count: int, **options: Any) -> list[tuple[str, bool]]:
        found = []
        async with asyncio.timeout(10), contextlib.aclosing(self.releases(**options).arrivals()) as arrivals:
            async for one in arrivals:
                found.append((one.version.name, one.fresh))
                if len(found) == count:
                    break
        return found


async def test_each_release_comes_once_and_in_its_turn() -> None:
    library = Library({"screws": 0}, {"screws": 1, "nuts": 4}, {"screws": 1, "nuts": 4}, {"screws": 3, "nuts": 4})
    assert await library.arrived(3) == [(version(1), True), (version(4, "nuts"), True), (version(3), True)]
    assert len(library.pulls) == 3


async def test_what_stands_here_at_the_start_is_told_as_such() -> None:
    library = Library({"screws": 3}, {"screws": 4})
    library.here.add(version(3))
    assert await library.arrived(2) == [(version(3), False), (version(4), True)]


async def test_only_the_wanted_models_come() -> None:
    library = Library({"screws": 1, "nuts": 1, "screws-2": 1}, {"screws": 2, "nuts": 2, "screws-2": 2})
    assert await library.arrived(2, wanted=["screws"]) == [(version(1), True), (version(2), True)]


async def test_a_mesh_that_is_away_is_waited_for_and_told_once() -> None:
    library = Library(*[AWAY] * 500, {"screws": 7})
    assert await library.arrived(1) == [(version(7), True)]
    assert [(one.version, one.again) for one in library.problems] == [("", True)]
    assert library.now < 500 * 5  # it is asked again at least every 5 s


async def test_a_release_that_does_not_arrive_is_tried_later_and_later_and_told_once_per_reason() -> None:
    library = Library({"screws": 2, "nuts": 1})
    full = OSError(errno.ENOSPC, "No space left on device")
    library.failures[version(2)] = [AWAY, AWAY, full, full, errors.DataLoss("other bytes"), *[AWAY] * 9]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await library.arrived(2)
    tries = [at for at, name in library.pulls if name == version(2)]
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(tries)]
    assert all(gap >= 15 for gap in gaps)
    assert max(gaps) >= 400 and max(gaps) <= LONGEST_RETRY_SECONDS + 15
    assert [str(one.error) for one in library.problems][:4] == [str(AWAY), str(full), "other bytes", str(AWAY)]
    assert [name for _, name in library.pulls].count(version(1, "nuts")) == 1  # the other one came, once


async def test_it_arrives_when_the_trouble_is_over() -> None:
    library = Library({"screws": 2})
    library.failures[version(2)] = [AWAY, AWAY]
    found = asyncio.ensure_future(library.arrived(1))
    while len(library.pulls) < 3:
        await asyncio.sleep(0)
    del library.failures[version(2)]
    assert await found == [(version(2), True)]


async def test_a_model_that_answers_otherwise_here_is_not_fetched_again_and_again() -> None:
    library = Library(*[{"screws": 2}] * 1000, {"screws": 3})
    library.failures[version(2)] = [errors.GateFailed("it answers its golden pictures differently")]
    assert await library.arrived(1) == [(version(3), True)]
    assert [name for _, name in library.pulls] == [version(2), version(3)]
    assert [(one.version, one.again) for one in library.problems] == [(version(2), False)]


@pytest.mark.parametrize("kind", [errors.PermissionDenied, errors.Unauthenticated, errors.NotFound])
async def test_a_refusal_ends_it(kind: type[errors.LoupeError]) -> None:
    with pytest.raises(kind):
        await Library(kind("no")).arrived(1)


async def test_once_ends_when_everything_is_here_and_does_not_wait_for_a_mesh() -> None:
    library = Library({"screws": 1, "nuts": 0})
    found = [one.version.name async for one in library.releases().arrivals(once=True)]
    assert found == [version(1)] and library.now == 0
    with pytest.raises(errors.Unavailable):
        [one async for one in Library(AWAY).releases().arrivals(once=True)]


class FakeJobs:
    """Jobs whose ends the test decides."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.ended = asyncio.Event()
        self.error: Exception | None = None
        self.cursors: list[int] = []

    async def list(self, project: str, states: Any) -> AsyncGenerator[jobs.TrainingJob]:
        assert jobs.JOB_STATE_SUCCEEDED not in states
        if isinstance(self.error, errors.PermissionDenied):
            raise self.error
        for name in self.names:
            yield jobs.TrainingJob(name=name)

    async def record(self, name: str, after: int) -> AsyncGenerator[jobs.JobEvent]:
        self.cursors.append(after)
        yield jobs.JobEvent(sequence=after + 1, state_change=jobs.StateChange(state=jobs.JOB_STATE_RUNNING))
        if self.error:
            raise self.error
        await self.ended.wait()
        yield jobs.JobEvent(sequence=after + 2, state_change=jobs.StateChange(state=jobs.JOB_STATE_SUCCEEDED))


async def test_the_end_of_a_job_is_heard_at_once() -> None:
    source = FakeJobs(JOB)
    ends = JobEnds(source, PROJECT)  # type: ignore[arg-type]
    waiting = asyncio.create_task(ends.wait(60))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    source.ended.set()
    await asyncio.wait_for(waiting, 1)


async def test_the_wait_ends_in_time_and_goes_on_from_the_last_event() -> None:
    source = FakeJobs(JOB)
    ends = JobEnds(source, PROJECT)  # type: ignore[arg-type]
    before = asyncio.all_tasks()
    for _ in range(3):
        await asyncio.wait_for(ends.wait(0.05), 1)
    assert source.cursors == [0, 1, 2]
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("error", [errors.PermissionDenied("no jobs for you"), AWAY])
async def test_jobs_that_cannot_be_watched_only_cost_the_time(error: Exception) -> None:
    source = FakeJobs(JOB)
    source.error = error
    began = asyncio.get_running_loop().time()
    await asyncio.wait_for(JobEnds(source, PROJECT).wait(0.1), 1)  # type: ignore[arg-type]
    assert asyncio.get_running_loop().time() - began >= 0.09


async def test_releases_come_to_a_terminal_checked_beside_the_old_one(
    mesh: FakeMesh, store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    add_version(1)
    add_version(2, released=False)
    mesh.download_cuts, mesh.away = 3, 1
    place = data_folder / "line-7" / "screws"
    async with (
        Terminal.connect(store) as loupe,
        asyncio.timeout(20),
        contextlib.aclosing(loupe.models.follow(PROJECT, poll_seconds=0.05)) as arrivals,
    ):
        first = await anext(arrivals)
        assert (first.version.name, first.folder, first.fresh) == (version(1), place / "1", True)
        add_version(3)
        second = await anext(arrivals)
        assert (second.version.name, second.folder) == (version(3), place / "3")
    assert sorted(one.name for one in place.iterdir() if one.is_dir()) == ["1", "3"]
    files = mesh.library[version(3)][1]
    assert {one.name: one.read_bytes() for one in second.folder.iterdir()} == files


async def test_a_release_that_was_altered_is_not_installed_and_the_old_one_stays(
    mesh: FakeMesh, store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    add_version(1)
    problems: list[Problem] = []
    async with Terminal.connect(store) as loupe, asyncio.timeout(20):
        options: dict[str, Any] = {"on_problem": problems.append, "poll_seconds": 0.05}
        async with contextlib.aclosing(loupe.models.follow(PROJECT, **options)) as arrivals:
            await anext(arrivals)
            add_version(2)
            data = bytearray(mesh.library[version(2)][1]["model.onnx"])
            data[100] ^= 1
            mesh.library[version(2)][1]["model.onnx"] = bytes(data)
            waiting = asyncio.ensure_future(anext(arrivals))
            while not problems:
                await asyncio.sleep(0.02)
            add_version(3)
            assert (await waiting).version.name == version(3)
    assert [one.version for one in problems] == [version(2)]
    assert "another sha256" in str(problems[0].error)
    assert sorted(one.name for one in (data_folder / "line-7" / "screws").iterdir() if one.is_dir()) == [
        ".2.line-7-screw.part", "1", "3",
    ]  # fmt: skip


async def test_a_restart_after_days_brings_the_newest_only(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    async def names(**options: Any) -> list[tuple[str, bool]]:
        async with Terminal.connect(store) as loupe:
            return [(one.version.name, one.fresh) async for one in loupe.models.follow(PROJECT, once=True, **options)]

    add_version(1)
    assert await names() == [(version(1), True)]
    assert await names() == [(version(1), False)]
    for number in (2, 3, 4):
        add_version(number)
    add_version(1, model="nuts")
    assert await names(models=["screws"]) == [(version(4), True)]
    assert sorted(one.name for one in (data_folder / "line-7").iterdir()) == ["screws"]


def test_follow_tells_each_with_a_line(
    command_line: Callable[..., Any], mesh: FakeMesh, add_version: Callable[..., Any], data_folder: Path
) -> None:
    add_version(1)
    add_version(1, model="nuts")
    place = data_folder / "line-7"
    result = command_line("follow", "--once")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        f"installed {version(1, 'nuts')} in {place / 'nuts' / '1'}",
        f"installed {version(1)} in {place / 'screws' / '1'}",
    ]
    again = command_line("follow", "line-7", "--once", "--json", "--model", "screws")
    (line,) = again.stdout.splitlines()
    value = json.loads(line)
    assert (value["model"], value["folder"], value["fresh"]) == (version(1), str(place / "screws" / "1"), False)
    assert value["released"] is True and value["metrics"]["target_accuracy"] == 0.97
    assert again.stderr == ""


def test_follow_once_ends_with_the_code_of_what_went_wrong(
    command_line: Callable[..., Any], mesh: FakeMesh, add_version: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    add_version(1, folder=make_model("bad", golden_shift=0.002))
    result = command_line("follow", "--once")
    assert result.exit_code == 3 and result.stdout == ""
    assert f"{version(1)} was not installed: on this machine the model answers" in " ".join(result.stderr.split())
    machine = command_line("follow", "--once", "--json")
    value = json.loads(machine.stdout)
    assert (value["model"], value["reason"], value["tried_again"]) == (version(1), "GATE_FAILED", False)


def test_follow_refuses_what_is_no_id(command_line: Callable[..., Any]) -> None:
    result = command_line("follow", "--model", "Screws!")
    assert result.exit_code == 6 and "model is 'Screws!'" in result.stderr
