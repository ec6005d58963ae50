"""Jobs driven over real gRPC: the whole way, lost trainers, restarts, crashes, cancellations, dependencies away."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from loupe.database import sqlite_url
from loupe.errors import FailedPrecondition, PermissionDenied
from loupe.names import JobName, TrainerName
from loupe.scheduler.v1.training_job_service_pb2 import ExplainPlacementRequest
from loupe.trainer.v1.attempt_pb2 import AttemptProgress, AttemptSpec, AttemptState
from services.scheduler.app import SchedulerApp
from services.scheduler.dispatch import dispatcher
from services.scheduler.dispatch.driver import Driver
from services.scheduler.settings import SchedulerSettings
from tests.scheduler.conftest import Rig, states
from tests.scheduler.fakes import (
    FakeAttempt,
    FakeDiscovery,
    FakeStorage,
    FakeTrainer,
    eventually,
    finished,
    forged_report,
    report_json,
)

ENDINGS = ("SUCCEEDED", "TARGET_MISSED", "FAILED", "CANCELLED")


async def test_a_job_goes_all_the_way_to_a_released_model(rig: Rig) -> None:
    """One job: queued, dispatched, running, publishing, succeeded, with gapless events and its lineage."""
    trainer = await rig.add_trainer()
    await rig.start_scheduler()
    job = await rig.submit(parameters={"epochs": 5})
    events = await rig.to_end(job.name)
    assert states(events) == ["QUEUED", "DISPATCHING", "RUNNING", "PUBLISHING", "SUCCEEDED"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.progress.step for event in events if event.HasField("progress")] == [1, 2, 3]
    done = await rig.get(job.name)
    assert done.result.model_version == "projects/line-7/models/screws/versions/1"
    assert done.result.metrics.validation_accuracy == 0.98
    assert "98.00 %" in done.result.verdict and done.result.report_json
    assert done.trainer == str(trainer.name) and done.start_time.seconds and done.end_time.seconds
    assert not events[-1].state_change.result.report_json
    version = rig.storage.published[job.name]
    assert version.released and version.labels == ["good", "scratch"]
    assert version.lineage.dataset_version == "projects/line-7/datasets/screws/versions/3"
    assert version.lineage.submitter == "accounts/anna" and version.lineage.parameters_json == '{"epochs": 5}'
    spec = next(iter(trainer.attempts.values())).spec
    assert spec.storage_token == "token-1"
    assert (spec.objective.at_least, spec.objective.metric) == (0.95, "accuracy")
    await eventually(lambda: rig.storage.calls)
    assert rig.storage.calls == [("fence", job.name, 2)], "no older attempt to fence off, and this one when it is over"
    assert (await rig.app._store.get(JobName.parse(job.name))).finished is None, "the report is kept once"


@pytest.mark.parametrize(("waived", "end"), [(False, "TARGET_MISSED"), (True, "SUCCEEDED")])
async def test_a_target_that_is_reached_on_two_pictures_releases_nothing(rig: Rig, waived: bool, end: str) -> None:
    """Unless that was asked for; the verdict says how many more are needed."""
    name = "projects/line-7/datasets/few/versions/1"
    rig.storage.versions[name] = FakeStorage.version("few", 1, ("good", 30, 1), ("scratch", 30, 1))
    trainer = await rig.add_trainer()
    await rig.start_scheduler()
    asked = {"metric": "lowest_recall", "at_least": 0.95}
    job = await rig.submit(dataset_version=name, objective=asked, allow_small_validation=waived)
    assert states(await rig.to_end(job.name))[-1] == end
    result = (await rig.get(job.name)).result
    assert result.outcome == "target_reached" and rig.storage.published[job.name].released is waived
    assert ("22 validation pictures of each class: 21 more of good, 21 more of scratch" in result.verdict) is not waived
    assert next(iter(trainer.attempts.values())).spec.objective.metric == "lowest_recall"
    assert (result.metrics.objective.metric, result.metrics.validation_score) == ("lowest_recall", 0.98)


async def test_a_target_that_is_missed_keeps_the_model_unreleased(rig: Rig) -> None:
    """A plateau ends in TARGET_MISSED with a verdict; the model is in the library, unreleased."""

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        attempt.finish("plateau", 0.9)

    await rig.add_trainer(script)
    await rig.start_scheduler()
    job = await rig.submit()
    assert states(await rig.to_end(job.name))[-1] == "TARGET_MISSED"
    done = await rig.get(job.name)
    assert done.result.outcome == "plateau" and "did not get better" in done.result.verdict
    assert not rig.storage.published[job.name].released


async def test_an_image_that_calls_itself_done_too_early_is_not_released(rig: Rig) -> None:
    """The outcome is the image's word; the figure decides."""

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        attempt.finish("target_reached", 0.5)

    await rig.add_trainer(script)
    await rig.start_scheduler()
    job = await rig.submit()
    assert states(await rig.to_end(job.name))[-1] == "TARGET_MISSED"
    assert not rig.storage.published[job.name].released


