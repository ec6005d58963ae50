"""Every RPC of the contract against every role, generated from the descriptors: refused unless its row allows it."""

from __future__ import annotations

import hmac
import importlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory

from deploy.local.mesh import LocalMesh
from loupe.access import DEFAULT_THRESHOLDS
from loupe.auth.v1.session_service_pb2 import GetJwksRequest
from loupe.auth.v1.session_service_pb2_grpc import SessionServiceStub
from loupe.common.v1 import access_pb2
from loupe.errors import LoupeError, NotFound, PermissionDenied, Unauthenticated, Unavailable
from loupe.rpc.channel import terminal_channel
from loupe.rpc.gate import access_table
from tests.mesh.conftest import OpenTerminal, Trained

PROTOS = Path(__file__).resolve().parents[2] / "protos"
PARAMETERS = {"viewers": 10, "operators": 20, "engineers": 30, "owners": 40}
STRANGER, NOBODY = "stranger", "nobody"
AUDITED = ("auth", "scheduler", "storage")
TRIES = 5
FORGED = ("unsigned", "tampered", "signed with the public key")


def methods() -> list[Any]:
    """Every method at each public door that it is served at: what is common to the services, at all of theirs."""
    found = []
    for path in sorted(PROTOS.rglob("*_service.proto")):
        package = path.relative_to(PROTOS).parts[1]
        if package == "trainer":
            continue
        module = importlib.import_module(".".join(path.relative_to(PROTOS).with_suffix("").parts) + "_pb2")
        doors = AUDITED if package == "common" else (package,)
        for service in module.DESCRIPTOR.services_by_name.values():
            found += [(door, method) for door in doors for method in service.methods]
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
    if role == NOBODY or role in FORGED:
        return False
    if rule.authenticated:
        return True
    if not rule.action.action or not rule.action.resource or role == STRANGER:
        return False
    return PARAMETERS[role] >= DEFAULT_THRESHOLDS[rule.action.action]


def forged(token: str, how: str, jwks: str) -> str:
    """An owner's token as a forger would change it (RFC 8725, 2.1 and 2.2)."""
    header, claims, signature = token.split(".")
    if how == "unsigned":
        return f"{_part({'alg': 'none', 'typ': 'at+jwt'})}.{claims}."
    if how == "tampered":
        return f"{header}.{_part(_read(claims) | {'sub': 'accounts/admin'})}.{signature}"
    key = json.loads(jwks)["keys"][0]
    signed = f"{_part(_read(header) | {'alg': 'HS256', 'kid': key['kid']})}.{claims}"
    mac = hmac.digest(urlsafe_b64decode(key["x"] + "=="), signed.encode(), "sha256")
    return f"{signed}.{urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def _part(value: dict[str, Any]) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _read(part: str) -> dict[str, Any]:
    return json.loads(urlsafe_b64decode(part + "=="))


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


async def no_token() -> None:
    """Nobody."""


async def outcome_of(channel: grpc.aio.Channel, method: Any, request: Any) -> LoupeError | None:
    """The error that a call ends with.

    A client of grpc.aio that is still sending when it is refused may see the cut alone; like a terminal, it asks again.
    """
    for _ in range(TRIES):
        try:
            await call(channel, method, request)
        except Unavailable as error:
            outcome: LoupeError | None = error
        except LoupeError as error:
            return error
        else:
            return None
    return outcome


def row_of(method: Any) -> tuple[str, access_pb2.Access]:
    """A method's path and its row in the access table."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    service = descriptor_pool.Default().FindServiceByName(method.containing_service.full_name)
    return path, access_table([service])[path]


@pytest.mark.parametrize("role", [NOBODY, *FORGED, STRANGER, *PARAMETERS])
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
        async with terminal(await hire("owners" if role in FORGED else role)) as person:
            token = await person.sessions.access_token()
    if role in FORGED:
        auth = terminal_channel(mesh.endpoints.public["auth"], ca=mesh.endpoints.ca.read_bytes(), token=no_token)
        jwks = await SessionServiceStub(auth).GetJwks(GetJwksRequest())
        await auth.close()
        assert token is not None
        token = forged(token, role, jwks.jwks_json)

    async def give() -> str | None:
        return token

    wrong = []
    ca = mesh.endpoints.ca.read_bytes()
    channels = {name: terminal_channel(address, ca=ca, token=give) for name, address in mesh.endpoints.public.items()}
    for package, method in methods():
        path, rule = row_of(method)
        outcome = await outcome_of(channels[package], method, request_of(method, rule, project))
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


def text_fields(message: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """The way to every field of a message type that may name something, through the messages in it."""
    for field in message.fields:
        if field.type == field.TYPE_STRING:
            if field.name != "request_id":
                yield (field,)
        elif field.type == field.TYPE_MESSAGE and not field.is_repeated and depth and _is_ours(field.message_type):
            yield from ((field, *rest) for rest in text_fields(field.message_type, depth - 1))


def _is_ours(message: Any) -> bool:
    return message.full_name.startswith("loupe.")


def put(request: Any, way: tuple[Any, ...], text: str) -> None:
    """Writes a text into the field at the end of the way."""
    *path, last = way
    for field in path:
        request = getattr(request, field.name)
    if last.is_repeated:
        getattr(request, last.name).append(text)
    else:
        setattr(request, last.name, text)


async def test_a_foreign_project_in_any_field_is_answered_like_one_that_does_not_exist(
    mesh: LocalMesh, terminal: OpenTerminal, hire: Callable, trained: Trained, project: str
) -> None:
    """An owner of one project names what stands in another, in every field of the RPCs that are about projects."""
    async with terminal(await hire("owners")) as person:
        token = await person.sessions.access_token()

    async def give() -> str:
        return token

    foreign, nowhere = trained.project, f"projects/n{'0' * (len(trained.project) - 10)}"
    names = [
        foreign,
        trained.version.name,
        trained.version.name.partition("/versions/")[0],
        trained.model.name,
        trained.model.name.partition("/versions/")[0],
        trained.job.name,
        f"{foreign}/groups/owners",
    ]
    ca = mesh.endpoints.ca.read_bytes()
    channels = {name: terminal_channel(address, ca=ca, token=give) for name, address in mesh.endpoints.public.items()}
    compared, wrong = 0, []
    for package, method in methods():
        path, rule = row_of(method)
        if not rule.action.resource:
            continue
        for way in text_fields(method.input_type):
            for name in names:
                answers = []
                for asked in (name, name.replace(foreign, nowhere)):
                    request = request_of(method, rule, project)
                    put(request, way, asked)
                    outcome = await outcome_of(channels[package], method, request)
                    answers.append((type(outcome), str(outcome).replace(nowhere, foreign)))
                compared += 1
                if answers[0] != answers[1]:
                    wrong.append(f"{path} {'.'.join(field.name for field in way)}={name}: {answers}")
    for channel in channels.values():
        await channel.close()
    assert wrong == []
    assert compared > 500
