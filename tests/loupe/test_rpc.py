"""Server, interceptor and channels together: real TLS on loopback, a fake service behind them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from loupe.access import Decision
from loupe.auth.v1 import session_service_pb2, session_service_pb2_grpc
from loupe.discovery import Discovery, Instance
from loupe.errors import (
    Internal,
    InvalidArgument,
    LoupeError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    UploadIncomplete,
    invalid,
)
from loupe.identity import AttemptGrant, Caller, current_caller
from loupe.names import AccountName, JobName, ProjectName, TrainerName
from loupe.notifier import Notifier
from loupe.rpc.channel import ServiceChannels, internal_channel, terminal_channel
from loupe.rpc.server import MeshServer
from loupe.rpc.strangers import Strangers
from loupe.settings import ServiceSettings
from loupe.storage.v1 import (
    blob_service_pb2,
    blob_service_pb2_grpc,
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
)
from tests.ports import free_port

ANNA = AccountName("anna")


class Verifier:
    """Takes the token for the caller it names: "anna", "attempt"."""

    async def verify(self, token: str) -> Caller:
        if token == "anna":
            return Caller(account=ANNA, login="l1")
        if token == "attempt":
            return Caller(account=ANNA, attempt=AttemptGrant(JobName("mine", "j"), 1))
        raise Unauthenticated("no such token", problem="invalid")


class Policy:
    """anna is an operator (20) in "mine", nowhere else."""

    def __init__(self) -> None:
        self.parameter = 20
        self.active = True
        self.asked = 0
        self.travelling: asyncio.Event | None = None
        self._changed = Notifier()

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        need = {"datasets.read": 10, "datasets.write": 20}.get(action, 30)
        member = project == ProjectName("mine")
        group = "projects/mine/groups/operators" if member else ""
        decision = Decision(
            member and self.parameter >= need, member, group, self.parameter if member else 0, need, self.active
        )
        if self.travelling is not None:
            self.asked += 1
            await self.travelling.wait()
        return decision

    def changed(self) -> asyncio.Event:
        return self._changed.next()

    def change(self) -> None:
        self._changed.notify()


class Datasets(dataset_service_pb2_grpc.DatasetServiceServicer):
    """Answers with the caller's account; breaks on demand; streams for ever; counts what comes and what it made."""

    def __init__(self) -> None:
        self.received = self.made = self.sent = 0

    async def GetDataset(self, request, context):
        if request.name.endswith("/broken"):
            raise RuntimeError("a secret detail")
        if request.name.endswith("/bad"):
            raise invalid("name", request.name, "something else")
        if request.name.endswith("/stopped"):
            raise asyncio.CancelledError
        caller = current_caller()
        return dataset_service_pb2.GetDatasetResponse(dataset={"name": str(caller.account)})

    async def ReadDatasetItems(self, request, context):
        yield dataset_service_pb2.ReadDatasetItemsResponse()
        while request.name.endswith("/long"):
            self.sent += 1
            yield dataset_service_pb2.ReadDatasetItemsResponse(items=[{"label": "x" * (1 << 20)}])
        await asyncio.Event().wait()

    async def CreateDatasetVersion(self, request_iterator, context):
        count = 0
        async for _ in request_iterator:
            count += 1
            self.received += 1
        self.made += 1
        return dataset_service_pb2.CreateDatasetVersionResponse(left_out_count=count)


