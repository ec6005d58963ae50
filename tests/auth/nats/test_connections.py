"""A terminal's access token at a real NATS server: its own projects' progress, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import Error as JetStreamError

from deploy.local.certificates import Leaf, ensure_certificates
from deploy.local.nats import (
    CALLOUT_SEED,
    XKEY_SEED,
    ensure_nats_secrets,
    nats_binary,
    nats_configuration,
    password_file,
)
from deploy.local.state import StateDirectory
from loupe.auth.v1 import account_service_pb2, group_service_pb2, policy_service_pb2, session_service_pb2
from loupe.bus import ProgressBus, consumer_names, follow_progress, inbox_prefix, subject_of, tls_context
from loupe.errors import Unavailable
from loupe.names import AccountName, JobName
from loupe.scheduler.v1.training_job_pb2 import JobEvent
from tests.auth.conftest import PASSWORD, RunningAuth
from tests.nats_client import taken_by_server
from tests.ports import free_port

OURS, THEIRS = "loupe.progress.line-7.job-1", "loupe.progress.line-9.job-1"
ANNAS = consumer_names(AccountName("anna"))
# Seconds within which whatever is granted comes; the disk, which every message waits for, may be busy.
TIMEOUT_SECONDS = 10


async def eventually(condition: Callable[[], Awaitable[bool] | bool], seconds: float = 10.0) -> float:
    """Wait until a condition holds and return after how many seconds it did."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    raise AssertionError(f"did not become true within {seconds} s")


class NatsServer:
    """The server's process; it can be killed and started again on the same data."""

    def __init__(self, configuration: Path) -> None:
        self._configuration = configuration
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Run it; its log lies beside its configuration."""
        with self._configuration.with_suffix(".log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(nats_binary()), "--config", str(self._configuration), stderr=log, stdout=log
            )

    async def kill(self) -> None:
        """End it the hard way."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


class Heard(Client):
    """A client that remembers what it was refused."""

    refused: list[str]


@dataclass
class Bus:
    """A running NATS server beside a running auth."""

    auth: RunningAuth
    state: StateDirectory
    url: str
    server: NatsServer
    clients: list[Heard] = field(default_factory=list)

    async def connect(self, **credentials: Any) -> Heard:
        """Log in and be sure of it."""
        tls = tls_context((self.state.tls / "ca.pem").read_bytes())
        refused: list[str] = []

        async def note(error: Exception) -> None:
            refused.append(str(error))

        client = Heard()
        await client.connect(
            self.url,
            tls=tls,
            error_cb=note,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0.1,  # type: ignore[arg-type]  # nats-py takes fractions too
            connect_timeout=3,
            **credentials,
        )
        client.refused = refused
        await client.flush(timeout=TIMEOUT_SECONDS)
        self.clients.append(client)
        return client

    async def scheduler(self) -> Heard:
        """Log in as the one that writes progress."""
        password = password_file(self.state, "scheduler").read_text().strip()
        return await self.connect(user="scheduler", password=password)

    async def operator(self) -> Heard:
        """Log in as the one that may list the stream's consumers."""
        return await self.connect(user="auth", password=password_file(self.state, "auth").read_text().strip())

    async def terminal(self, token: str) -> Heard:
        """Log in with an access token."""
        return await self.connect(token=token, inbox_prefix=inbox_prefix(token))


@pytest.fixture
async def bus(
    tmp_path: Path, running_auth: Callable[..., contextlib.AbstractAsyncContextManager[RunningAuth]]
) -> AsyncIterator[Bus]:
    """Give NATS with the configuration of the local mesh, its stream filled for two projects, and auth."""
    state = StateDirectory(tmp_path / "mesh")
    state.prepare()
    leaves = [Leaf(name, f"loupe://service/{name}") for name in ("auth", "storage", "scheduler")]
    ensure_certificates(state.tls, [*leaves, Leaf("nats")], datetime.now(UTC))
    ensure_nats_secrets(state)
    port = free_port()
    configuration = tmp_path / "server.conf"
    configuration.write_text(nats_configuration(state, port))
    server = NatsServer(configuration)
    await server.start()
    settings: dict[str, Any] = {
        "tls_ca": state.tls / "ca.pem",
        "tls_cert": state.tls / "auth.pem",
        "tls_key": state.tls / "auth.key",
        "nats_url": f"tls://127.0.0.1:{port}",
        "nats_user": "auth",
        "nats_password_file": password_file(state, "auth"),
        "nats_callout_seed_file": state.secret(CALLOUT_SEED),
        "nats_xkey_file": state.secret(XKEY_SEED),
        "nats_sys_user": "auth-sys",
        "nats_sys_password_file": password_file(state, "auth-sys"),
    }
    try:
        async with running_auth(**settings) as auth:
            bus = Bus(auth, state, settings["nats_url"], server)
            await make_projects(auth)
            await fill_stream(bus)
            yield bus
            for client in bus.clients:
                await client.close()
    finally:
        await server.kill()


