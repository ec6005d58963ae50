"""Driving one attempt of a job to its end: start it, follow it, publish what it made, then tell trainer and storage."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from loupe.backoff import Backoff
from loupe.concurrency import gather, race
from loupe.errors import (
    AttemptUnknown,
    Cancelled,
    Internal,
    LoupeError,
    ResourceExhausted,
    SandboxUnavailable,
    StaleAttempt,
    Throttled,
    TrainerBusy,
    Unavailable,
)
from loupe.escapes import escaped
from loupe.job_kinds import JobKind
from loupe.names import JobName, ModelVersionName
from services.scheduler.clients.auth import StorageToken
from services.scheduler.clients.trainers import AnsweringModel, AttemptKey, AttemptSpec
from services.scheduler.dispatch.answers import prepare_answers
from services.scheduler.dispatch.attempt_events import absorb, batches
from services.scheduler.dispatch.dependencies import Dependencies
from services.scheduler.dispatch.lease import LeaseClock
from services.scheduler.dispatch.publication import prepare
from services.scheduler.jobs.job import Job, JobFailure
from services.scheduler.jobs.states import ACTIVE, State
from services.scheduler.jobs.store import Conflict
from services.scheduler.jobs.transitions import Change, Loss, conclude, fail, give_up_or_requeue, requeue, start

log = structlog.get_logger(__name__)

TRANSIENT = (Unavailable, Cancelled, Internal, ResourceExhausted, Throttled)
"""Errors of a dependency after which trying again may help."""

_MAX_INTERNAL = 10
_TOKEN_SHARE = 0.5
_FIRST_PAUSE = 0.1
_CANCEL_TIMEOUT = 2.0
_CANCEL_PAUSE = 0.5
_FENCE_SECONDS = 3600.0
_MAX_SHOWN = 300

T = TypeVar("T")


class Driver:
    """Drives one attempt of a job while it is DISPATCHING, RUNNING or PUBLISHING, from wherever it stands.

    Everything is written by compare-and-set, so two drivers of one job do no harm: the loser reads again.
    """

    def __init__(self, job: Job, dependencies: Dependencies) -> None:
        assert job.trainer is not None, "a job that is driven has a trainer"
        self._job = self._newest = job
        self._trainer = job.trainer
        self._with = dependencies
        self._key = AttemptKey(job.name, job.attempt)
        self._cancellation = dependencies.signals.cancellation(job.uid)
        # Of a token that another process issued nothing is known: it is replaced at once.
        self._token_due = -math.inf

    async def run(self) -> None:
        """Drive until this attempt needs nobody any more, and tell everybody who still takes it for one that runs."""
        steps = {State.DISPATCHING: self._start, State.RUNNING: self._follow, State.PUBLISHING: self._publish}
        job = self._job
        while job.state in ACTIVE and job.attempt == self._job.attempt:
            self._newest = job
            try:
                job = await race(steps[job.state](job), self._cancelled())
            except Conflict:
                self._cancellation.clear()
                job = await self._retry(partial(self._with.store.load, job.uid))
        published = job.attempt == self._job.attempt and job.state in (State.SUCCEEDED, State.TARGET_MISSED)
        await gather(self._shut_out(), *([] if published else [self._dismiss()]))

    async def _cancelled(self) -> Job:
        await self._cancellation.wait()
        raise Conflict("somebody cancelled the job")

    async def _start(self, job: Job) -> Job:
        """Fence off older attempts, get the token, and tell the trainer."""
        try:
            token, model, *_ = await gather(
                self._issue_token(job), self._answering(job), *self._fences(job), *self._beginnings(job)
            )
        except LoupeError as error:
            return await self._commit(fail(job, error.reason_name(), error.message, self._with.now()))
        return await self._commit(await self._tell_trainer(job, self._spec(job, token.value, model)))

    async def _answering(self, job: Job) -> AnsweringModel | None:
        """Return what the trainer has to know of the model that answers; None where the job is to train."""
        if job.spec.kind is JobKind.TRAIN:
            return None
        name = ModelVersionName.parse(job.spec.base_model)
        found = await self._retry(lambda: self._with.storage.base_model(name))
        return AnsweringModel(found.task, found.labels, found.parameters)

    def _fences(self, job: Job) -> list[Awaitable[None]]:
        """Return the calls after which no older attempt can write; a first attempt has none before it."""
        if job.attempt == 1:
            return []
        return [self._retry(lambda: self._with.storage.raise_fence(job.name, job.attempt))]

    def _beginnings(self, job: Job) -> list[Awaitable[None]]:
        """Return the calls after which a job that resumes another begins where that one ended."""
        if not job.spec.resume_of:
            return []
        source = JobName.parse(job.spec.resume_of)
        return [self._retry(lambda: self._with.storage.copy_checkpoint(job.name, source))]

    async def _issue_token(self, job: Job) -> StorageToken:
        token = await self._retry(lambda: self._with.tokens.issue(job.spec.submitter, job.name, job.attempt))
        self._token_due = self._with.monotonic() + max(_TOKEN_SHARE * token.lifetime, self._with.lease / 5)
        return token

    async def _tell_trainer(self, job: Job, spec: AttemptSpec) -> Change:
        with_, now = self._with, self._with.now
        lease = LeaseClock(with_.lease, with_.monotonic())
        while not self._may_give_away(lease):
            timeout = lease.timeout(with_.monotonic())
            if timeout > 0:
                try:
                    await with_.trainers.start(self._trainer, spec, with_.lease, timeout)
                    return start(job, now())
                except (TrainerBusy, SandboxUnavailable, StaleAttempt) as error:
                    refusal = escaped(error.message, _MAX_SHOWN)
                    with_.fleet.avoid(self._trainer, with_.lease / 5, f"it refused a job just now: {refusal}")
                    return requeue(job, Loss.NOTHING, f"{self._trainer} refused it: {error.message}", now())
                except TRANSIENT as error:
                    log.warning("trainer did not take a job", job=str(job.name), error=error.message)
                except LoupeError as error:
                    return fail(job, error.reason_name(), error.message, now())
            await asyncio.sleep(lease.retry_interval)
        return self._lost("it did not answer when it was given the job")

    def _spec(self, job: Job, token: str, model: AnsweringModel | None) -> AttemptSpec:
        spec = job.spec
        return AttemptSpec(
            key=self._key,
            dataset_version=spec.dataset_version,
            algorithm_version=spec.algorithm_version,
            algorithm_digest=spec.algorithm_digest,
            built_in=spec.requirements.built_in,
            parameters=spec.parameters,
            objective=spec.objective,
            seed=spec.seed,
            max_seconds=spec.max_seconds,
            max_epochs=spec.max_epochs,
            storage_token=token,
            kind=spec.kind,
            pictures=spec.pictures,
            model=model,
        )

    async def _follow(self, job: Job) -> Job:
        """Write down what the trainer tells, and keep its lease and its token alive meanwhile."""
        return await race(self._watch(job), self._renew(), self._replace_token(job))

    async def _watch(self, job: Job) -> Job:
        trainers, now = self._with.trainers, self._with.now
        pause = _FIRST_PAUSE
        while True:
            try:
                async with (
                    aclosing(trainers.watch(self._trainer, self._key, job.trainer_sequence)) as source,
                    aclosing(batches(source)) as received,
                ):
                    async for batch in received:
                        pause = _FIRST_PAUSE
                        job = self._newest = await self._commit(absorb(job, batch, now(), self._with.bounds))
                        if job.state is not State.RUNNING:
                            return job
            except AttemptUnknown:
                return await self._commit(self._forgotten())
            except Conflict:
                raise
            except LoupeError as error:
                log.info("the watch of an attempt broke", job=str(job.name), error=error.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._with.lease / 5)

    async def _renew(self) -> Job:
        with_, job = self._with, self._job
        lease = LeaseClock(with_.lease, with_.monotonic())
        while not self._may_give_away(lease):
            pause = lease.retry_interval
            timeout = lease.timeout(with_.monotonic())
            if timeout > 0:
                try:
                    known = await with_.trainers.renew(self._trainer, self._key, with_.lease, timeout)
                    lease.renewed(with_.monotonic())
                    pause = lease.interval
                    if not known:
                        return await self._commit(self._forgotten())
                    await self._check_stands(self._newest)
                except Conflict:
                    raise
                except LoupeError as error:
                    log.warning("a lease was not renewed", job=str(job.name), error=error.message)
            await asyncio.sleep(pause)
        return await self._commit(self._lost("it cannot be reached any more"))

    async def _replace_token(self, job: Job) -> Job:
        """Give the attempt a new token when half the life of its last one is over, and never return.

        Without a new one the attempt goes on until storage refuses it: that ends the job with storage's reason.
        """
        with_ = self._with
        while True:
            await asyncio.sleep(max(0.0, self._token_due - with_.monotonic()))
            try:
                token = await self._issue_token(job)
                await with_.trainers.replace_token(self._trainer, self._key, token.value, with_.lease / 5)
            except LoupeError as error:
                log.warning("an attempt's token was not replaced", job=str(job.name), error=error.message)
                self._token_due = with_.monotonic() + with_.lease / 5

    async def _check_stands(self, job: Job) -> None:
        """Notice what no event tells this process: that another replica moved the job."""
        if not await self._with.store.stands(job):
            raise Conflict(f"{job.name} was moved by another replica")

    def _may_give_away(self, lease: LeaseClock) -> bool:
        now = self._with.monotonic()
        lease.tick(now)
        return lease.may_give_away(now) and self._with.leadership.held

    def _forgotten(self) -> Change:
        return self._without_trainer(f"{self._trainer} does not know it any more; it was restarted")

    def _lost(self, why: str) -> Change:
        self._with.fleet.avoid(self._trainer, self._with.lease, "a job was lost there just now")
        return self._without_trainer(f"{self._trainer} was lost: {why}")

    def _without_trainer(self, message: str) -> Change:
        why = JobFailure(Unavailable.reason_name(), message)
        # Of the job as it is now: a checkpoint since the attempt began takes back the losses before it.
        return give_up_or_requeue(self._newest, Loss.TRAINER, why, self._with.now(), self._with.bounds)

    async def _publish(self, job: Job) -> Job:
        """Put the result into the library, for as long as it takes, and end the job."""
        assert job.finished is not None, "a job that is PUBLISHING has its result"
        try:
            publication = (prepare if job.spec.kind is JobKind.TRAIN else prepare_answers)(job, job.finished)
            result = publication.result
            if (model := publication.model) is not None:
                name = await self._retry(lambda: self._with.storage.publish(job.spec.model, model))
                result = replace(result, model_version=name)
        except LoupeError as error:
            return await self._commit(fail(job, error.reason_name(), error.message, self._with.now()))
        return await self._commit(conclude(job, result, publication.succeeded, self._with.now()))

    async def _dismiss(self) -> None:
        """Tell the trainer that the attempt is not wanted any more, while its lease could still live."""
        deadline = self._with.monotonic() + 2 * self._with.lease
        while self._with.monotonic() < deadline:
            try:
                return await self._with.trainers.cancel(self._trainer, self._key, _CANCEL_TIMEOUT)
            except LoupeError as error:
                told = {"trainer": str(self._trainer), "error": error.message}
                log.info("a trainer was not told that a job is over", **told)
            await asyncio.sleep(_CANCEL_PAUSE)

    async def _shut_out(self) -> None:
        """Have storage take nothing more from this attempt, whose token may outlive the job by hours.

        The job's end is committed by now, and the model published where there is one, so no call of the scheduler for
        this attempt is still to come; another replica's that is late finds the job moved on. Nothing depends on the
        fence: a process that dies before it is raised leaves it to the next attempt, which raises it before it starts,
        or, after the last one, to the end of the token's life.
        """
        backoff = Backoff(_FENCE_SECONDS, clock=self._with.monotonic)
        try:
            while True:
                try:
                    return await self._with.storage.raise_fence(self._key.job, self._key.attempt + 1)
                except TRANSIENT as error:
                    await backoff.wait(error)
        except LoupeError as error:
            log.warning("an attempt that ended was not shut out", job=str(self._key.job), error=error.message)

    async def _commit(self, change: Change) -> Job:
        return await self._retry(lambda: self._with.store.commit(change))

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Try until the dependency answers; what no try can change is raised.

        An INTERNAL error is raised too when it comes ten times in a row.
        """
        backoff, internal = Backoff(clock=self._with.monotonic), 0
        while True:
            try:
                return await call()
            except TRANSIENT as error:
                internal = internal + 1 if isinstance(error, Internal) else 0
                if internal >= _MAX_INTERNAL:
                    raise
                log.warning("a neighbour cannot be used now; trying again", error=error.message)
                await backoff.wait(error)