class Blobs(blob_service_pb2_grpc.BlobServiceServicer):
    """Answers each message of an upload."""

    async def UploadPictures(self, request_iterator, context):
        async for _ in request_iterator:
            yield blob_service_pb2.UploadPicturesResponse(stored_count=1)

    async def FindMissingBlobs(self, request, context):
        return blob_service_pb2.FindMissingBlobsResponse()


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Answers a fence with who raised it."""

    async def RaiseFence(self, request, context):
        return model_service_pb2.RaiseFenceResponse(attempt=7 if current_caller().service == "scheduler" else 0)


class Projects(project_service_pb2_grpc.ProjectServiceServicer):
    """Lists nothing."""

    async def ListProjects(self, request, context):
        return project_service_pb2.ListProjectsResponse()


@pytest.fixture
def datasets() -> Datasets:
    return Datasets()


@pytest.fixture
async def mesh(
    service_settings: Callable[..., ServiceSettings], datasets: Datasets
) -> AsyncIterator[tuple[ServiceSettings, Policy]]:
    settings = service_settings("storage")
    policy = Policy()
    server = MeshServer(
        settings,
        verifier=Verifier(),
        authorizer=policy,
        servicers=[
            (dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server, datasets),
            (blob_service_pb2_grpc.add_BlobServiceServicer_to_server, Blobs()),
            (model_service_pb2_grpc.add_ModelServiceServicer_to_server, Models()),
            (project_service_pb2_grpc.add_ProjectServiceServicer_to_server, Projects()),
        ],
    )
    await server.start()
    yield settings, policy
    await server.stop()


@pytest.fixture
async def terminal(mesh, tls: Path) -> AsyncIterator[Callable[[str | None], grpc.aio.Channel]]:
    channels = []

    def connect(token: str | None) -> grpc.aio.Channel:
        async def give() -> str | None:
            return token

        address = f"127.0.0.1:{mesh[0].public_port}"
        channels.append(terminal_channel(address, ca=(tls / "ca.pem").read_bytes(), token=give))
        return channels[-1]

    yield connect
    for channel in channels:
        await channel.close()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def get(channel: grpc.aio.Channel, name: str):
    stub = dataset_service_pb2_grpc.DatasetServiceStub(channel)
    return stub.GetDataset(dataset_service_pb2.GetDatasetRequest(name=name))


async def test_a_member_is_let_in_and_the_handler_knows_who_calls(terminal) -> None:
    assert (await get(terminal("anna"), "projects/mine/datasets/d")).dataset.name == "accounts/anna"


async def test_without_a_token_or_with_a_wrong_one_nobody_gets_in(terminal) -> None:
    for token in (None, "mallory"):
        with pytest.raises(Unauthenticated):
            await get(terminal(token), "projects/mine/datasets/d")


async def test_a_foreign_project_looks_like_one_that_does_not_exist(terminal) -> None:
    answers = []
    for project in ("theirs", "nowhere"):
        with pytest.raises(NotFound) as caught:
            await get(terminal("anna"), f"projects/{project}/datasets/d")
        answers.append(caught.value.message.replace(project, "x"))
    assert answers[0] == answers[1]


async def test_below_the_threshold_the_refusal_names_group_parameter_and_threshold(terminal, mesh) -> None:
    mesh[1].parameter = 5
    with pytest.raises(PermissionDenied) as caught:
        await get(terminal("anna"), "projects/mine/datasets/d")
    assert caught.value.metadata == {
        "account": "accounts/anna",
        "action": "datasets.read",
        "project": "projects/mine",
        "group": "projects/mine/groups/operators",
        "parameter": "5",
        "threshold": "10",
    }


async def test_a_disabled_account_is_refused_everywhere(terminal, mesh) -> None:
    mesh[1].active = False
    channel = terminal("anna")
    with pytest.raises(Unauthenticated):
        await get(channel, "projects/mine/datasets/d")
    with pytest.raises(Unauthenticated):
        await project_service_pb2_grpc.ProjectServiceStub(channel).ListProjects(
            project_service_pb2.ListProjectsRequest()
        )


async def test_a_domain_error_arrives_as_its_class_with_metadata(terminal) -> None:
    with pytest.raises(LoupeError) as caught:
        await get(terminal("anna"), "projects/mine/datasets/bad")
    assert (caught.value.reason_name(), caught.value.metadata["field"]) == ("INVALID_ARGUMENT", "name")


async def test_the_unexpected_tells_an_incident_and_nothing_else(terminal) -> None:
    with pytest.raises(Internal) as caught:
        await get(terminal("anna"), "projects/mine/datasets/broken")
    assert "secret" not in caught.value.message
    assert len(caught.value.metadata["incident"]) == 32


async def test_a_step_that_was_cancelled_inside_is_told_as_the_unexpected(terminal) -> None:
    """Nobody cancelled the call, and its caller waits for an answer."""
    with pytest.raises(Internal):
        await asyncio.wait_for(get(terminal("anna"), "projects/mine/datasets/stopped"), 5)


@pytest.mark.parametrize("sent", [b"\x0aPa", b"\xff" * 12, b"\x0a\x02\xff\xfe"], ids=["cut", "random", "utf8"])
@pytest.mark.parametrize("method", ["GetDataset", "ReadDatasetItems", "CreateDatasetVersion"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(terminal, method: str, sent: bytes) -> None:
    path = f"/loupe.storage.v1.DatasetService/{method}"
    with pytest.raises(InvalidArgument, match="cannot be decoded"):
        if method == "GetDataset":
            await terminal("anna").unary_unary(path)(sent)
        elif method == "CreateDatasetVersion":
            await terminal("anna").stream_unary(path)(iter([sent]))
        else:
            await anext(aiter(terminal("anna").unary_stream(path)(sent)))


async def test_later_messages_of_a_stream_are_decoded_with_the_same_care(terminal, datasets) -> None:
    first = dataset_service_pb2.CreateDatasetVersionRequest(header={"parent": "projects/mine/datasets/d"})
    call = terminal("anna").stream_unary("/loupe.storage.v1.DatasetService/CreateDatasetVersion")
    with pytest.raises(InvalidArgument, match="cannot be decoded"):
        await call(iter([first.SerializeToString(), b"\x0aPa"]))
    assert not datasets.made


async def test_a_stranger_who_sends_no_message_is_told_so(terminal) -> None:
    with pytest.raises(InvalidArgument, match="cannot be decoded"):
        await terminal(None).unary_unary("/grpc.health.v1.Health/Check")(b"\xff" * 8)


async def test_a_compressed_message_is_refused_before_it_is_inflated(terminal) -> None:
    """A gzip frame of a few bytes could hold gigabytes."""
    stub = dataset_service_pb2_grpc.DatasetServiceStub(terminal("anna"))
    request = dataset_service_pb2.GetDatasetRequest(name="projects/mine/datasets/" + "d" * 10_000)
    with pytest.raises(LoupeError, match="gzip"):
        await stub.GetDataset(request, compression=grpc.Compression.Gzip)
    assert await stub.GetDataset(request)


async def test_a_client_stream_is_decided_on_its_first_message(terminal) -> None:
    stub = dataset_service_pb2_grpc.DatasetServiceStub(terminal("anna"))

    async def messages(parent: str) -> AsyncIterator[dataset_service_pb2.CreateDatasetVersionRequest]:
        yield dataset_service_pb2.CreateDatasetVersionRequest(header={"parent": parent})
        yield dataset_service_pb2.CreateDatasetVersionRequest()

    assert (await stub.CreateDatasetVersion(messages("projects/mine/datasets/d"))).left_out_count == 2
    with pytest.raises(NotFound):
        await stub.CreateDatasetVersion(messages("projects/theirs/datasets/d"))


async def test_a_client_stream_without_any_message_is_incomplete(terminal) -> None:
    async def nothing() -> AsyncIterator[object]:
        return
        yield

    with pytest.raises(UploadIncomplete):
        await dataset_service_pb2_grpc.DatasetServiceStub(terminal("anna")).CreateDatasetVersion(nothing())


async def test_both_ways_streaming_is_served_and_refused(terminal) -> None:
    stub = blob_service_pb2_grpc.BlobServiceStub(terminal("anna"))

    async def messages(parent: str) -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        yield blob_service_pb2.UploadPicturesRequest(header={"parent": parent})

    assert [answer.stored_count async for answer in stub.UploadPictures(messages("projects/mine"))] == [1]
    with pytest.raises(NotFound):
        async for _ in stub.UploadPictures(messages("projects/theirs")):
            pass


async def test_an_open_stream_ends_when_the_right_is_gone(terminal, mesh) -> None:
    stub = dataset_service_pb2_grpc.DatasetServiceStub(terminal("anna"))
    stream = aiter(stub.ReadDatasetItems(dataset_service_pb2.ReadDatasetItemsRequest(name="projects/mine/datasets/d")))
    await anext(stream)
    mesh[1].parameter = 1
    mesh[1].change()
    with pytest.raises(PermissionDenied):
        await asyncio.wait_for(anext(stream), 30)


async def test_a_reader_that_stalls_is_told_that_its_right_is_gone(terminal, mesh, datasets) -> None:
    """As soon as it reads on, after what was on its way."""
    stub = dataset_service_pb2_grpc.DatasetServiceStub(terminal("anna"))
    request = dataset_service_pb2.ReadDatasetItemsRequest(name="projects/mine/datasets/long")
    stream = aiter(stub.ReadDatasetItems(request))
    await anext(stream)
    await eventually(lambda: datasets.sent >= 2)
    mesh[1].parameter = 1
    mesh[1].change()
    async with asyncio.timeout(10):
        with pytest.raises(PermissionDenied):
            async for _ in stream:
                pass


async def test_a_client_stream_ends_when_the_right_is_gone_and_nothing_is_committed(terminal, mesh, datasets) -> None:
    """At once while the client is silent, and at the latest before the message that would complete it is handed on."""

    async def revoke() -> None:
        mesh[1].parameter = 1
        mesh[1].change()

    async def messages(*, silent: bool) -> AsyncIterator[dataset_service_pb2.CreateDatasetVersionRequest]:
        yield dataset_service_pb2.CreateDatasetVersionRequest(header={"parent": "projects/mine/datasets/d"})
        await eventually(lambda: datasets.received == 1)
        await revoke()
        if silent:
            await asyncio.Event().wait()
        yield dataset_service_pb2.CreateDatasetVersionRequest()

    for silent in (True, False):
        mesh[1].parameter, datasets.received = 20, 0
        stub = dataset_service_pb2_grpc.DatasetServiceStub(terminal("anna"))
        with pytest.raises(PermissionDenied):
            await asyncio.wait_for(stub.CreateDatasetVersion(messages(silent=silent)), 5)
        assert datasets.made == 0


async def test_a_second_change_while_the_first_is_asked_about_is_not_missed(terminal, mesh) -> None:
    policy = mesh[1]
    stub = dataset_service_pb2_grpc.DatasetServiceStub(terminal("anna"))
    stream = aiter(stub.ReadDatasetItems(dataset_service_pb2.ReadDatasetItemsRequest(name="projects/mine/datasets/d")))
    await anext(stream)
    policy.travelling = asyncio.Event()
    policy.change()  # somebody else's right
    await eventually(lambda: policy.asked == 1)
    policy.parameter = 1
    policy.change()  # anna's, while the answer about the first is on its way
    policy.travelling.set()
    with pytest.raises(PermissionDenied):
        await asyncio.wait_for(anext(stream), 5)


async def test_what_a_stranger_sends_is_not_read(mesh, tls: Path) -> None:
    """Twenty messages of 39 MiB without a token, or to the health service, cost the server no memory to speak of."""
    program = f"""