async def test_a_job_waits_with_the_reason_and_starts_when_a_cluster_qualifies(rig: Rig) -> None:
    """No candidate: QUEUED, and why; the load falls: it runs."""
    trainer = await rig.add_trainer()
    trainer.cpu_use = 0.91
    await rig.start_scheduler()
    job = await rig.submit()
    async for event in rig.watch(job.name):
        if "waits:" in event.state_change.message:
            assert "load 0.91 is not below 0.80" in event.state_change.message
            break
    trainer.cpu_use = 0.2
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"


async def test_ten_jobs_never_overfill_a_trainer(rig: Rig) -> None:
    """Jobs that were just given count as busy before the trainer reports them: nothing is refused."""
    refusals: list[str] = []

    def script(attempt: FakeAttempt) -> None:
        assert len(trainer.live) <= trainer.slots
        attempt.run_to_end()

    trainer = await rig.add_trainer(script, slots=2)
    await rig.start_scheduler()
    jobs = [await rig.submit() for _ in range(10)]
    for job in jobs:
        events = await rig.to_end(job.name)
        refusals += [event.state_change.message for event in events if "refused" in event.state_change.message]
        assert states(events)[-1] == "SUCCEEDED"
    assert not refusals and len(trainer.starts) == 10


async def test_a_trainer_that_forgot_its_attempt_gives_the_work_away_at_once(rig: Rig) -> None:
    """After the trainer's restart the job gets a new attempt without waiting for any lease."""

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        if attempt.spec.key.attempt == 2:
            attempt.finish()

    trainer = await rig.add_trainer(script)
    await rig.start_scheduler(lease_seconds=60.0)
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    await trainer.door.down()
    trainer.restart()
    await trainer.door.up()
    async with asyncio.timeout(15):
        events = await rig.to_end(job.name)
    assert states(events)[2:5] == ["RUNNING", "QUEUED", "DISPATCHING"]
    assert trainer.starts == [(job.name, 1), (job.name, 2)]
    assert ("fence", job.name, 2) in rig.storage.calls


async def test_a_renewal_that_finds_nothing_gives_the_work_away_at_once(rig: Rig) -> None:
    """Also when the watch hangs on: the trainer's answer to a renewal is enough."""

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        if attempt.spec.key.attempt == 2:
            attempt.finish()

    trainer = await rig.add_trainer(script)
    await rig.start_scheduler(lease_seconds=8.0)
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    trainer.attempts.clear()
    async with asyncio.timeout(8):
        assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    assert trainer.starts == [(job.name, 1), (job.name, 2)]


