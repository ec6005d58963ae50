"""What the scheduler makes of a trainer that answers with anything at all: an error of the mesh, never a surprise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest

from loupe.errors import Internal, LoupeError
from loupe.names import JobName, TrainerName
from loupe.rpc.channel import internal_channel
from loupe.rpc.status import DETAILS_KEY
from loupe.trainer.v1.attempt_pb2 import AttemptState
from loupe.trainer.v1.attempt_service_pb2 import RenewLeasesResponse
from services.scheduler.clients.trainers import AttemptKey, TrainerClient
from tests.ports import free_port

NORTH_A = TrainerName("north", "a")
KEY = AttemptKey(JobName("line-7", "j"), 1)
GARBAGE = b"\xff\xff\xff"


class RawTrainer(grpc.GenericRpcHandler):
    """Answers every call with these bytes, or with a status and details of its own."""

    def __init__(self) -> None:
        self.answer = GARBAGE
        self.details: bytes | None = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        async def one(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
            if self.details is not None:
                await context.abort(grpc.StatusCode.INTERNAL, "x", ((DETAILS_KEY, self.details),))
            return self.answer

        async def many(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
            yield await one(request, context)

        if handler_call_details.method.endswith("WatchAttempt"):
            return grpc.unary_stream_rpc_method_handler(many)
        return grpc.unary_unary_rpc_method_handler(one)


@pytest.fixture
async def raw() -> AsyncIterator[RawTrainer]:
    yield RawTrainer()


@pytest.fixture
async def client(raw: RawTrainer, service_settings: Callable[..., Any]) -> AsyncIterator[TrainerClient]:
    own = service_settings("trainer-north-a")
    pair = (own.tls_key.read_bytes(), own.tls_cert.read_bytes())
    server, port = grpc.aio.server(), free_port()
    server.add_generic_rpc_handlers([raw])
    server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair], own.tls_ca.read_bytes(), True))
    await server.start()
    scheduler = service_settings("scheduler")
    made = TrainerClient(
        lambda _: f"127.0.0.1:{port}", lambda address, who: internal_channel(scheduler, address, service=who)
    )
    yield made
    await made.close()
    await server.stop(0)


async def watch(client: TrainerClient) -> None:
    async for _ in client.watch(NORTH_A, KEY, 0):
        pass


CALLS: dict[str, Callable[[TrainerClient], Awaitable[object]]] = {
    "renew": lambda client: client.renew(NORTH_A, KEY, 1.0, 5.0),
    "cancel": lambda client: client.cancel(NORTH_A, KEY, 5.0),
    "replace_token": lambda client: client.replace_token(NORTH_A, KEY, "t", 5.0),
    "watch": watch,
}


@pytest.mark.parametrize("call", CALLS)
async def test_bytes_that_are_no_message_are_an_error_of_the_mesh(client: TrainerClient, call: str) -> None:
    """gRPC itself would give None."""
    with pytest.raises(Internal, match="not the message"):
        await CALLS[call](client)


@pytest.mark.parametrize("call", CALLS)
async def test_details_that_are_no_status_leave_the_code(client: TrainerClient, raw: RawTrainer, call: str) -> None:
    """An error of the mesh all the same."""
    raw.details = GARBAGE
    with pytest.raises(LoupeError):
        await CALLS[call](client)


@pytest.mark.parametrize("states", [[], [1, 2], [2] * 100])
async def test_a_renewal_of_one_lease_has_one_answer(client: TrainerClient, raw: RawTrainer, states: list[Any]) -> None:
    """None, or more than that, is a trainer that cannot be relied on."""
    raw.answer = RenewLeasesResponse(states=states).SerializeToString()
    with pytest.raises(Internal, match=f"with {len(states)} states"):
        await client.renew(NORTH_A, KEY, 1.0, 5.0)


@pytest.mark.parametrize(("state", "known"), [(0, False), (AttemptState.ATTEMPT_STATE_RUNNING, True), (99, True)])
async def test_a_state_of_a_newer_version_is_a_state(
    client: TrainerClient, raw: RawTrainer, state: Any, known: bool
) -> None:
    """Only UNSPECIFIED says that the attempt is not known."""
    raw.answer = RenewLeasesResponse(states=[state]).SerializeToString()
    assert await client.renew(NORTH_A, KEY, 1.0, 5.0) is known