import asyncio, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from loupe.rpc.channel import OPTIONS
from loupe.storage.v1 import dataset_service_pb2 as d, dataset_service_pb2_grpc as g
async def main():
    credentials = grpc.ssl_channel_credentials(open({str(tls / "ca.pem")!r}, "rb").read())
    large = "x" * (39 << 20)
    async def one(number):
        options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.secure_channel("127.0.0.1:{mesh[0].public_port}", credentials, options=options) as channel:
            try:
                if number % 2:
                    await g.DatasetServiceStub(channel).GetDataset(d.GetDatasetRequest(name=large), timeout=60)
                else:
                    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=large))
            except grpc.aio.AioRpcError as error:
                return error.code().name
    print(*sorted(await asyncio.gather(*map(one, range(20)))))
asyncio.run(main())
"""
    before = _peak_megabytes(forget=True)
    client = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    answers = (await client.communicate())[0].decode().split()
    assert sorted(answers) == ["RESOURCE_EXHAUSTED"] * 10 + ["UNAUTHENTICATED"] * 10
    assert _peak_megabytes() - before < 400


async def test_callers_who_are_not_known_share_few_places_and_none_is_kept_waiting_for() -> None:
    strangers = Strangers(places=8, seconds=0.2)

    async def silent() -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    async def spoken() -> AsyncIterator[str]:
        yield "here"

    held = [asyncio.ensure_future(strangers.read(silent(), f"ipv4:10.0.0.{each}:99")) for each in (1, 1, 2, 2)]
    await asyncio.sleep(0)
    waits = asyncio.ensure_future(strangers.read(spoken(), "ipv4:10.0.0.1:77"))
    assert await strangers.read(spoken(), "ipv4:10.0.0.3:77") == "here"
    assert not waits.done(), "its address has its share already"
    held.pop(0).cancel()
    assert await waits == "here", "the next gets the place that becomes free"
    for outcome in await asyncio.gather(*held, return_exceptions=True):
        assert isinstance(outcome, ResourceExhausted)


def _peak_megabytes(*, forget: bool = False) -> int:
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) >> 10


async def test_an_attempt_token_opens_its_own_project_where_the_contract_says_so(terminal) -> None:
    channel = terminal("attempt")
    blobs = blob_service_pb2_grpc.BlobServiceStub(channel)
    await blobs.FindMissingBlobs(blob_service_pb2.FindMissingBlobsRequest(parent="projects/mine"))
    with pytest.raises(NotFound):
        await blobs.FindMissingBlobs(blob_service_pb2.FindMissingBlobsRequest(parent="projects/theirs"))
    with pytest.raises(Unauthenticated):
        await get(channel, "projects/mine/datasets/d")


async def test_a_service_is_known_by_its_certificate_on_the_internal_door_only(
    mesh, terminal, service_settings: Callable[..., ServiceSettings]
) -> None:
    address = f"127.0.0.1:{mesh[0].internal_port}"
    request = model_service_pb2.RaiseFenceRequest(job="projects/mine/jobs/j", attempt=1)
    async with internal_channel(service_settings("scheduler"), address, service="storage") as channel:
        assert (await model_service_pb2_grpc.ModelServiceStub(channel).RaiseFence(request)).attempt == 7
    async with internal_channel(service_settings("trainer-north-a"), address, service="storage") as channel:
        with pytest.raises(Unauthenticated):
            await model_service_pb2_grpc.ModelServiceStub(channel).RaiseFence(request)
    with pytest.raises(PermissionDenied):
        await model_service_pb2_grpc.ModelServiceStub(terminal("anna")).RaiseFence(request)


class Keys(session_service_pb2_grpc.SessionServiceServicer):
    """Publishes the public keys of who would like to sign tokens."""

    async def GetJwks(self, request, context):
        return session_service_pb2.GetJwksResponse(jwks_json="of my own making")


@asynccontextmanager
async def pretending(settings: ServiceSettings) -> AsyncIterator[None]:
    """Serve what auth serves, with somebody's certificate."""
    add = session_service_pb2_grpc.add_SessionServiceServicer_to_server
    server = MeshServer(settings, verifier=Verifier(), authorizer=Policy(), servicers=[(add, Keys())])
    await server.start()
    yield
    await server.stop(drain=False)