async def test_a_running_attempt_gets_a_new_token_before_its_last_one_expires(rig: Rig) -> None:
    """One for every half life, from a restarted scheduler at once; without auth the job goes on and asks again."""
    rig.auth.lifetime = 0.4
    trainer = await rig.add_trainer(FakeAttempt.started)
    await rig.start_scheduler(lease_seconds=1.0)
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    attempt = trainer.attempts[job.name, 1]
    assert attempt.spec.storage_token == "token-1"
    await eventually(lambda: attempt.tokens[:2] == ["token-2", "token-3"])
    rig.auth.lifetime = 86_400.0
    given = len(attempt.tokens)
    await eventually(lambda: len(attempt.tokens) > given)  # the last short one has been replaced
    await rig.stop_scheduler()
    given = len(attempt.tokens)
    rig.auth.refused = FailedPrecondition("accounts/anna is disabled")
    await rig.start_scheduler()
    await eventually(lambda: attempt.renewals > 0)
    rig.auth.refused = None
    await eventually(lambda: len(attempt.tokens) == given + 1)
    attempt.finish()
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    assert set(rig.auth.issued) == {("accounts/anna", job.name, 1)} and trainer.starts == [(job.name, 1)]


async def test_the_work_of_a_lost_trainer_goes_elsewhere_after_twice_the_lease(rig: Rig) -> None:
    """The trainer cannot be reached: twice the lease after its last renewal, no sooner, the next one gets the job."""

    def stuck(attempt: FakeAttempt) -> None:
        attempt.started()

    loop = asyncio.get_running_loop()
    lost = await rig.add_trainer(stuck)
    await rig.start_scheduler(lease_seconds=1.0)
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    attempt = lost.attempts[job.name, 1]
    await eventually(lambda: attempt.renewals > 0)
    lost.silent = True
    await lost.door.down()
    down_at = loop.time()
    other = await rig.add_trainer(name=TrainerName("south", "b"))
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    # The last renewal was at most a quarter of the lease before the trainer went away.
    assert loop.time() - down_at >= 2 * 1.0 - 0.25
    assert other.starts == [(job.name, 2)]


async def test_a_restarted_scheduler_goes_on_where_it_was(rig: Rig) -> None:
    """Events go on without gaps or repetitions, in the same attempt."""
    trainer = await rig.add_trainer(FakeAttempt.started)
    await rig.start_scheduler(lease_seconds=10.0)
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    attempt = trainer.attempts[job.name, 1]
    for step in range(1, 21):
        attempt.progress(step)
    await rig.stop_scheduler()
    for step in range(21, 41):
        attempt.progress(step)
    await rig.start_scheduler()
    attempt.finish()
    events = await rig.to_end(job.name)
    assert [event.progress.step for event in events if event.HasField("progress")] == list(range(1, 41))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert states(events)[-1] == "SUCCEEDED" and trainer.starts == [(job.name, 1)]


async def test_a_job_that_crashes_each_time_fails_and_the_queue_goes_on(rig: Rig) -> None:
    """Three attempts, then FAILED with the reason; the next job runs."""

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        if attempt.spec.seed == 13:
            attempt.fail(retryable=True, message="ValueError: bad luck")
        else:
            attempt.finish()

    trainer = await rig.add_trainer(script)
    await rig.start_scheduler()
    bad, good = await rig.submit(seed=13), await rig.submit()
    assert states(await rig.to_end(bad.name))[-1] == "FAILED"
    failed = await rig.get(bad.name)
    assert failed.failure.reason == "ALGORITHM_FAILED" and "ValueError: bad luck" in failed.failure.message
    assert [key for key in trainer.starts if key[0] == bad.name] == [(bad.name, number) for number in (1, 2, 3)]
    assert states(await rig.to_end(good.name))[-1] == "SUCCEEDED"


async def test_a_failure_that_no_retry_changes_is_final_at_once(rig: Rig) -> None:
    """Not retryable: one attempt, FAILED."""
    trainer = await rig.add_trainer(lambda attempt: attempt.fail(retryable=False, reason="BAD_ALGORITHM"))
    await rig.start_scheduler()
    job = await rig.submit()
    assert states(await rig.to_end(job.name))[-1] == "FAILED"
    assert len(trainer.starts) == 1 and (await rig.get(job.name)).failure.reason == "BAD_ALGORITHM"


