"""What both sandboxes promise to a run and to the trainer: the same tests for bubblewrap and for the plain process."""

from __future__ import annotations

import asyncio
import sys

import psutil

from loupe.algorithm.host import Outcome
from services.trainer.attempts.attempt import State
from services.trainer.attempts.events import Checkpointed, Failed, Finished, Logged, Progressed, Started
from tests.trainer.fakes import JOB, Rig, alive, eventually, make_rig

WHOLE_RUN = """
import json
import numpy as np
from loupe.algorithm.host import Outcome, Progress, Result

def train(host):
    spec = host.spec()
    pixels = np.load(host.pictures(4, 4), mmap_mode="r")
    assert pixels.shape == (6, 4, 4, 3), pixels.shape
    assert spec.dataset.classes[2] == -1 and spec.dataset.splits[2] == 2
    weights = spec.weights["weights"].read_bytes()
    for epoch in range(1, spec.parameters["rounds"] + 1):
        host.report(Progress("train", epoch=epoch, metrics={"loss": 1 / epoch, "nothing": float("nan")}))
    print("printed \\x1b[31mred")
    truth = host.reveal_test(np.zeros(np.count_nonzero(spec.dataset.splits == 2), int))
    (host.work / "out").mkdir()
    (host.work / "out" / "model.onnx").write_bytes(weights)
    report = {"brightness": pixels[:, 0, 0, 0].tolist(), "truth": truth, "threads": spec.threads, "checked": "all"}
    host.finish(Result(Outcome.TARGET_REACHED, {"model.onnx": host.work / "out" / "model.onnx"}, report))
"""

WAITS = """
import time
from loupe.algorithm.host import Outcome, Progress, Result

def train(host):
    host.report(Progress("waiting"))
    while not host.stop_requested():
        time.sleep(0.01)
    host.finish(Result(Outcome.STOPPED, {}, {}))
"""

SLEEPS = """
import os, subprocess, sys, time
from loupe.algorithm.host import Progress

def train(host):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    host.report(Progress("sleeping"))
    time.sleep(600)
"""


async def test_a_run_goes_from_start_to_a_result(rig: Rig) -> None:
    """Pictures, withheld labels, weights, typed parameters, progress, output, artifacts and report go through."""
    digest = "9" * 64
    rig.storage.files[digest] = b"weights"
    events = await rig.run(WHOLE_RUN, parameters={"rounds": 2.0, "weights": digest})
    kinds = [type(event.what) for event in events]
    assert kinds[0] is Started and kinds[-1] is Finished, events
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    progress = [event.what.progress for event in events if isinstance(event.what, Progressed)]
    assert [(each.phase, each.epoch, dict(each.metrics)) for each in progress] == [
        ("train", 1, {"loss": 1.0}),
        ("train", 2, {"loss": 0.5}),
    ]
    assert "printed \\x1b[31mred" in [event.what.text for event in events if isinstance(event.what, Logged)]
    finished = events[-1].what
    assert finished.outcome is Outcome.TARGET_REACHED
    # "dark" was said of one test picture of each class; what the image says of that does not stand.
    checked = finished.report.pop("checked")
    assert checked == {"labels": ["dark", "light"], "right": [1, 0], "pictures": [1, 1]}
    assert finished.report == {"brightness": [0, 200, 30, 220, 60, 240], "truth": [0, 1, 0, 1, 0, 1], "threads": 1}
    (artifact,) = finished.artifacts
    assert (artifact.filename, artifact.size, rig.storage.files[artifact.digest]) == ("model.onnx", 7, b"weights")


