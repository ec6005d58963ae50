"""NATS as the mesh uses it: job events into JetStream, and a follower that heals itself from its cursor.

A job's events stand under `loupe.progress.<project>.<job>`; the payload is a serialised loupe.scheduler.v1.JobEvent,
the message of WatchTrainingJob. JetStream acknowledges before it fsyncs; the record is the scheduler's database.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import random
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

import nats
from nats.aio.client import Client
from nats.errors import MaxPayloadError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig, StreamConsumerLimits
from nats.js.client import JetStreamContext
from nats.js.errors import NotFoundError

from loupe.errors import InvalidArgument, ResourceExhausted, Unavailable
from loupe.names import AccountName, JobName
from loupe.scheduler.v1 import training_job_pb2

if TYPE_CHECKING:
    from loupe.settings import ServiceSettings

log = logging.getLogger(__name__)
# nats-py upgrades its connections to TLS in a way that makes asyncio warn whenever one ends; it means nothing.
logging.getLogger("asyncio").addFilter(lambda record: "eof_received" not in record.getMessage())

STREAM = "PROGRESS"
SUBJECTS = "loupe.progress.>"
"""All that terminals may hear: NATS refuses a consumer that delivers into its own stream, so none feeds another's."""
KEPT_EVENTS_PER_JOB = 10_000
KEPT_SECONDS = 7 * 24 * 3600
DUPLICATE_WINDOW_SECONDS = 120
MOST_FOLLOWERS = 10_000
"""Terminals that follow at once; NATS would stop at 1,000."""
FOLLOWERS_PER_ACCOUNT = 16
"""Consumers that an account may have at once: NATS cannot count them, so the names that it may create are numbered."""
KEPT_CONSUMER_SECONDS = 30
"""How long NATS keeps a consumer that nobody listens to; the stream's limit, whatever a terminal asks for."""
_HEARTBEAT_SECONDS = 1.0
_PUBLISH_TIMEOUT = 2.0
# The server counts a message's headers, which nats-py does not, and cuts the connection of whoever sends too much.
_HEADER_BYTES = 512
_EXCEEDS_STREAM = 10054
_API_SECONDS = 3.0
_NAME_TAKEN = {10148, 10013}


def subject_of(job: JobName) -> str:
    """Return where a job's events stand."""
    return f"loupe.progress.{job.project}.{job.job}"


def inbox_prefix(token: str) -> str:
    """Return the secret inbox of whoever holds the token; auth's callout grants exactly this one."""
    return f"_INBOX_{hashlib.sha256(token.encode()).hexdigest()[:16]}"


def consumer_names(account: AccountName) -> list[str]:
    """Return the names that consumers of an account may have; auth's callout grants exactly these."""
    return [f"terminal-{account.account}-{number}" for number in range(FOLLOWERS_PER_ACCOUNT)]


def tls_context(ca: bytes) -> ssl.SSLContext:
    """Trust the mesh's own authority (PEM) and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.decode())
    return context


async def _ignore(error: Exception) -> None:
    log.debug("NATS connection error: %.200r", error)


class ProgressBus:
    """Publishes job events; it reconnects for ever."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stream: JetStreamContext = client.jetstream(timeout=_PUBLISH_TIMEOUT)

    @classmethod
    async def connect(cls, settings: ServiceSettings) -> ProgressBus:
        """Return a bus. Raises Unavailable when NATS does not answer now."""
        url = settings.nats_url
        try:
            client = await nats.connect(
                url,
                user=settings.nats_user or None,
                password=settings.secret(settings.nats_password_file),
                tls=tls_context(settings.tls_ca.read_bytes()) if url.startswith("tls://") else None,
                name=settings.nats_user or "loupe",
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.5,
                connect_timeout=5,
                allow_reconnect=True,
                error_cb=_ignore,
            )
            await client.flush(timeout=2)
        except (OSError, TimeoutError, nats.errors.Error) as error:
            raise Unavailable(f"NATS cannot be reached: {error!r}", dependency="nats") from error
        return cls(client)

    async def ensure_stream(self) -> None:
        """Create the stream, or bring it to this configuration. Raises Unavailable."""
        config = StreamConfig(
            name=STREAM,
            subjects=[SUBJECTS],
            max_msgs_per_subject=KEPT_EVENTS_PER_JOB,
            max_age=KEPT_SECONDS,
            duplicate_window=DUPLICATE_WINDOW_SECONDS,
            max_consumers=MOST_FOLLOWERS,
            consumer_limits=StreamConsumerLimits(inactive_threshold=KEPT_CONSUMER_SECONDS),
            allow_direct=True,
        )
        try:
            try:
                await self._stream.update_stream(config)
            except NotFoundError:
                await self._stream.add_stream(config)
        except (TimeoutError, nats.errors.Error) as error:
            raise Unavailable(f"NATS does not keep the stream {STREAM}: {error!r}", dependency="nats") from error

    async def publish(self, job: JobName, sequence: int, body: bytes) -> None:
        """Return when NATS has the event; the same sequence again is dropped there.

        body: a serialised JobEvent. Raises Unavailable, and ResourceExhausted for a body that is too large, however
        often it is sent.
        """
        if (size := len(body) + _HEADER_BYTES) > self._client.max_payload:
            raise _too_large(job, sequence, size)
        headers = {"Nats-Msg-Id": f"{job.project}/{job.job}/{sequence}"}
        try:
            await self._stream.publish(subject_of(job), body, stream=STREAM, headers=headers)
        except (TimeoutError, nats.errors.Error) as error:
            if isinstance(error, MaxPayloadError) or getattr(error, "err_code", None) == _EXCEEDS_STREAM:
                raise _too_large(job, sequence, size) from error
            raise Unavailable(f"NATS did not take an event: {error!r}", dependency="nats") from error

    async def purge(self, job: JobName) -> None:
        """Remove all events of a job; where there are none, do nothing. Raises Unavailable."""
        try:
            await self._stream.purge_stream(STREAM, subject=subject_of(job))
        except NotFoundError:
            return
        except (TimeoutError, nats.errors.Error) as error:
            raise Unavailable(f"NATS did not purge the events of {job}: {error!r}", dependency="nats") from error

    async def close(self) -> None:
        """End the connection."""
        await self._client.close()