async def test_a_cancelled_job_ends_at_once_and_its_trainer_is_told(rig: Rig) -> None:
    """RUNNING -> CANCELLED, the attempt is stopped; cancelling again changes nothing."""
    trainer = await rig.add_trainer(FakeAttempt.started)
    await rig.start_scheduler(lease_seconds=300.0)  # the trainer is told by the cancellation, not by a renewal
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    cancelled = await rig.cancel(job.name)
    assert cancelled.state_message == "cancelled by accounts/anna"
    assert states(await rig.to_end(job.name))[-1] == "CANCELLED"
    await eventually(lambda: trainer.cancels == [(job.name, 1)])
    assert (await rig.cancel(job.name)) == cancelled


async def test_cancel_racing_completion_ends_each_job_once(rig: Rig) -> None:
    """However the race ends, there is one final state and it stays; a cancelled job publishes nothing."""
    trainer = await rig.add_trainer(FakeAttempt.started, slots=10)
    await rig.start_scheduler(load_threshold=1.0)
    endings: set[str] = set()

    async def race(number: int) -> None:
        job = await rig.submit()
        await eventually(lambda: (job.name, 1) in trainer.attempts)
        attempt = trainer.attempts[job.name, 1]
        asyncio.get_running_loop().call_later((number % 10) * 0.02, attempt.finish)
        await asyncio.sleep((number % 7) * 0.02)
        await rig.cancel(job.name)
        ended = [each for each in states(await rig.to_end(job.name)) if each in ENDINGS]
        assert len(ended) == 1
        assert (ended[0] == "SUCCEEDED") == (job.name in rig.storage.published)
        endings.add(ended[0])

    for first in range(0, 30, 10):
        await asyncio.gather(*(race(number) for number in range(first, first + 10)))
    assert endings == {"SUCCEEDED", "CANCELLED"}, "the race was not close enough to test anything"


async def test_publishing_waits_for_storage(rig: Rig) -> None:
    """Storage away at the end of training: PUBLISHING until it is back, then one published result."""
    trainer = await rig.add_trainer(FakeAttempt.started)
    await rig.start_scheduler()
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    await rig.storage_door.down()
    trainer.attempts[job.name, 1].finish()
    await rig.until(job.name, "PUBLISHING")
    assert (await rig.cancel(job.name)).state == 4
    await rig.storage_door.up()
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    assert len(rig.storage.published) == 1


async def test_publishing_goes_on_after_a_restart(rig: Rig) -> None:
    """The result is in the database: the trainer is not needed any more, and the result is published once."""
    trainer = await rig.add_trainer()
    release = asyncio.Event()
    rig.storage.before_publish = release.wait
    await rig.start_scheduler()
    job = await rig.submit()
    await rig.until(job.name, "PUBLISHING")
    await rig.stop_scheduler()
    await trainer.door.down()
    trainer.silent = True
    release.set()
    await rig.start_scheduler()
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    assert len(rig.storage.published) == 1


async def test_without_the_leader_lock_attempts_go_on_and_nothing_new_starts(rig: Rig) -> None:
    """Consul away: the running job ends as it should, the waiting one starts when the lock is held again."""
    trainer = await rig.add_trainer(FakeAttempt.started, slots=2)
    await rig.start_scheduler()
    running = await rig.submit()
    await rig.until(running.name, "RUNNING")
    rig.discovery.set_leader(False)
    await eventually(lambda: not rig.app._leadership.held)
    waiting = await rig.submit()
    attempt = trainer.attempts[running.name, 1]
    seen = attempt.renewals
    await eventually(lambda: attempt.renewals > seen + 1)
    attempt.finish()
    assert states(await rig.to_end(running.name))[-1] == "SUCCEEDED"
    assert (await rig.get(waiting.name)).attempt == 0
    rig.discovery.set_leader(True)
    await rig.until(waiting.name, "RUNNING")