async def make_projects(auth: RunningAuth) -> None:
    """anna views line-7, bert owns line-9."""
    admin, storage = await auth.administrator(), auth.service("storage")
    for account in ("anna", "bert"):
        await admin.accounts.CreateAccount(
            account_service_pb2.CreateAccountRequest(
                account_id=account, password=PASSWORD, group="projects/system/groups/staff"
            )
        )
    for project, owner in (("line-7", "admin"), ("line-9", "bert")):
        await storage.policy.EnsureProject(
            policy_service_pb2.EnsureProjectRequest(
                project=f"projects/{project}", project_uid=project, owner=f"accounts/{owner}"
            )
        )
    await admin.groups.AddMember(
        group_service_pb2.AddMemberRequest(name="projects/line-7/groups/viewers", account="accounts/anna")
    )


async def fill_stream(bus: Bus) -> None:
    """Five messages for each of two projects, as the scheduler writes them."""

    async def filled() -> bool:
        try:
            scheduler = await bus.scheduler()
        except (OSError, nats.errors.Error):
            return False
        stream = scheduler.jetstream()
        await ProgressBus(scheduler).ensure_stream()
        for subject in (OURS, THEIRS):
            for number in range(5):
                await stream.publish(subject, f"{subject} {number}".encode())
        return True

    await eventually(filled)


async def connected(bus: Bus, token: str) -> Heard:
    """Return a terminal, once auth has its callout connection."""
    found: list[Heard] = []

    async def attempt() -> bool:
        try:
            found.append(await bus.terminal(token))
        except (OSError, nats.errors.Error):
            return False
        return True

    await eventually(attempt)
    return found[0]


async def test_a_terminal_reads_its_projects_and_the_server_refuses_the_rest(bus: Bus):
    """Own history and live messages come; every way to more is refused by the server."""
    token = (await bus.auth.login("anna")).access_token
    anna = await connected(bus, token)
    scheduler = await bus.scheduler()
    await control_reads_own_project(anna, scheduler)
    await wider_subscriptions_are_refused(anna)
    await wider_consumers_are_refused(anna, token)
    await direct_get_of_another_project_is_refused(anna)
    await changing_the_stream_is_refused(anna, scheduler)
    await a_consumer_that_delivers_into_the_api_changes_nothing(anna, scheduler)


async def control_reads_own_project(anna: Heard, scheduler: Heard) -> None:
    """The control: what is granted works, so a refusal below is a refusal."""
    stream = anna.jetstream(timeout=TIMEOUT_SECONDS)
    config = ConsumerConfig(name=ANNAS[0], ack_policy=AckPolicy.NONE, mem_storage=True)
    subscription = await stream.subscribe(OURS, stream="PROGRESS", manual_ack=True, config=config)
    history = [(await subscription.next_msg(timeout=TIMEOUT_SECONDS)).data for _ in range(5)]
    assert history == [f"{OURS} {number}".encode() for number in range(5)]
    await scheduler.jetstream().publish(OURS, b"live")
    assert (await subscription.next_msg(timeout=TIMEOUT_SECONDS)).data == b"live"
    plain = await anna.subscribe(OURS)
    await taken_by_server(anna)
    await scheduler.jetstream().publish(OURS, b"live again")
    assert (await plain.next_msg(timeout=TIMEOUT_SECONDS)).data == b"live again"
    assert not anna.refused


async def wider_subscriptions_are_refused(anna: Heard) -> None:
    """Each subject answers with a permissions violation."""
    for subject in (
        THEIRS,
        ">",
        "loupe.>",
        "loupe.progress.>",
        "loupe.progress.*.job-1",
        "_INBOX.>",
        "$SYS.>",
        "$JS.>",
    ):
        anna.refused.clear()
        await anna.subscribe(subject)
        await taken_by_server(anna)
        await eventually(lambda: any("permissions violation" in error for error in anna.refused))


