"""Warm slots: ready before the job, used once, replaced in the background; and what a cold start costs."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from services.trainer.attempts.events import Failed, Finished, Started
from services.trainer.sandbox.limits import Limits
from services.trainer.sandbox.process import SandboxFailed
from services.trainer.sandbox.slots import Slots
from services.trainer.sandbox.warm import SlotPlan
from tests.trainer.fakes import JOB, LIMITS, eventually, make_rig

RUNNER = "bare_runner:run_image"
WHO = """
import os
from loupe.algorithm.host import Outcome, Result
def train(host):
    host.finish(Result(Outcome.PLATEAU, {}, {"started": os.stat("/proc/self").st_ctime, "pid": os.getpid(),
                                             "priority": os.getpriority(os.PRIO_PROCESS, 0)}))
"""


async def test_a_warm_slot_serves_one_job_and_is_replaced(sandbox, tmp_path) -> None:
    """The first job finds a warm sandbox, at the usual priority; afterwards another one is warmed."""
    async with make_rig(sandbox, tmp_path, warm=1) as rig:
        await eventually(lambda: rig.slots.counts.warm == 1)
        (first,) = (tmp_path / "slots").iterdir()
        events = await rig.run(WHO)
        assert isinstance(events[0].what, Started) and events[0].what.warm
        assert events[-1].what.report["priority"] == 0
        assert rig.slots.counts.busy == 0 and not first.exists()
        await eventually(lambda: rig.slots.counts.warm == 1)
        events = await rig.run(WHO, attempt=2)
        assert events[0].what.warm and isinstance(events[-1].what, Finished)


async def test_a_job_that_finds_nothing_warm_starts_cold(sandbox, tmp_path) -> None:
    async with make_rig(sandbox, tmp_path, warm=0) as rig:
        events = await rig.run(WHO)
        assert not events[0].what.warm and isinstance(events[-1].what, Finished)
        assert rig.slots.counts.total == 1 and rig.slots.counts.warm == 0


async def test_a_job_takes_the_slot_that_is_getting_warm(plain, tmp_path) -> None:
    """With one slot, a job that comes while it warms waits for it, and nobody starts a second one."""
    async with make_rig(plain, tmp_path, warm=1) as rig:
        events = await rig.run(WHO)
        assert isinstance(events[-1].what, Finished)
        assert not events[0].what.warm


async def test_a_warm_sandbox_that_dies_is_replaced(plain, tmp_path) -> None:
    async with make_rig(plain, tmp_path, warm=1) as rig:
        await eventually(lambda: rig.slots.counts.warm == 1)
        (taken,) = rig.slots._ready
        taken.process.process.kill()
        await eventually(lambda: rig.slots._ready and rig.slots._ready[0] is not taken)
        assert isinstance((await rig.run(WHO))[-1].what, Finished)


async def test_leases_wait_for_a_free_slot(plain, tmp_path) -> None:
    """There are never more sandboxes than slots."""
    plan = SlotPlan(count=1, warm=0, limits=LIMITS, runner=RUNNER)
    slots = Slots(plain, tmp_path / "slots", plan, time.monotonic)
    async with slots.lease() as first:
        waiting = asyncio.create_task(slots.lease().__aenter__())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.shield(waiting)
        assert slots.counts.busy == 1
    second = await waiting
    assert second.process.process.pid != first.process.process.pid
    await second.close()
    await slots.close()


async def test_a_sandbox_that_cannot_get_ready_says_why(plain, tmp_path) -> None:
    """A missing module is named; the slot is free again afterwards."""
    plan = SlotPlan(count=1, warm=0, limits=LIMITS, runner=RUNNER, modules=("no_such_module",))
    slots = Slots(plain, tmp_path / "slots", plan, time.monotonic)
    for _ in range(2):
        with pytest.raises(SandboxFailed, match="no_such_module"):
            await slots._take()
    await slots.close()
    assert list((tmp_path / "slots").iterdir()) == []


async def test_an_attempt_without_a_sandbox_may_be_tried_elsewhere(plain, tmp_path) -> None:
    plan = SlotPlan(count=1, warm=0, limits=LIMITS, runner=RUNNER, modules=("no_such_module",))
    async with make_rig(plain, tmp_path, plan=plan) as rig:
        last = (await rig.run(WHO))[-1].what
        assert isinstance(last, Failed) and (last.reason, last.retryable) == ("UNAVAILABLE", True)


async def test_threads_are_set_before_the_interpreter_starts(sandbox, tmp_path) -> None:
    """Waiting threads do not spin, and there are as many as the job may have."""
    code = """
    import os
    from loupe.algorithm.host import Outcome, Result
    def train(host):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        host.finish(Result(Outcome.PLATEAU, {}, {name: os.environ.get(name) for name in names}))
    """
    plan = SlotPlan(count=1, warm=0, threads=3, limits=LIMITS, runner=RUNNER)
    async with make_rig(sandbox, tmp_path, plan=plan) as rig:
        assert (await rig.run(code))[-1].what.report == {
            "OMP_NUM_THREADS": "3",
            "OPENBLAS_NUM_THREADS": "3",
            "OMP_WAIT_POLICY": "PASSIVE",
            "GOMP_SPINCOUNT": "0",
        }


TRAINS = """
import time
import torch
from loupe.algorithm import Outcome
from loupe.algorithm.host import Result

def train(context):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    images = torch.from_numpy(context.data.images(8).copy()).permute(0, 3, 1, 2).float()
    model(images).sum().backward()
    context.report("head", step=1, threads=torch.get_num_threads())
    context._host.finish(Result(Outcome.PLATEAU, {}, {}))
"""


async def test_a_warm_sandbox_has_torch_and_takes_its_first_step_at_once(bubblewrap, tmp_path) -> None:
    """From start to the first finished step takes well under a second, where importing torch alone takes longer."""
    pytest.importorskip("torch")
    plan = SlotPlan(
        count=1, warm=1, threads=1, limits=Limits(), modules=("torch", "torchvision", "loupe.algorithm.context")
    )
    async with make_rig(bubblewrap, tmp_path, plan=plan) as rig:
        await eventually(lambda: rig.slots.counts.warm == 1, seconds=100)
        spec = rig.spec(TRAINS)
        await rig.pictures.link(
            rig.storage.datasets[spec.dataset_version].digests,
            8,
            8,
            rig.storage.of(JOB, 1, str),
            Path(tmp_path / "warm.npy"),
        )
        began = time.monotonic()
        rig.attempts.start(spec, 60)
        events = await rig.events(spec.key)
        took = time.monotonic() - began
        assert isinstance(events[-1].what, Finished), [event.what for event in events]
        assert events[0].what.warm
        assert events[1].what.progress.metrics == {"threads": 1.0}
        print(f"start to finished step: {took:.3f} s")
        assert took < 1.0 * max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


async def test_a_sandbox_that_died_unnoticed_is_not_handed_out(plain, tmp_path) -> None:
    """Whoever takes a slot looks at it first."""
    plan = SlotPlan(count=2, warm=0, limits=LIMITS, runner=RUNNER)
    slots = Slots(plain, tmp_path / "slots", plan, time.monotonic)
    dead = await slots._take()
    dead.process.process.kill()
    await dead.process.wait()
    slots._ready.append(dead)
    async with slots.lease() as taken:
        assert taken is not dead and not taken.process.ended
    await slots.close()