async def test_a_submitter_without_rights_fails_the_job_clearly(rig: Rig) -> None:
    """Auth refuses the attempt's token: FAILED with auth's own reason; no trainer is told."""
    trainer = await rig.add_trainer()
    rig.auth.refused = PermissionDenied("accounts/anna may not read data sets any more", action="datasets.read")
    await rig.start_scheduler()
    job = await rig.submit()
    assert states(await rig.to_end(job.name))[-1] == "FAILED"
    assert (await rig.get(job.name)).failure.reason == "PERMISSION_DENIED" and not trainer.starts


async def test_forged_heartbeats_attract_no_job(rig: Rig) -> None:
    """A report under another's key, of a stranger, or malformed: ignored; the honest trainer gets the job."""
    honest = await rig.add_trainer()
    honest.cpu_use = 0.5
    stranger = FakeTrainer(TrainerName("evil", "x"), FakeAttempt.run_to_end)
    rig.discovery.forged = {
        "loupe/trainers/evil/x": forged_report(stranger, cpu_use=0.0),
        "loupe/trainers/evil/y": forged_report(honest, cpu_use=0.0),
        "loupe/trainers/evil/z": b'{"name": "clusters/evil/trainers/z"}',
    }
    await rig.start_scheduler()
    job = await rig.submit()
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    assert [cluster.name for cluster in await rig.clusters()] == ["clusters/north"]
    assert honest.starts == [(job.name, 1)]


async def test_a_trainer_that_stands_where_another_should_gets_no_job(rig: Rig) -> None:
    """Whatever Consul says of the address: who shows another trainer's certificate there is not spoken to."""
    honest = await rig.add_trainer()
    other = TrainerName("south", "b")
    impostor = await rig.add_trainer(name=other, certificate=honest.name)
    honest.cpu_use, impostor.cpu_use = 0.5, 0.0
    await rig.start_scheduler()
    job = await rig.submit()
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    assert [name for name, _ in honest.starts] == [job.name] and not impostor.starts


async def test_clusters_and_placements_are_explained(rig: Rig) -> None:
    """ListClusters shows the loads; ExplainPlacement says now and last."""
    first = await rig.add_trainer(FakeAttempt.started)
    second = await rig.add_trainer(name=TrainerName("south", "b"))
    first.cpu_use, second.cpu_use = 0.2, 0.95
    await rig.start_scheduler()
    job = await rig.submit()
    await rig.until(job.name, "RUNNING")
    await eventually(lambda: rig.app._fleet.clusters()[0].trainers[0].busy == 1)
    north, south = await rig.clusters()
    assert (north.name, north.load, north.free_slots) == ("clusters/north", 1.0, 0)
    assert south.trainers[0].cpu_fraction == 0.95 and south.trainers[0].report_time.seconds
    answer = await rig.jobs.ExplainPlacement(ExplainPlacementRequest(name=job.name))
    assert answer.last.trainer == "clusters/north/trainers/a" and answer.last.considered[0].chosen
    assert "load 0.95 is not below 0.80" in answer.last.considered[1].explanation
    assert not answer.current.trainer and "no free slot (1 of 1 busy)" in str(answer.current.considered)


async def test_a_busy_trainer_that_refuses_costs_the_job_nothing(rig: Rig) -> None:
    """The report was behind the times: the job waits a moment and is given again."""
    trainer = await rig.add_trainer(FakeAttempt.started)
    other = FakeAttempt(AttemptSpec())
    trainer.attempts["projects/other/jobs/x", 1] = other
    real_report = trainer.report
    trainer.report = lambda: replace(real_report(), busy_slots=0, warm_slots=1, attempts=())
    await rig.start_scheduler()
    job = await rig.submit()
    async for event in rig.watch(job.name):
        if "refused" in event.state_change.message:
            break
    other.state = AttemptState.ATTEMPT_STATE_FINISHED
    await rig.until(job.name, "RUNNING", event.sequence)
    assert (await rig.get(job.name)).failure.reason == ""
    assert (await rig.app._store.get(JobName.parse(job.name))).failures == 0