async def wider_consumers_are_refused(anna: Heard, token: str) -> None:
    """A consumer's filter must be the project's own, in the subject and in the body alike."""
    manager = anna.jetstream(timeout=0.3)._jsm
    place = inbox_prefix(token) + ".deliver"
    for config in (
        ConsumerConfig(name=ANNAS[1], filter_subject=THEIRS, deliver_subject=place),
        ConsumerConfig(name=ANNAS[2], filter_subject="loupe.progress.*.*", deliver_subject=place),
        ConsumerConfig(name=ANNAS[3], deliver_subject=place),
        ConsumerConfig(name=ANNAS[4], filter_subjects=[OURS, THEIRS], deliver_subject=place),
    ):
        with pytest.raises((nats.errors.TimeoutError, JetStreamError)):
            await manager.add_consumer("PROGRESS", config=config)
    lie = {
        "stream_name": "PROGRESS",
        "config": ConsumerConfig(name=ANNAS[5], filter_subject=THEIRS, deliver_subject=place).as_dict(),
    }
    subject = f"$JS.API.CONSUMER.CREATE.PROGRESS.{ANNAS[5]}.{OURS}"
    answer = await anna.request(subject, json.dumps(lie).encode(), timeout=TIMEOUT_SECONDS)
    assert "error" in json.loads(answer.data)
    own = ConsumerConfig(name=ANNAS[6], filter_subject=OURS, deliver_subject=place)
    assert (await anna.jetstream(timeout=TIMEOUT_SECONDS)._jsm.add_consumer("PROGRESS", config=own)).name == ANNAS[6]


async def direct_get_of_another_project_is_refused(anna: Heard) -> None:
    """The last message of the own job comes, that of another project does not."""
    stream = anna.jetstream(timeout=0.3)
    assert (await stream.get_last_msg("PROGRESS", OURS, direct=True)).data
    with pytest.raises((nats.errors.TimeoutError, JetStreamError)):
        await stream.get_last_msg("PROGRESS", THEIRS, direct=True)


async def changing_the_stream_is_refused(anna: Heard, scheduler: Heard) -> None:
    """No deleting, no purging, no forged progress; the stream is as it was."""
    before = (await scheduler.jetstream().stream_info("PROGRESS")).state
    manager = anna.jetstream(timeout=0.3)._jsm
    with pytest.raises((nats.errors.TimeoutError, JetStreamError)):
        await manager.delete_stream("PROGRESS")
    with pytest.raises((nats.errors.TimeoutError, JetStreamError)):
        await manager.purge_stream("PROGRESS")
    await anna.publish(OURS, b"forged")
    await taken_by_server(anna)
    after = (await scheduler.jetstream().stream_info("PROGRESS")).state
    assert (after.messages, after.last_seq) == (before.messages, before.last_seq)


async def a_consumer_that_delivers_into_the_api_changes_nothing(anna: Heard, scheduler: Heard) -> None:
    """What the server delivers for a consumer is no request of its own, wherever it is delivered to."""
    manager = anna.jetstream(timeout=1)._jsm
    for number, call in enumerate(("PURGE", "DELETE")):
        place = f"$JS.API.STREAM.{call}.PROGRESS"
        config = ConsumerConfig(name=ANNAS[7 + number], filter_subject=OURS, deliver_subject=place, headers_only=True)
        with contextlib.suppress(nats.errors.TimeoutError, JetStreamError):  # refused would be as good
            await manager.add_consumer("PROGRESS", config=config)
    before = (await scheduler.jetstream().stream_info("PROGRESS")).state
    await scheduler.jetstream().publish(OURS, b"")
    await control_follows(anna, scheduler)
    after = (await scheduler.jetstream().stream_info("PROGRESS")).state
    assert (after.first_seq, after.messages) == (before.first_seq, before.messages + 2)


async def control_follows(anna: Heard, scheduler: Heard) -> None:
    """By when this has come, the server has delivered what was written before."""
    plain = await anna.subscribe(OURS)
    await taken_by_server(anna)
    await scheduler.jetstream().publish(OURS, b"later")
    assert (await plain.next_msg(timeout=TIMEOUT_SECONDS)).data == b"later"


