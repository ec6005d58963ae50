"""Every RPC of the contract against every role, generated from the descriptors: refused unless its row allows it."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory

from deploy.local.mesh import LocalMesh
from loupe.common.v1 import access_pb2
from loupe.errors import LoupeError, NotFound, PermissionDenied, Unauthenticated
from loupe.rpc.access import DEFAULT_THRESHOLDS, access_table
from loupe.rpc.channel import terminal_channel
from tests.mesh.conftest import OpenTerminal

PROTOS = Path(__file__).resolve().parents[2] / "protos"
PARAMETERS = {"viewers": 10, "operators": 20, "engineers": 30, "owners": 40}
STRANGER, NOBODY = "stranger", "nobody"


def methods() -> list[Any]:
    """Every method of the services that have a public door."""
    found = []
    for path in sorted(PROTOS.rglob("*_service.proto")):
        package = path.relative_to(PROTOS).parts[1]
        if package == "trainer":
            continue
        module = importlib.import_module(".".join(path.relative_to(PROTOS).with_suffix("").parts) + "_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found += [(package, method) for method in service.methods]
    return found


def request_of(method: Any, rule: access_pb2.Access, project: str) -> Any:
    """An otherwise empty request that names the project where the row looks for it."""
    request = message_factory.GetMessageClass(method.input_type)()
    if rule.action.resource:
        *path, last = rule.action.resource.split(".")
        target = request
        for part in path:
            target = getattr(target, part)
        setattr(target, last, project)
    return request


def allowed(rule: access_pb2.Access, role: str) -> bool:
    """What the row says about a role of the project."""
    if rule.public:
        return True
    if role == NOBODY:
        return False
    if rule.authenticated:
        return True
    if not rule.action.action or not rule.action.resource or role == STRANGER:
        return False
    return PARAMETERS[role] >= DEFAULT_THRESHOLDS[rule.action.action]


async def call(channel: grpc.aio.Channel, method: Any, request: Any) -> None:
    """Calls any method of any kind and reads its first answer."""
    shape = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
    stub = getattr(channel, shape)(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )

    async def once() -> AsyncIterator[Any]:
        yield request

    answer = stub(once() if method.client_streaming else request, timeout=10)
    if method.server_streaming:
        async for _ in answer:
            return
    else:
        await answer


@pytest.mark.parametrize("role", [NOBODY, STRANGER, *PARAMETERS])
async def test_every_rpc_refuses_every_role_that_its_row_does_not_allow(
    mesh: LocalMesh, terminal: OpenTerminal, hire: Callable, project: str, role: str
) -> None:
    token = None
    if role == STRANGER:
        async with terminal() as administrator:
            other = (await administrator.projects.create(f"s{project[-12:]}")).name
        async with terminal(await hire("owners", other)) as person:
            token = await person.sessions.access_token()
    elif role != NOBODY:
        async with terminal(await hire(role)) as person:
            token = await person.sessions.access_token()

    async def give() -> str | None:
        return token

    pool = descriptor_pool.Default()
    wrong = []
    ca = mesh.endpoints.ca.read_bytes()
    channels = {name: terminal_channel(address, ca=ca, token=give) for name, address in mesh.endpoints.public.items()}
    for package, method in methods():
        path = f"/{method.containing_service.full_name}/{method.name}"
        rule = access_table([pool.FindServiceByName(method.containing_service.full_name)])[path]
        outcome: LoupeError | None = None
        try:
            await call(channels[package], method, request_of(method, rule, project))
        except LoupeError as error:
            outcome = error
        refused = isinstance(outcome, PermissionDenied | Unauthenticated)
        if role == STRANGER and rule.action.resource:
            refused = refused or isinstance(outcome, NotFound)
        if rule.public:
            refused = False  # Login and its kin refuse by what stands in the request, not by who calls
        if refused == allowed(rule, role):
            wrong.append(f"{path}: {outcome!r}")
    for channel in channels.values():
        await channel.close()
    assert wrong == []