async def test_a_run_hears_that_it_should_stop(rig: Rig) -> None:
    """Cancelling reaches the algorithm, and the attempt ends as cancelled."""
    spec = rig.spec(WAITS)
    rig.attempts.start(spec, 60)
    await rig.events(spec.key, until=Progressed)
    rig.attempts.cancel(spec.key)
    last = (await rig.events(spec.key))[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("CANCELLED", False)


async def test_a_run_that_does_not_stop_is_killed_with_its_children(sandbox, tmp_path) -> None:
    """After the grace nothing of it is left, not even a child in a session of its own."""
    before = psutil.Process().children(recursive=True)
    async with make_rig(sandbox, tmp_path, grace=0.3) as rig:
        spec = rig.spec(SLEEPS)
        rig.attempts.start(spec, 60)
        await rig.events(spec.key, until=Progressed)
        tree = [child for child in psutil.Process().children(recursive=True) if child not in before]
        assert len(tree) >= 2
        rig.attempts.cancel(spec.key)
        assert (await rig.events(spec.key))[-1].what.reason == "CANCELLED"
        await eventually(lambda: not any(map(alive, tree)))
        assert list((tmp_path / "slots").iterdir()) == []
        assert list((tmp_path / "staging").iterdir()) == []


SACRIFICE = """
import asyncio, pathlib, sys
from services.trainer.attempts.events import Progressed
from tests.trainer.fakes import make_rig, make_sandbox
from tests.trainer.sandbox.test_sandbox_contract import WORKS

async def main(kind, folder):
    async with make_rig(make_sandbox(kind, folder), folder) as rig:
        spec = rig.spec(WORKS)
        rig.attempts.start(spec, 60)
        await rig.events(spec.key, until=Progressed)
        print("running", flush=True)
        await asyncio.sleep(600)

asyncio.run(main(sys.argv[1], pathlib.Path(sys.argv[2])))
"""

WORKS = """
import time
from loupe.algorithm.host import Progress

def train(host):
    host.report(Progress("working"))
    while True:
        time.sleep(0.1)
"""


async def test_a_run_does_not_outlive_a_trainer_that_is_killed(sandbox, tmp_path) -> None:
    """SIGKILL of the trainer takes along a run that is busy and asks for nothing."""
    kind = "bubblewrap" if sandbox.isolated else "plain"
    trainer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SACRIFICE, kind, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            assert await trainer.stdout.readline() == b"running\n"
        tree = psutil.Process(trainer.pid).children(recursive=True)
        assert tree
    finally:
        trainer.kill()
        await trainer.wait()
    try:
        await eventually(lambda: not any(map(alive, tree)))
    finally:
        for process in filter(alive, tree):
            process.kill()


async def test_an_exception_is_told_with_its_words_and_traceback(rig: Rig) -> None:
    """What the algorithm raises ends the attempt; another attempt would not help."""
    events = await rig.run("def train(host):\n    raise ValueError('no such layer: \\x1b[2Jconv9')\n")
    last = events[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("ALGORITHM_FAILED", False)
    assert last.message == "the algorithm raised ValueError: no such layer: \\x1b[2Jconv9"
    assert any("main.py" in event.what.text for event in events if isinstance(event.what, Logged))


async def test_a_crash_is_a_typed_failure_that_may_be_tried_again(rig: Rig) -> None:
    """A process that dies without a word fails its attempt, and says how it died."""
    last = (await rig.run("import os\ndef train(host):\n    os.kill(os.getpid(), 11)\n"))[-1].what
    assert isinstance(last, Failed) and (last.reason, last.retryable) == ("ALGORITHM_FAILED", True)
    assert "signal 11" in last.message


async def test_a_run_without_a_result_has_failed(rig: Rig) -> None:
    """An algorithm that simply returns has handed nothing over."""
    last = (await rig.run("def train(host):\n    pass\n"))[-1].what
    assert isinstance(last, Failed) and "without handing over a result" in last.message


async def test_jobs_do_not_see_each_others_files_or_memory(rig: Rig) -> None:
    """The second job in the same slot finds a fresh process and a fresh folder."""
    code = """
    import builtins, os, pathlib
    from loupe.algorithm.host import Outcome, Result

    def train(host):
        seen = [getattr(builtins, "left_behind", None), sorted(p.name for p in host.work.iterdir())]
        builtins.left_behind = "x"
        (host.work / "left").write_text("x")
        host.finish(Result(Outcome.PLATEAU, {}, {"seen": seen}))
    """
    for attempt in (1, 2):
        finished = (await rig.run(code, attempt=attempt))[-1].what
        assert isinstance(finished, Finished) and finished.report == {"seen": [None, []]}, finished


async def test_a_checkpoint_survives_the_death_of_a_run(rig: Rig) -> None:
    """After SIGKILL in mid-run, the next attempt goes on from the last whole checkpoint."""
    code = """
    import json, time
    from loupe.algorithm.host import Outcome, Progress, Result

    def train(host):
        folder = host.restore_checkpoint()
        done = json.loads((folder / "state.json").read_text())["done"] if folder else 0
        began = done
        while done < 5:
            done += 1
            here = host.work / f"at-{done}"
            here.mkdir()
            (here / "state.json").write_text(json.dumps({"done": done}))
            host.save_checkpoint(here)
            host.report(Progress("train", epoch=done))
            if done == 3 and not began:
                time.sleep(600)
        host.finish(Result(Outcome.TARGET_REACHED, {}, {"began": began, "done": done}))
    """
    before = psutil.Process().children(recursive=True)
    first = rig.spec(code)
    rig.attempts.start(first, 60)
    await _until_epoch(rig, first.key, 3)
    victim = [child for child in psutil.Process().children(recursive=True) if child not in before][-1]
    victim.kill()
    events = await rig.events(first.key)
    assert [type(event.what) for event in events].count(Checkpointed) == 3
    assert isinstance(events[-1].what, Failed) and events[-1].what.retryable
    assert "signal 9" in events[-1].what.message
    events = await rig.run(code, attempt=2)
    assert events[0].what.resumed
    assert events[-1].what.report == {"began": 3, "done": 5}
    assert rig.storage.checkpoints[JOB][0] == 2
    assert rig.attempts.renew([first.key], 60) == [State.FAILED]


async def _until_epoch(rig: Rig, key, epoch: int) -> None:
    async with asyncio.timeout(30):
        async for event in rig.attempts.watch(key, 0):
            if isinstance(event.what, Progressed) and event.what.progress.epoch == epoch:
                return