async def test_a_terminal_follows_a_job_as_it_comes_and_hears_of_the_servers_end(bus: Bus):
    """History after the cursor, then live, in order and once; a server that is killed ends it with Unavailable."""
    token = (await bus.auth.login("anna")).access_token
    await connected(bus, token)
    stream = (await bus.scheduler()).jetstream()
    job = JobName("line-7", "job-2")

    async def write(*sequences: int) -> None:
        for sequence in sequences:
            await stream.publish(subject_of(job), JobEvent(job=str(job), sequence=sequence).SerializeToString())

    await write(1, 2, 3)
    ca = (bus.state.tls / "ca.pem").read_bytes()
    heard: list[int] = []
    with pytest.raises(Unavailable):
        async with asyncio.timeout(30):
            async for event in follow_progress(bus.url, token=token, ca=ca, job=job, after_sequence=1):
                heard.append(event.sequence)
                if event.sequence == 3:
                    await write(4, 4, 5)
                if event.sequence == 5:
                    await bus.server.kill()
    assert heard == [2, 3, 4, 5]


async def test_who_has_no_good_token_is_not_let_in(bus: Bus):
    """No token, a forged one, an attempt's, and one of an account without projects: none gets in; a good one does."""
    good = (await bus.auth.login("anna")).access_token
    await connected(bus, good)
    asked = policy_service_pb2.IssueAttemptTokenRequest(
        account="accounts/bert", job="projects/line-9/jobs/job-1", attempt=1
    )
    attempt_token = (await bus.auth.service("scheduler").policy.IssueAttemptToken(asked)).token
    admin = await bus.auth.administrator()
    await admin.accounts.CreateAccount(
        account_service_pb2.CreateAccountRequest(
            account_id="carl", password=PASSWORD, group="projects/system/groups/staff"
        )
    )
    without_projects = (await bus.auth.login("carl")).access_token
    for token in ("", "nonsense", good[:-4] + "AAAA", attempt_token, without_projects):
        with pytest.raises((OSError, nats.errors.Error)):
            await bus.terminal(token)


async def test_a_revoked_right_cuts_the_open_connection(bus: Bus):
    """Taken out of the group, logged out, disabled, deleted: the open connection ends within 5 s; others stay."""
    admin = await bus.auth.administrator()
    anna_tokens, bert_tokens = await bus.auth.login("anna"), await bus.auth.login("bert")
    anna, bert = await connected(bus, anna_tokens.access_token), await connected(bus, bert_tokens.access_token)
    await admin.groups.RemoveMember(
        group_service_pb2.RemoveMemberRequest(name="projects/line-7/groups/viewers", account="accounts/anna")
    )
    assert await eventually(lambda: anna.is_closed) < 5
    with pytest.raises((OSError, nats.errors.Error)):
        await bus.terminal(anna_tokens.access_token)
    assert bert.is_connected
    await bus.auth.terminal().sessions.Logout(
        session_service_pb2.LogoutRequest(refresh_token=bert_tokens.refresh_token)
    )
    assert await eventually(lambda: bert.is_closed) < 5
    again = await connected(bus, (await bus.auth.login("bert")).access_token)
    await admin.accounts.DisableAccount(account_service_pb2.DisableAccountRequest(name="accounts/bert"))
    assert await eventually(lambda: again.is_closed) < 5
    await admin.accounts.EnableAccount(account_service_pb2.EnableAccountRequest(name="accounts/bert"))
    again = await connected(bus, (await bus.auth.login("bert")).access_token)
    await admin.accounts.DeleteAccount(account_service_pb2.DeleteAccountRequest(name="accounts/bert"))
    assert await eventually(lambda: again.is_closed) < 5


async def ask_for_consumer(client: Heard, name: str, config: dict[str, Any], subject: str = OURS) -> dict[str, Any]:
    """Ask the server for a consumer by hand and return its answer; {} when it does not let the request through."""
    body = {"stream_name": "PROGRESS", "action": "create", "config": {"filter_subject": subject, **config}}
    try:
        api = f"$JS.API.CONSUMER.CREATE.PROGRESS.{name}.{subject}"
        answer = await client.request(api, json.dumps(body).encode(), timeout=1)
    except nats.errors.TimeoutError:
        return {}
    decoded: dict[str, Any] = json.loads(answer.data)
    return decoded


async def names_at(bus: Bus) -> set[str]:
    """Return the names of the stream's consumers, as the server itself tells its operators."""
    return await names_told(await bus.operator())


async def names_told(operator: Heard) -> set[str]:
    answer = await operator.request("loupe.consumers.list", b"", timeout=TIMEOUT_SECONDS)
    return {one["name"] for one in json.loads(answer.data)["consumers"]}