async def keys_of(channel: grpc.aio.Channel) -> str:
    async with channel:
        request = session_service_pb2.GetJwksRequest()
        return (await session_service_pb2_grpc.SessionServiceStub(channel).GetJwks(request, timeout=10)).jwks_json


@pytest.mark.parametrize("who", ["trainer-north-a", "storage"])
async def test_a_certificate_of_the_mesh_stands_for_its_owner_only(
    service_settings: Callable[..., ServiceSettings], who: str
) -> None:
    settings, own = service_settings(who, public_port=0), service_settings("scheduler")
    address = f"127.0.0.1:{settings.internal_port}"
    true = TrainerName("north", "a") if who.startswith("trainer") else who
    async with pretending(settings):
        for other in ("auth", "scheduler", TrainerName("south", "b"), TrainerName("a", "north")):
            with pytest.raises(Unavailable):
                await keys_of(internal_channel(own, address, service=other))
        assert await keys_of(internal_channel(own, address, service=true)) == "of my own making"


async def test_a_service_is_asked_only_where_its_certificate_is(
    service_settings: Callable[..., ServiceSettings],
) -> None:
    """Consul was told that auth is at a trainer."""
    settings = service_settings("trainer-north-a")

    class Consul(Discovery):
        def __init__(self) -> None:
            pass

        async def instances(self, name: str) -> list[Instance]:
            return [Instance(name, "", f"127.0.0.1:{settings.internal_port}")]

    async with pretending(settings):
        channels = ServiceChannels(service_settings("storage"), Consul())
        with pytest.raises(Unavailable):
            await keys_of(await channels.get("auth"))
        await channels.close()