def _too_large(job: JobName, sequence: int, size: int) -> ResourceExhausted:
    return ResourceExhausted(f"NATS does not take event {sequence} of {job}: {size} bytes", limit="nats_payload")


async def follow_progress(
    url: str,
    *,
    token: str,
    ca: bytes | None,
    job: JobName,
    after_sequence: int = 0,
    monotonic: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[training_job_pb2.JobEvent, None]:
    """Yield a job's events after a cursor, history first, then live, each once and in order.

    token: the terminal's access token. Ends by raising Unavailable when NATS is away, refuses the token, has no
    such stream or no consumer left for this account, or is silent for 3 heartbeats: the caller then follows anew from
    its cursor, or by WatchTrainingJob.
    """
    client = await _connect_terminal(url, token, ca)
    name = ""
    try:
        config = await _create_consumer(client, account_of(token), job)
        name = str(config.name)
        subscription = await client.jetstream().subscribe_bind(STREAM, config, name, manual_ack=True)
        last_sign = monotonic()
        cursor = after_sequence
        while True:
            try:
                message = await subscription.next_msg(timeout=_HEARTBEAT_SECONDS)
            except TimeoutError:
                # nats-py swallows heartbeats and only notes that one came.
                if (state := subscription._sub._jsi) is not None and state._active:
                    state._active = False
                    last_sign = monotonic()
                if not client.is_connected or monotonic() - last_sign > 3 * _HEARTBEAT_SECONDS:
                    raise Unavailable("NATS is silent", dependency="nats") from None
                continue
            last_sign = monotonic()
            event = training_job_pb2.JobEvent.FromString(message.data)
            if event.sequence > cursor:
                cursor = event.sequence
                yield event
    except (nats.errors.Error, nats.js.errors.Error) as error:
        raise Unavailable(f"NATS does not give the job's progress: {error!r}", dependency="nats") from error
    finally:
        with contextlib.suppress(nats.errors.Error, TimeoutError, OSError):
            if name and client.is_connected:
                await client.publish(f"$JS.API.CONSUMER.DELETE.{STREAM}.{name}")
                await client.flush(timeout=1)
            await asyncio.wait_for(client.close(), 2)


def account_of(token: str) -> AccountName:
    """Read an access token of one's own: whose it is. Raises Unavailable for what is none."""
    try:
        body = token.split(".")[1]
        return AccountName.parse(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["sub"])
    except (ValueError, IndexError, KeyError, TypeError, InvalidArgument) as error:
        raise Unavailable("the access token is none, so NATS cannot be asked", dependency="nats") from error


async def _create_consumer(client: Client, account: AccountName, job: JobName) -> ConsumerConfig:
    """Return a new consumer of a job's events that delivers to the client.

    Its name stands in the API subject with the filter, where both can be authorised; an account has few of them. Raises
    Unavailable when all are taken.
    """
    subject = subject_of(job)
    for name in random.sample(names := consumer_names(account), len(names)):
        config = ConsumerConfig(
            name=name,
            filter_subject=subject,
            deliver_subject=client.new_inbox(),
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
            mem_storage=True,
            num_replicas=1,
            inactive_threshold=KEPT_CONSUMER_SECONDS,
            idle_heartbeat=_HEARTBEAT_SECONDS,
        )
        # "create" leaves a consumer alone that has the name already.
        body = {"stream_name": STREAM, "action": "create", "config": config.as_dict()}
        api = f"$JS.API.CONSUMER.CREATE.{STREAM}.{name}.{subject}"
        answer = json.loads((await client.request(api, json.dumps(body).encode(), timeout=_API_SECONDS)).data)
        error = answer.get("error")
        if error is None:
            return config
        if error.get("err_code") not in _NAME_TAKEN:
            raise Unavailable(f"NATS does not give the job's progress: {error}", dependency="nats")
    raise Unavailable(f"{account} follows as many jobs over NATS as it may", dependency="nats")


async def _connect_terminal(url: str, token: str, ca: bytes | None) -> Client:
    try:
        client = await nats.connect(
            url,
            token=token,
            tls=tls_context(ca) if ca and url.startswith("tls://") else None,
            inbox_prefix=inbox_prefix(token),
            allow_reconnect=False,
            # Without these a refused connection is tried for two minutes before connect() says so.
            max_reconnect_attempts=1,
            reconnect_time_wait=0.1,
            connect_timeout=5,
            error_cb=_ignore,
        )
        # While auth is away, connect() can return a client that the server has already refused.
        await client.flush(timeout=2)
    except (OSError, TimeoutError, nats.errors.Error) as error:
        raise Unavailable(f"NATS cannot be reached: {error!r}", dependency="nats") from error
    return client


async def check_access(url: str, *, token: str, ca: bytes | None) -> None:
    """Return when NATS lets a terminal in with its access token. Raises Unavailable."""
    client = await _connect_terminal(url, token, ca)
    await client.close()
