"""Driving one job from the trainer's choice to the job's end: start the attempt, follow it, publish what it made."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog

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
from loupe.names import TrainerName
from loupe.scheduler.v1.training_job_pb2 import JobFailure, JobResult
from loupe.trainer.v1.attempt_pb2 import AttemptState
from services.scheduler.clients.dependencies import Library, StorageToken, Tokens, Trainers
from services.scheduler.dispatch.attempt_events import absorb, batches
from services.scheduler.dispatch.lease import LeaseClock
from services.scheduler.dispatch.publication import prepare
from services.scheduler.jobs.job import (
    ACTIVE,
    Bounds,
    Change,
    Job,
    Loss,
    State,
    conclude,
    fail,
    give_up_or_requeue,
    requeue,
    start,
)
from services.scheduler.jobs.messages import attempt_key, attempt_spec
from services.scheduler.jobs.store import Conflict, JobStore

log = structlog.get_logger(__name__)

TRANSIENT = (Unavailable, Cancelled, Internal, ResourceExhausted, Throttled)
"""Errors of a neighbour after which trying again may help."""

_MAX_INTERNAL = 10
_TOKEN_SHARE = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

T = TypeVar("T")


@dataclass(frozen=True)
class Neighbourhood:
    """What a driver works with.

    monotonic in seconds, now in UTC. may_give_away says whether this process may take work away from a trainer that
    is silent. avoid keeps jobs away from a trainer for some seconds, and says why.
    """

    store: JobStore
    trainers: Trainers
    library: Library
    tokens: Tokens
    lease: float
    bounds: Bounds
    monotonic: Callable[[], float]
    now: Callable[[], datetime]
    may_give_away: Callable[[], bool]
    avoid: Callable[[TrainerName, float, str], None]


class Driver:
    """Drives one job while it is DISPATCHING, RUNNING or PUBLISHING, from wherever it stands.

    Everything is written by compare-and-set, so two drivers of one job do no harm: the loser reads again.
    """

    def __init__(self, job: Job, with_: Neighbourhood) -> None:
        self._job = job
        self._with = with_
        self._disturbed = asyncio.Event()
        # Of a token that another process issued nothing is known: it is replaced at once.
        self._token_due = -math.inf

    def disturb(self) -> None:
        """Make the driver look again where the job stands: it was cancelled."""
        self._disturbed.set()

    async def run(self) -> Job:
        """Return the job as it is when this attempt needs nobody any more: queued again, final, or another's."""
        steps = {State.DISPATCHING: self._start, State.RUNNING: self._follow, State.PUBLISHING: self._publish}
        job = self._job
        while job.state in ACTIVE and job.attempt == self._job.attempt:
            try:
                job = await self._unless_disturbed(steps[job.state](job))
            except Conflict:
                self._disturbed.clear()
                job = await self._persist(lambda uid=job.uid: self._with.store.load(uid))
        return job

    async def _unless_disturbed(self, step: Awaitable[Job]) -> Job:
        return await race(step, self._stop_when_disturbed())

    async def _stop_when_disturbed(self) -> Job:
        await self._disturbed.wait()
        raise Conflict("somebody changed the job")

    async def _start(self, job: Job) -> Job:
        """Fence off older attempts, get the token, and tell the trainer."""
        try:
            token, *_ = await gather(self._issue_token(job), *self._fences(job))
        except LoupeError as error:
            return await self._commit(fail(job, error.reason_name(), error.message, self._with.now()))
        return await self._commit(await self._tell_trainer(job, token.value))

    def _fences(self, job: Job) -> list[Awaitable[None]]:
        """Return the calls after which no older attempt can write; a first attempt has none before it."""
        if job.attempt == 1:
            return []
        return [self._persist(lambda: self._with.library.raise_fence(job.name, job.attempt))]

    async def _issue_token(self, job: Job) -> StorageToken:
        token = await self._persist(lambda: self._with.tokens.issue(str(job.spec.submitter), job.name, job.attempt))
        self._token_due = self._with.monotonic() + max(_TOKEN_SHARE * token.lifetime, self._with.lease / 5)
        return token

    async def _tell_trainer(self, job: Job, token: str) -> Change:
        assert job.trainer is not None, "a job that is DISPATCHING has a trainer"
        with_, now = self._with, self._with.now
        lease = LeaseClock(with_.lease, with_.monotonic())
        message = attempt_spec(job, token)
        while not self._may_give_away(lease):
            patience = lease.patience(with_.monotonic())
            if patience > 0:
                try:
                    await with_.trainers.start(job.trainer, message, with_.lease, patience)
                    return start(job, now())
                except (TrainerBusy, SandboxUnavailable, StaleAttempt) as error:
                    with_.avoid(job.trainer, with_.lease / 5, f"it refused a job just now: {error.message}")
                    return requeue(job, Loss.NOTHING, f"{job.trainer} refused it: {error.message}", now())
                except TRANSIENT as error:
                    log.warning("trainer did not take a job", job=str(job.name), error=error.message)
                except LoupeError as error:
                    return fail(job, error.reason_name(), error.message, now())
            await asyncio.sleep(lease.retry_interval)
        return self._lost(job, "it did not answer when it was given the job")

    async def _follow(self, job: Job) -> Job:
        """Write down what the trainer tells, and keep its lease and its token alive meanwhile."""
        return await race(self._watch(job), self._renew(job), self._replace_token(job))

    async def _watch(self, job: Job) -> Job:
        assert job.trainer is not None, "a job that is RUNNING has a trainer"
        trainers, now = self._with.trainers, self._with.now
        pause = _FIRST_PAUSE
        while True:
            try:
                async with (
                    aclosing(trainers.watch(job.trainer, attempt_key(job), job.trainer_sequence)) as source,
                    aclosing(batches(source)) as received,
                ):
                    async for batch in received:
                        pause = _FIRST_PAUSE
                        job = await self._commit(absorb(job, batch, now(), self._with.bounds))
                        if job.state is not State.RUNNING:
                            return job
            except AttemptUnknown:
                return await self._commit(self._forgotten(job))
            except Conflict:
                raise
            except LoupeError as error:
                log.info("the watch of an attempt broke", job=str(job.name), error=error.message)
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._with.lease / 5)

    async def _renew(self, job: Job) -> Job:
        assert job.trainer is not None, "a job that is RUNNING has a trainer"
        with_ = self._with
        lease = LeaseClock(with_.lease, with_.monotonic())
        while not self._may_give_away(lease):
            pause = lease.retry_interval
            patience = lease.patience(with_.monotonic())
            if patience > 0:
                try:
                    state = await with_.trainers.renew(job.trainer, attempt_key(job), with_.lease, patience)
                    lease.renewed(with_.monotonic())
                    pause = lease.interval
                    if state == AttemptState.ATTEMPT_STATE_UNSPECIFIED:
                        return await self._commit(self._forgotten(job))
                    await self._check_stands(job)
                except Conflict:
                    raise
                except LoupeError as error:
                    log.warning("a lease was not renewed", job=str(job.name), error=error.message)
            await asyncio.sleep(pause)
        return await self._commit(self._lost(job, "it cannot be reached any more"))

    async def _replace_token(self, job: Job) -> Job:
        """Give the attempt a new token when half the life of its last one is over, and never returns.

        Without a new one the attempt goes on until storage refuses it: that ends the job with storage's reason.
        """
        assert job.trainer is not None, "a job that is RUNNING has a trainer"
        trainer, key, with_ = job.trainer, attempt_key(job), self._with
        while True:
            await asyncio.sleep(max(0.0, self._token_due - with_.monotonic()))
            try:
                token = await self._issue_token(job)
                await with_.trainers.replace_token(trainer, key, token.value, with_.lease / 5)
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
        return lease.may_give_away(now) and self._with.may_give_away()

    def _forgotten(self, job: Job) -> Change:
        return self._without_trainer(job, f"{job.trainer} does not know it any more; it was restarted")

    def _lost(self, job: Job, why: str) -> Change:
        assert job.trainer is not None
        self._with.avoid(job.trainer, self._with.lease, "a job was lost there just now")
        return self._without_trainer(job, f"{job.trainer} was lost: {why}")

    def _without_trainer(self, job: Job, message: str) -> Change:
        why = JobFailure(reason=Unavailable.reason_name(), message=message)
        return give_up_or_requeue(job, Loss.TRAINER, why, self._with.now(), self._with.bounds)

    async def _publish(self, job: Job) -> Job:
        """Put the result into the library, for as long as it takes, and end the job."""
        assert job.finished is not None, "a job that is PUBLISHING has its result"
        try:
            publication = prepare(job, job.finished)
            result = JobResult()
            result.CopyFrom(publication.result)
            if (model := publication.model) is not None:
                published = await self._persist(lambda: self._with.library.publish(job.spec.model, model))
                result.model_version = published.name
        except LoupeError as error:
            return await self._commit(fail(job, error.reason_name(), error.message, self._with.now()))
        return await self._commit(conclude(job, result, publication.released, self._with.now()))

    async def _commit(self, change: Change) -> Job:
        return await self._persist(lambda: self._with.store.commit(change))

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Try until the neighbour answers; what no try can change is raised.

        An INTERNAL error is raised too when it comes ten times in a row.
        """
        pause, internal = _FIRST_PAUSE, 0
        while True:
            try:
                return await call()
            except TRANSIENT as error:
                internal = internal + 1 if isinstance(error, Internal) else 0
                if internal >= _MAX_INTERNAL:
                    raise
                log.warning("a neighbour cannot be used now; trying again", error=error.message, seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