async def test_a_terminal_takes_no_trainer_for_a_door(
    service_settings: Callable[..., ServiceSettings], tls: Path
) -> None:
    ca = (tls / "ca.pem").read_bytes()
    for who, taken in (("trainer-north-a", False), ("auth", True)):
        settings = service_settings(who, public_port=free_port())
        async with pretending(settings):
            asked = keys_of(terminal_channel(f"127.0.0.1:{settings.public_port}", ca=ca))
            if taken:
                assert await asked == "of my own making"
            else:
                with pytest.raises(Unavailable):
                    await asked


async def test_the_internal_door_wants_a_certificate_of_this_mesh(mesh, tls: Path) -> None:
    credentials = grpc.ssl_channel_credentials((tls / "ca.pem").read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{mesh[0].internal_port}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_health_answers_for_every_service(terminal) -> None:
    for name in ("", "loupe.storage.v1.DatasetService"):
        answer = await health_pb2_grpc.HealthStub(terminal(None)).Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_second_server_on_the_same_port_does_not_start(mesh, service_settings) -> None:
    settings = service_settings("storage", internal_port=mesh[0].internal_port)
    second = MeshServer(settings, verifier=Verifier(), authorizer=Policy(), servicers=[])
    with pytest.raises(OSError, match="taken"):
        await second.start()