async def test_a_watch_resumes_from_its_cursor_and_ends_after_the_last_event(rig: Rig) -> None:
    """Only what comes after the cursor; nothing, and the end, after the final event."""
    await rig.add_trainer()
    await rig.start_scheduler()
    job = await rig.submit()
    events = await rig.to_end(job.name)
    assert [event async for event in rig.watch(job.name, 3)] == events[3:]
    assert [event async for event in rig.watch(job.name, events[-1].sequence)] == []


async def test_a_replica_takes_over_from_a_leader_that_stopped(rig: Rig) -> None:
    """Two schedulers on one database: what one accepted the other dispatches; nothing is dispatched twice."""
    trainer = await rig.add_trainer(FakeAttempt.started, slots=4)
    await rig.start_scheduler(lease_seconds=10.0)
    first = rig.app
    running = await rig.submit()
    await rig.until(running.name, "RUNNING")
    url = sqlite_url(rig.settings.state, "scheduler")
    second_discovery: Any = FakeDiscovery()
    second_discovery.places = rig.discovery.places
    second_discovery.trainers = rig.discovery.trainers
    fields = {"instance": "scheduler-2", "lease_seconds": 10.0, "nats_url": "nats://127.0.0.1:1", "database_url": url}
    settings = rig._make("scheduler", SchedulerSettings, sweep_seconds=0.1, **fields)
    second = SchedulerApp(settings, second_discovery)
    rig.discovery.set_leader(False)
    await eventually(lambda: not first._leadership.held)
    try:
        await second.start()
        waiting = await rig.submit()
        await rig.until(waiting.name, "RUNNING")
        trainer.attempts[running.name, 1].progress(1)
        for job in (running, waiting):
            trainer.attempts[job.name, 1].finish()
            events = await rig.to_end(job.name)
            assert states(events)[-1] == "SUCCEEDED"
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert sorted(trainer.starts) == sorted([(running.name, 1), (waiting.name, 1)])
        assert len(rig.storage.published) == 2
    finally:
        await second.stop()


async def test_an_attempt_that_ended_is_shut_out_of_storage(rig: Rig) -> None:
    """Released, missed, failed, cancelled, given to somebody else: its token, which lives on, is worth nothing."""

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        match attempt.spec.seed, attempt.spec.key.attempt:
            case (1, _):
                attempt.finish()
            case (2, _):
                attempt.finish("plateau", 0.5)
            case (3, _):
                attempt.fail(retryable=False)
            case (4, 1):
                attempt.fail(retryable=True)

    await rig.add_trainer(script, slots=8)
    await rig.start_scheduler(load_threshold=1.0)
    jobs = {seed: await rig.submit(seed=seed) for seed in (1, 2, 3, 4, 5)}
    for seed in (1, 2, 3):
        await rig.to_end(jobs[seed].name)
    await rig.until(jobs[5].name, "RUNNING")
    await rig.cancel(jobs[5].name)
    await eventually(lambda: all(rig.storage.fences.get(job.name) == 2 for job in jobs.values()))
    assert all(job.name in rig.storage.published for seed, job in jobs.items() if seed in (1, 2))
    await rig.cancel(jobs[4].name)
    await eventually(lambda: rig.storage.fences[jobs[4].name] == 3)