PLAIN = {"ack_policy": "none", "deliver_policy": "all", "mem_storage": True, "num_replicas": 1}


async def test_a_viewer_who_makes_all_consumers_there_are_keeps_nobody_from_following(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
):
    """Whatever is asked for: 16 at most, durable ones not for long; another project's owner follows his job."""
    monkeypatch.setattr("loupe.bus.MOST_FOLLOWERS", 40)
    scheduler = await bus.scheduler()
    await ProgressBus(scheduler).ensure_stream()
    anna = await connected(bus, (await bus.auth.login("anna")).access_token)
    asked = [(f"d{number}", {"name": f"d{number}", "durable_name": f"d{number}", **PLAIN}) for number in range(30)]
    asked += [(name, {"name": f"other-{name}", **PLAIN}) for name in ANNAS]
    asked += [(name, {"name": name, "durable_name": f"other-{name}", **PLAIN}) for name in ANNAS]
    asked += [(name, {"name": name, "durable_name": name, **PLAIN}) for name in ANNAS]
    await asyncio.gather(*(ask_for_consumer(anna, name, config) for name, config in asked))
    assert await names_at(bus) <= set(ANNAS)
    token = (await bus.auth.login("bert")).access_token
    job = JobName("line-9", "job-2")
    stream = scheduler.jetstream()
    await stream.publish(subject_of(job), JobEvent(job=str(job), sequence=1).SerializeToString())
    ca = (bus.state.tls / "ca.pem").read_bytes()
    async with contextlib.aclosing(follow_progress(bus.url, token=token, ca=ca, job=job)) as events:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            assert (await anext(events)).sequence == 1


@pytest.fixture
def frequent_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The janitor of an auth that is started later sweeps twice a second."""
    monkeypatch.setattr("services.auth.nats.connections._CONSUMERS_SECONDS", 0.5)


@pytest.mark.usefixtures("frequent_sweeps")
async def test_a_durable_consumer_does_not_last(bus: Bus):
    """Nor one that has things sent again: the janitor takes it away while its maker is still there."""
    anna = await connected(bus, (await bus.auth.login("anna")).access_token)
    await ask_for_consumer(anna, ANNAS[0], {"durable_name": ANNAS[0], "ack_policy": "none"})
    await ask_for_consumer(anna, ANNAS[1], {**PLAIN, "ack_policy": "explicit", "ack_wait": 1_000_000})
    made = await ask_for_consumer(anna, ANNAS[2], PLAIN)
    assert "error" not in made
    assert await eventually(lambda: _are(bus, {ANNAS[2]})) < 8


async def _are(bus: Bus, names: set[str]) -> bool:
    return await names_at(bus) == names


async def test_a_consumer_that_nobody_listens_to_does_not_last(bus: Bus, monkeypatch: pytest.MonkeyPatch):
    """However long its maker wants it to: the stream has a limit."""
    monkeypatch.setattr("loupe.bus.KEPT_CONSUMER_SECONDS", 1)
    await ProgressBus(await bus.scheduler()).ensure_stream()
    anna = await connected(bus, (await bus.auth.login("anna")).access_token)
    assert "error" in await ask_for_consumer(anna, ANNAS[0], {**PLAIN, "inactive_threshold": 10**15})
    assert "error" not in await ask_for_consumer(anna, ANNAS[1], {**PLAIN, "deliver_subject": anna.new_inbox()})
    assert await _are(bus, {ANNAS[1]})
    await anna.close()
    assert await eventually(lambda: _are(bus, set())) < 8


async def test_who_was_thrown_out_leaves_no_consumer_behind(bus: Bus):
    """Not even one that goes on into an accomplice's hands; it cannot be made to deliver where others may listen."""
    scheduler = await bus.scheduler()
    anna = await connected(bus, (await bus.auth.login("anna")).access_token)
    bert = await connected(bus, (await bus.auth.login("bert")).access_token)
    for place in ("loupe.progress.line-9.job-1", "loupe.progress.line-9.job-1.mine"):
        answer = await ask_for_consumer(anna, ANNAS[0], {**PLAIN, "deliver_subject": place})
        assert answer["error"]["err_code"] == 10081  # "consumer deliver subject forms a cycle"
    heard: list[bytes] = []

    async def hear(message: Msg) -> None:
        heard.append(message.data)

    inbox = bert.new_inbox()
    await bert.subscribe(inbox, cb=hear)
    await taken_by_server(bert)
    assert "error" not in await ask_for_consumer(anna, ANNAS[0], {**PLAIN, "deliver_subject": inbox})
    await eventually(lambda: len(heard) == 5)
    admin = await bus.auth.administrator()
    await admin.groups.RemoveMember(
        group_service_pb2.RemoveMemberRequest(name="projects/line-7/groups/viewers", account="accounts/anna")
    )
    assert await eventually(lambda: _are(bus, set())) < 5
    await scheduler.jetstream().publish(OURS, b"after she was thrown out")
    await taken_by_server(bert)
    assert len(heard) == 5


