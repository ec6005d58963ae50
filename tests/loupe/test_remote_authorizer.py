"""RemoteAuthorizer against a real server: it remembers while auth is heard, forgets at a change and in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from loupe.auth.v1 import policy_service_pb2, policy_service_pb2_grpc
from loupe.errors import Unavailable
from loupe.names import AccountName, ProjectName
from loupe.rpc.authorizer import RemoteAuthorizer
from loupe.rpc.channel import _interceptors

QUESTION = (AccountName("anna"), ProjectName("p"), "datasets.read", "l1")


class Policy(policy_service_pb2_grpc.PolicyServiceServicer):
    """A small auth: it counts questions, and tells its revision when the test says so."""

    def __init__(self) -> None:
        self.asked = 0
        self.allowed = True
        self.revision = 1
        self.pulse = asyncio.Event()
        self.watched = asyncio.Event()

    async def Authorize(self, request, context):
        self.asked += 1
        decision = policy_service_pb2.Decision(allowed=self.allowed, member=True, active=True)
        return policy_service_pb2.AuthorizeResponse(decision=decision, revision=self.revision)

    async def WatchPolicy(self, request, context):
        while True:
            yield policy_service_pb2.WatchPolicyResponse(revision=self.revision)
            self.watched.set()
            await self.pulse.wait()
            self.pulse.clear()


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def auth() -> AsyncIterator[tuple[Policy, grpc.aio.Server, RemoteAuthorizer, Clock]]:
    policy = Policy()
    server = grpc.aio.server()
    policy_service_pb2_grpc.add_PolicyServiceServicer_to_server(policy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=_interceptors(None))

    async def connect() -> grpc.aio.Channel:
        return channel

    clock = Clock()
    authorizer = RemoteAuthorizer(connect, monotonic=clock)
    changed = authorizer.changed()
    authorizer.start()
    await asyncio.wait_for(changed.wait(), 5)
    yield policy, server, authorizer, clock
    await authorizer.close()
    await channel.close()
    await server.stop(0)


async def test_an_answer_is_remembered(auth) -> None:
    policy, _, authorizer, _ = auth
    for _ in range(100):
        assert (await authorizer.decide(*QUESTION)).allowed
    assert policy.asked == 1


async def test_a_new_revision_forgets_and_tells_open_streams(auth) -> None:
    policy, _, authorizer, _ = auth
    assert (await authorizer.decide(*QUESTION)).allowed
    changed = authorizer.changed()
    policy.allowed, policy.revision = False, 2
    policy.pulse.set()
    await asyncio.wait_for(changed.wait(), 5)
    assert not (await authorizer.decide(*QUESTION)).allowed


async def test_silence_is_not_trusted(auth) -> None:
    policy, _, authorizer, clock = auth
    await authorizer.decide(*QUESTION)
    clock.now += 3.1
    await authorizer.decide(*QUESTION)
    assert policy.asked == 2


async def test_an_answer_of_another_revision_is_not_kept(auth) -> None:
    policy, _, authorizer, _ = auth
    policy.revision = 5
    for _ in range(3):
        await authorizer.decide(*QUESTION)
    assert policy.asked == 3


async def test_without_auth_nothing_is_decided(auth) -> None:
    _, server, authorizer, clock = auth
    await authorizer.decide(*QUESTION)
    await server.stop(0)
    clock.now += 3.1
    with pytest.raises(Unavailable) as caught:
        await authorizer.decide(*QUESTION)
    assert caught.value.metadata["dependency"] == "auth"