async def test_shutting_out_waits_for_storage_and_delays_nothing(rig: Rig) -> None:
    """Storage away when the job ends: the job has ended at once, its trainer takes the next, the fence comes later."""
    trainer = await rig.add_trainer(lambda attempt: attempt.started())
    await rig.start_scheduler()
    job = await rig.submit()
    waiting = await rig.submit()
    await rig.until(job.name, "RUNNING")
    await rig.storage_door.down()
    trainer.attempts[job.name, 1].fail(retryable=False)
    assert states(await rig.to_end(job.name))[-1] == "FAILED"
    await rig.until(waiting.name, "RUNNING")
    await asyncio.sleep(0.3)
    assert job.name not in rig.storage.fences
    await rig.storage_door.up()
    await eventually(lambda: rig.storage.fences.get(job.name) == 2)


async def test_a_result_is_published_before_its_attempt_is_shut_out(rig: Rig) -> None:
    """However long publishing takes, and whoever publishes at the same time."""
    await rig.add_trainer()
    release = asyncio.Event()
    rig.storage.before_publish = release.wait
    await rig.start_scheduler()
    job = await rig.submit()
    await rig.until(job.name, "PUBLISHING")
    stored = await rig.app._store.get(JobName.parse(job.name))
    late = asyncio.create_task(Driver(stored, rig.app._dependencies()).run())  # as another replica would
    await eventually(lambda: rig.storage.publish_calls == 2)
    assert job.name not in rig.storage.fences
    release.set()
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    await late
    assert (await rig.get(job.name)).result.model_version == "projects/line-7/models/screws/versions/1"
    assert rig.storage.fences[job.name] == 2 and len(rig.storage.published) == 1


async def test_losses_before_a_checkpoint_do_not_count(rig: Rig) -> None:
    """A trainer that forgets the job after each checkpoint: more often than the bound, and the job goes on."""

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        attempt.checkpoint()
        if attempt.spec.key.attempt == 5:
            attempt.finish()
        else:
            asyncio.get_running_loop().call_later(0.1, trainer.attempts.clear)

    trainer = await rig.add_trainer(script)
    await rig.start_scheduler(lease_seconds=0.4, max_losses=2)
    job = await rig.submit()
    assert states(await rig.to_end(job.name))[-1] == "SUCCEEDED"
    assert [number for _, number in trainer.starts] == [1, 2, 3, 4, 5]


async def test_whatever_a_trainer_tells_its_driver_lives(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times, numbers, figures, names and texts that there are not; the job ends in a way that it can end."""
    died: list[Any] = []
    monkeypatch.setattr(dispatcher.log, "exception", lambda *args, **more: died.append((args, more)), raising=False)
    huge, evil = "x" * 600_000, "\x1b]0;owned\x07\u202e"

    def script(attempt: FakeAttempt) -> None:
        attempt.started()
        attempt.emit(progress=AttemptProgress(phase=huge, epoch=-1, metrics={evil: 1.0, "nan": float("nan")}))
        attempt.events[-1].time.seconds = 2**62
        attempt.emit(log=evil * 100_000)
        attempt.emit(log="never told")
        attempt.events[-1].sequence = -(2**62)
        attempt.emit(progress=AttemptProgress(metrics={huge: float("inf")}, message=evil))
        attempt.events[-1].time.nanos = -1
        attempt.state = 99
        if attempt.spec.seed == 1:
            attempt.fail(retryable=False, reason=huge, message=evil * 100_000)
        else:
            result = finished("plateau")
            scores = {"accuracy": 0.5, "pictures": 10**30}
            result.report_json = report_json(0.5, test=None, validation=scores)
            attempt.end_with(result)

    await rig.add_trainer(script, slots=4)
    await rig.start_scheduler()
    for seed in (1, 2):
        job = await rig.submit(seed=seed)
        events = await rig.to_end(job.name)
        assert states(events)[-1] == "FAILED" and (await rig.get(job.name)).failure.reason == "ALGORITHM_FAILED"
        assert max(each.ByteSize() for each in events) < 20_000 and "\x1b" not in str(events)
        texts = [each.log for each in events] + [each.state_change.message for each in events]
        assert all(each.isprintable() for each in texts) and "never told" not in texts
    assert not died