async def test_redelivery_and_slow_reading_do_not_hurt_others(bus: Bus):
    """16 consumers that are sent everything again each millisecond, to a terminal that reads nothing of it.

    While they are there another project's events come as ever; the janitor takes them away in the end.
    """
    scheduler, operator = await bus.scheduler(), await bus.operator()
    stream = scheduler.jetstream()
    for number in range(500):
        await stream.publish_async(OURS, bytes(1000 + number))
    await stream.publish_async_completed()
    anna = await connected(bus, (await bus.auth.login("anna")).access_token)
    for name in ANNAS:
        config = {**PLAIN, "ack_policy": "explicit", "ack_wait": 1_000_000, "deliver_subject": anna.new_inbox()}
        await ask_for_consumer(anna, name, config)
    await anna.subscribe(f"{inbox_prefix(anna.options['token'])}.>")
    await anna.flush(timeout=TIMEOUT_SECONDS)
    anna._reading_task.cancel()
    token = (await bus.auth.login("bert")).access_token
    job = JobName("line-9", "job-2")
    ca = (bus.state.tls / "ca.pem").read_bytes()
    waits: list[float] = []
    async with contextlib.aclosing(follow_progress(bus.url, token=token, ca=ca, job=job)) as events:
        for sequence in range(1, 40):
            began = time.monotonic()
            await stream.publish(subject_of(job), JobEvent(job=str(job), sequence=sequence).SerializeToString())
            async with asyncio.timeout(TIMEOUT_SECONDS):
                assert (await anext(events)).sequence == sequence
            waits.append(time.monotonic() - began)
            if not set(ANNAS) & await names_told(operator):
                break
    anna._transport._io_writer.transport.abort()  # one that reads nothing hears no good-bye either
    assert sorted(waits)[len(waits) // 2] < 0.5


async def test_an_account_follows_as_many_jobs_as_it_may_and_the_next_is_told(bus: Bus):
    """A follower that ends makes room at once; one more than fits is Unavailable, and is followed over gRPC."""
    token = (await bus.auth.login("anna")).access_token
    await connected(bus, token)
    stream, job = (await bus.scheduler()).jetstream(), JobName("line-7", "job-3")
    await stream.publish(subject_of(job), JobEvent(job=str(job), sequence=1).SerializeToString())
    ca = (bus.state.tls / "ca.pem").read_bytes()
    followers = [follow_progress(bus.url, token=token, ca=ca, job=job) for _ in range(len(ANNAS) + 1)]
    for follower in followers[:-1]:
        assert (await anext(follower)).sequence == 1
    with pytest.raises(Unavailable, match="as many jobs"):
        await anext(followers[-1])
    await followers[0].aclose()
    again = follow_progress(bus.url, token=token, ca=ca, job=job)
    assert (await anext(again)).sequence == 1
    for follower in (*followers[1:-1], again):
        await follower.aclose()
    assert await eventually(lambda: _are(bus, set())) < 5


async def test_nats_away_is_not_felt_and_auth_comes_back_to_it(bus: Bus):
    """With the server killed, logins go on; started again, it lets a terminal in within seconds."""
    token = (await bus.auth.login("anna")).access_token
    await connected(bus, token)
    await bus.server.kill()
    for _ in range(3):
        token = (await bus.auth.login("anna")).access_token
    with pytest.raises((OSError, nats.errors.Error)):
        await bus.terminal(token)
    await bus.server.start()
    await control_reads_history(await connected(bus, token))


async def control_reads_history(anna: Heard) -> None:
    """What was written before the kill is there."""
    assert (await anna.jetstream(timeout=TIMEOUT_SECONDS).get_last_msg("PROGRESS", OURS, direct=True)).data
