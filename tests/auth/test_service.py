"""The auth service as its callers see it: real gRPC, real TLS, a database in a file."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.certificates import Leaf, ensure_certificates
from loupe import errors
from loupe.auth.v1 import account_service_pb2 as accounts
from loupe.auth.v1 import group_pb2
from loupe.auth.v1 import group_service_pb2 as groups
from loupe.auth.v1 import policy_service_pb2 as policy
from loupe.auth.v1 import session_service_pb2 as sessions
from loupe.identity import JwksVerifier
from loupe.names import AccountName, ProjectName
from loupe.rpc.authorizer import RemoteAuthorizer
from loupe.rpc.gate import access_table
from loupe.rpc.server import MeshServer, Registration
from loupe.scheduler.v1 import training_job_service_pb2 as jobs
from loupe.scheduler.v1 import training_job_service_pb2_grpc
from loupe.settings import ServiceSettings
from loupe.storage.v1 import (
    dataset_service_pb2,
    dataset_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)
from loupe.terminal.client import Terminal
from loupe.terminal.profile import Profile, ProfileStore
from services.auth.sessions.sessions import Sessions, TokenPair
from tests.auth.conftest import PASSWORD, Doors, RunningAuth
from tests.cutting_proxy import CuttingProxy

SERVICES = [
    descriptor_pool.Default().FindServiceByName(f"loupe.auth.v1.{name}Service")
    for name in ("Account", "Group", "Policy", "Session")
]


async def populate(auth: RunningAuth) -> None:
    """olga owns line-7, vera views it, sam is staff and in no project."""
    admin, storage = await auth.administrator(), auth.service("storage")
    for account in ("olga", "vera", "sam"):
        await admin.accounts.CreateAccount(
            accounts.CreateAccountRequest(account_id=account, password=PASSWORD, group="projects/system/groups/staff")
        )
    await storage.policy.EnsureProject(
        policy.EnsureProjectRequest(project="projects/line-7", project_uid="uid-7", owner="accounts/olga")
    )
    olga = await logged_in(auth, "olga")
    await olga.groups.AddMember(groups.AddMemberRequest(name="projects/line-7/groups/viewers", account="accounts/vera"))


async def logged_in(auth: RunningAuth, account: str) -> Doors:
    """Return a terminal of an account."""
    return auth.terminal((await auth.login(account)).access_token)


async def test_the_first_administrator_logs_in_and_is_named(auth: RunningAuth):
    """The password that was written at the first start opens accounts/admin; the file is for the owner only."""
    admin = await auth.administrator()
    me = await admin.sessions.WhoAmI(sessions.WhoAmIRequest())
    assert me.account.name == "accounts/admin"
    assert list(me.account.groups) == ["projects/system/groups/administrators"]
    assert auth.settings.admin_password_file.stat().st_mode & 0o777 == 0o600


async def test_the_operators_own_password_is_taken_and_survives_a_restart(running_auth, tmp_path):
    """A file that is there before the first start is the password; a second start changes nothing."""
    (tmp_path / "admin-password").write_text("chosen by the operator\n")
    async with running_auth() as auth:
        tokens = await auth.login("admin", "chosen by the operator")
    async with running_auth() as auth:
        me = await auth.terminal(tokens.access_token).sessions.WhoAmI(sessions.WhoAmIRequest())
        assert me.account.name == "accounts/admin"
        await auth.terminal().sessions.Refresh(sessions.RefreshRequest(refresh_token=tokens.refresh_token))


async def test_authorize_and_memberships_answer_services_only(auth: RunningAuth):
    """Storage learns who may do what; a terminal, even the administrator's, does not get to ask."""
    await populate(auth)
    storage = auth.service("storage")
    question = policy.AuthorizeRequest(account="accounts/vera", project="projects/line-7", action="datasets.write")
    answer = await storage.policy.Authorize(question)
    decision = answer.decision
    assert (decision.allowed, decision.member, decision.parameter, decision.threshold) == (False, True, 10, 20)
    assert decision.group == "projects/line-7/groups/viewers"
    assert answer.revision > 0
    listed = await storage.policy.ListMemberships(policy.ListMembershipsRequest(account="accounts/vera"))
    assert list(listed.projects) == ["projects/line-7", "projects/system"]
    with pytest.raises(errors.PermissionDenied):
        await (await auth.administrator()).policy.Authorize(question)
    for field in ("account", "project"):
        with pytest.raises(errors.InvalidArgument):
            broken = policy.AuthorizeRequest()
            broken.CopyFrom(question)
            broken.ClearField(field)
            await storage.policy.Authorize(broken)
    nameless = policy.AuthorizeRequest(account="accounts/vera", project="projects/line-7", action="")
    assert not (await storage.policy.Authorize(nameless)).decision.allowed


async def test_only_storage_says_that_a_project_is_gone(auth: RunningAuth):
    """Another service and the administrator are refused; who was in it is in it no longer."""
    await populate(auth)
    olga, gone = (
        await logged_in(auth, "olga"),
        policy.RemoveProjectRequest(project="projects/line-7", project_uid="uid-7"),
    )
    for door in (auth.service("scheduler"), await auth.administrator()):
        with pytest.raises(errors.LoupeError):
            await door.policy.RemoveProject(gone)
    listed = groups.ListGroupsRequest(parent="projects/line-7")
    await olga.groups.ListGroups(listed)
    for _ in range(2):
        await auth.service("storage").policy.RemoveProject(gone)
    with pytest.raises(errors.NotFound):
        await olga.groups.ListGroups(listed)


async def test_only_the_scheduler_gets_attempt_tokens_and_they_open_nothing_here(auth: RunningAuth):
    """Storage is refused; the token is no access token; nothing for an account that may not work."""
    await populate(auth)
    asked = policy.IssueAttemptTokenRequest(account="accounts/olga", job="projects/line-7/jobs/j1", attempt=1)
    with pytest.raises(errors.LoupeError):
        await auth.service("storage").policy.IssueAttemptToken(asked)
    issued = await auth.service("scheduler").policy.IssueAttemptToken(asked)
    token, claims = issued.token, jwt.decode(issued.token, options={"verify_signature": False})
    assert issued.lifetime.seconds == claims["exp"] - claims["iat"] == auth.settings.attempt_seconds
    with pytest.raises(errors.Unauthenticated) as caught:
        await auth.terminal(token).sessions.WhoAmI(sessions.WhoAmIRequest())
    assert caught.value.metadata["problem"] == "type"
    await (await auth.administrator()).accounts.DisableAccount(accounts.DisableAccountRequest(name="accounts/olga"))
    with pytest.raises(errors.FailedPrecondition):
        await auth.service("scheduler").policy.IssueAttemptToken(asked)


def forged_tokens(auth: RunningAuth, good: str) -> dict[str, str]:
    """Make tokens that look like `good` and must not be taken, by what is wrong with them."""
    key = auth.app._keys.newest
    header = {"kid": key.kid, "typ": "access"}
    now = int(time.time())
    claims = jwt.decode(good, options={"verify_signature": False})

    def signed(changes: dict[str, object], head: dict[str, object] | None = None) -> str:
        body = {name: value for name, value in {**claims, **changes}.items() if value is not None}
        return jwt.encode(body, key.private, algorithm="EdDSA", headers=head or header)

    public = key.private.public_key().public_bytes_raw()
    return {
        "expired": signed({"exp": now - 300}),
        "expired beyond the leeway": signed({"exp": now - 31}),
        "not yet valid": signed({"nbf": now + 300, "iat": now + 300}),
        "no expiry": signed({"exp": None}),
        "another audience": signed({"aud": "other"}),
        "no audience": signed({"aud": None}),
        "another issuer": signed({"iss": "other"}),
        "no login": signed({"login": None}),
        "no subject": signed({"sub": None}),
        "a subject that is no account": signed({"sub": "accounts/../admin"}),
        "of type attempt": signed({"typ": "attempt"}, {**header, "typ": "attempt"}),
        "of type JWT": signed({}, {**header, "typ": "JWT"}),
        "alg none": jwt.encode(claims, cast(str, None), algorithm="none", headers=header),
        "HS256 with the public key": jwt.encode(claims, public, algorithm="HS256", headers=header),
        "a stranger's key": jwt.encode(claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers=header),
        "an unknown kid": signed({}, {**header, "kid": "another"}),
        "a changed claim": ".".join(
            [good.split(".", maxsplit=1)[0], signed({"sub": "accounts/admin"}).split(".")[1], good.split(".")[2]]
        ),
        "no signature": good.rpartition(".")[0] + ".",
        "garbage": "garbage",
    }


async def test_a_token_that_is_not_right_is_refused_on_every_method(auth: RunningAuth):
    """Every forgery at every method that takes tokens: UNAUTHENTICATED; the good one, and one in the leeway, pass."""
    await populate(auth)
    good = (await auth.login("olga")).access_token
    claims = jwt.decode(good, options={"verify_signature": False})
    key = auth.app._keys.newest
    late = jwt.encode(
        {**claims, "exp": int(time.time()) - 20},
        key.private,
        algorithm="EdDSA",
        headers={"kid": key.kid, "typ": "access"},
    )
    for token in (good, late):
        await auth.terminal(token).sessions.WhoAmI(sessions.WhoAmIRequest())
    channel = auth.terminal().channel
    table = access_table(SERVICES)
    methods = [path for path, rule in table.items() if not rule.public]
    assert len(methods) > 20
    for problem, token in forged_tokens(auth, good).items():
        for path in methods:
            call: Any = channel.unary_unary(path, request_serializer=lambda _: b"", response_deserializer=bytes)
            with pytest.raises(errors.Unauthenticated):
                await call(b"", metadata=[("authorization", f"Bearer {token}")])
                pytest.fail(f"{path} took a token: {problem}")


def test_every_method_has_a_row_in_the_access_table():
    """A method without a row would be refused to everybody; better to know it here."""
    table = access_table(SERVICES)
    methods = {f"/{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    assert set(table) == methods


async def test_a_call_without_a_good_client_certificate_does_not_reach_the_internal_door(auth: RunningAuth, tls):
    """No certificate, or one of another authority: the handshake fails; a mesh certificate passes (control)."""
    address = f"127.0.0.1:{auth.settings.internal_port}"
    ca = (tls / "ca.pem").read_bytes()
    foreign = tls / "foreign"
    if not foreign.exists():
        foreign.mkdir()
        ensure_certificates(foreign, [Leaf("storage", "loupe://service/storage")], datetime.now(UTC))
    stranger = ((foreign / "storage.key").read_bytes(), (foreign / "storage.pem").read_bytes())
    for credentials in (grpc.ssl_channel_credentials(ca), grpc.ssl_channel_credentials(ca, *stranger)):
        async with grpc.aio.secure_channel(address, credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await Doors(channel).sessions.GetJwks(sessions.GetJwksRequest(), timeout=5)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    await auth.service("storage").sessions.GetJwks(sessions.GetJwksRequest())


async def test_an_ended_login_is_refused_at_once_and_elsewhere_within_seconds(auth: RunningAuth):
    """Logout: this service refuses the access token in the next call, a service that caches decisions soon after."""
    await populate(auth)
    tokens = await auth.login("olga")
    login = jwt.decode(tokens.access_token, options={"verify_signature": False})["login"]
    olga = auth.terminal(tokens.access_token)
    channel = auth.service("storage").channel

    async def same() -> grpc.aio.Channel:
        return channel

    storage = RemoteAuthorizer(same)
    storage.start()
    question = (AccountName("olga"), ProjectName("line-7"), "jobs.submit", login)
    assert (await storage.decide(*question)).allowed
    await auth.terminal().sessions.Logout(sessions.LogoutRequest(refresh_token=tokens.refresh_token))
    with pytest.raises(errors.Unauthenticated):
        await olga.sessions.WhoAmI(sessions.WhoAmIRequest())
    async with asyncio.timeout(5):
        while (await storage.decide(*question)).active:
            await asyncio.sleep(0.02)
    await storage.close()


async def test_a_replayed_refresh_token_ends_the_login_over_the_wire(auth: RunningAuth):
    """REFRESH_REPLAYED, and the newest tokens are worth nothing."""
    door = auth.terminal()
    first = await auth.login("admin", auth.admin_password)
    second = (await door.sessions.Refresh(sessions.RefreshRequest(refresh_token=first.refresh_token))).tokens
    await auth.terminal(second.access_token).sessions.WhoAmI(sessions.WhoAmIRequest())
    with pytest.raises(errors.RefreshReplayed):
        await door.sessions.Refresh(sessions.RefreshRequest(refresh_token=first.refresh_token))
    with pytest.raises(errors.Unauthenticated):
        await auth.terminal(second.access_token).sessions.WhoAmI(sessions.WhoAmIRequest())
    with pytest.raises(errors.Unauthenticated):
        await door.sessions.Refresh(sessions.RefreshRequest(refresh_token=second.refresh_token))


async def test_a_terminal_whose_refresh_was_answered_into_a_cut_stays_logged_in(
    auth: RunningAuth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The tokens are exchanged here and the connection is cut before they are there; it asks again and goes on."""
    proxy = CuttingProxy(auth.settings.public_port)
    refresh, answers = Sessions.refresh, []

    async def cut_off(*arguments: Any) -> TokenPair:
        answers.append(await refresh(*arguments))
        if len(answers) == 1:
            proxy.cut()
        return answers[-1]

    monkeypatch.setattr(Sessions, "refresh", cut_off)
    tokens = await auth.login("admin", auth.admin_password)
    store = ProfileStore(tmp_path / "profile.json")
    ca = auth.settings.tls_ca.read_text(encoding="utf-8")
    store.save(Profile(await proxy.start(), ca, "accounts/admin", refresh_token=tokens.refresh_token))
    async with Terminal.connect(store, retry_seconds=10) as terminal:
        assert (await terminal.sessions.who_am_i()).name == "accounts/admin"
    first, second = answers
    assert first.refresh_token == second.refresh_token == store.load().refresh_token
    await proxy.close()


FLOOD = """
import asyncio, sys
from pathlib import Path
import grpc
from loupe.auth.v1 import session_service_pb2 as sessions
from loupe.auth.v1.session_service_pb2_grpc import SessionServiceStub
from loupe.rpc.channel import OPTIONS

async def login(address, ca, request, number):
    own = ("grpc.use_local_subchannel_pool", 1), ("number", number)
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca), options=OPTIONS + own) as channel:
        try:
            await SessionServiceStub(channel).Login(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name

async def main(address, ca):
    request = sessions.LoginRequest(account="accounts/nobody", password="x" * (39 << 20))
    answers = await asyncio.gather(*(login(address, Path(ca).read_bytes(), request, number) for number in range(20)))
    print(*answers)

asyncio.run(main(*sys.argv[1:]))
"""


def forget_peak() -> None:
    """Let the most memory of this process be what it has now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_mebibytes() -> int:
    """Return the most memory that this process has had since it was last forgotten."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) >> 10


async def test_nothing_large_is_read_of_who_has_not_logged_in(auth: RunningAuth):
    """20 logins with passwords of 39 MiB at once: refused, in memory for the small messages that auth takes."""
    forget_peak()
    before = peak_mebibytes()
    flood = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", FLOOD, f"127.0.0.1:{auth.settings.public_port}", str(auth.settings.tls_ca)),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    answers, _ = await flood.communicate()
    assert answers.decode().split() == ["RESOURCE_EXHAUSTED"] * 20
    assert peak_mebibytes() - before < 40


async def test_nobody_sends_auth_a_large_message(auth: RunningAuth):
    """With a login neither: what auth is told is names and passwords."""
    admin = await auth.administrator()
    with pytest.raises(errors.ResourceExhausted):
        await admin.accounts.GetAccount(accounts.GetAccountRequest(name="x" * (260 << 10)))
    with pytest.raises(errors.InvalidArgument):
        await admin.accounts.GetAccount(accounts.GetAccountRequest(name="x" * (200 << 10)))


class Jobs(training_job_service_pb2_grpc.TrainingJobServiceServicer):
    """A scheduler that lets every job be read, and watched without end."""

    async def GetTrainingJob(self, request, context):
        return jobs.GetTrainingJobResponse()

    async def WatchTrainingJob(self, request, context):
        yield jobs.WatchTrainingJobResponse()
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def other_service(
    auth: RunningAuth, settings: ServiceSettings
) -> AsyncIterator[Callable[[str], training_job_service_pb2_grpc.TrainingJobServiceAsyncStub]]:
    """Start a service that asks auth, as the scheduler does; give what calls it with an access token."""

    def of(token: str) -> training_job_service_pb2_grpc.TrainingJobServiceAsyncStub:
        return training_job_service_pb2_grpc.TrainingJobServiceStub(
            auth.terminal(token, f"127.0.0.1:{settings.public_port}").channel
        )

    add = training_job_service_pb2_grpc.add_TrainingJobServiceServicer_to_server
    async with serving(auth, settings, [(add, Jobs())]):
        yield of


@contextlib.asynccontextmanager
async def serving(
    auth: RunningAuth, settings: ServiceSettings, servicers: Sequence[Registration]
) -> AsyncIterator[None]:
    """Serve beside auth, which is asked who may do what."""
    door = auth.service("scheduler")

    async def same() -> grpc.aio.Channel:
        return door.channel

    async def keys() -> str:
        return (await door.sessions.GetJwks(sessions.GetJwksRequest())).jwks_json

    authorizer = RemoteAuthorizer(same)
    server = MeshServer(settings, verifier=JwksVerifier(keys), authorizer=authorizer, servicers=servicers)
    authorizer.start()
    await server.start()
    try:
        yield
    finally:
        await server.stop()
        await authorizer.close()


class Data(dataset_service_pb2_grpc.DatasetServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """What an attempt asks storage for: to read data, and to be given what its job has saved."""

    async def GetDatasetVersion(self, request, context):
        return dataset_service_pb2.GetDatasetVersionResponse()

    async def GetCheckpoint(self, request, context):
        return model_service_pb2.GetCheckpointResponse()


async def test_an_attempt_has_the_rights_that_its_submitter_has_now(auth: RunningAuth, service_settings):
    """In its job's project only; lowered, thrown out or disabled, the submitter takes the token's rights along."""
    await populate(auth)
    admin, settings = await auth.administrator(), service_settings("storage")
    registrations: list[Registration] = [
        (dataset_service_pb2_grpc.add_DatasetServiceServicer_to_server, Data()),
        (model_service_pb2_grpc.add_ModelServiceServicer_to_server, Data()),
    ]
    asked = policy.IssueAttemptTokenRequest(account="accounts/eva", job="projects/line-7/jobs/j1", attempt=1)
    engineers, viewers = "projects/line-7/groups/engineers", "projects/line-7/groups/viewers"
    await admin.accounts.CreateAccount(
        accounts.CreateAccountRequest(account_id="eva", password=PASSWORD, group=engineers)
    )
    await auth.service("storage").policy.EnsureProject(
        policy.EnsureProjectRequest(project="projects/line-9", project_uid="uid-9", owner="accounts/eva")
    )
    token = (await auth.service("scheduler").policy.IssueAttemptToken(asked)).token
    async with serving(auth, settings, registrations):
        channel = auth.terminal(token, f"127.0.0.1:{settings.public_port}").channel

        async def read(project: str = "line-7") -> object:
            name = f"projects/{project}/datasets/d/versions/1"
            request = dataset_service_pb2.GetDatasetVersionRequest(name=name)
            return await dataset_service_pb2_grpc.DatasetServiceStub(channel).GetDatasetVersion(request)

        async def work() -> object:
            request = model_service_pb2.GetCheckpointRequest(job="projects/line-7/jobs/j1")
            return await model_service_pb2_grpc.ModelServiceStub(channel).GetCheckpoint(request)

        async def refused(call: Callable[[], Awaitable[object]], kind: type[errors.LoupeError]) -> None:
            """Whoever asks for a new token hears it at once; what has one, soon."""
            with pytest.raises((errors.PermissionDenied, errors.FailedPrecondition)):
                await auth.service("scheduler").policy.IssueAttemptToken(asked)
            async with asyncio.timeout(5):
                with pytest.raises(kind):
                    while True:
                        await call()
                        await asyncio.sleep(0.02)

        await read()
        await work()
        with pytest.raises(errors.NotFound):
            await read("line-9")
        await admin.groups.AddMember(groups.AddMemberRequest(name=viewers, account="accounts/eva"))
        await refused(work, errors.PermissionDenied)
        await read()
        await admin.groups.RemoveMember(groups.RemoveMemberRequest(name=viewers, account="accounts/eva"))
        await refused(read, errors.NotFound)
        await admin.groups.AddMember(groups.AddMemberRequest(name=engineers, account="accounts/eva"))
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(errors.NotFound):
                    await work()
                    break
        await admin.accounts.DisableAccount(accounts.DisableAccountRequest(name="accounts/eva"))
        await refused(work, errors.Unauthenticated)


async def test_a_replayed_refresh_token_ends_the_login_at_the_other_services(auth: RunningAuth, service_settings):
    """Within 5 s its access tokens open nothing there, and what they had opened ends; another login goes on."""
    await populate(auth)
    first, other = await auth.login("olga"), await auth.login("olga")
    refresh = sessions.RefreshRequest(refresh_token=first.refresh_token)
    second = (await auth.terminal().sessions.Refresh(refresh)).tokens
    job = "projects/line-7/jobs/j1"
    async with other_service(auth, service_settings("scheduler")) as of:
        for tokens in (first, second, other):
            await of(tokens.access_token).GetTrainingJob(jobs.GetTrainingJobRequest(name=job))
        watch = aiter(of(second.access_token).WatchTrainingJob(jobs.WatchTrainingJobRequest(name=job)))
        await anext(watch)
        with pytest.raises(errors.RefreshReplayed):
            await auth.terminal().sessions.Refresh(refresh)
        with pytest.raises(errors.Unauthenticated):
            await asyncio.wait_for(anext(watch), 5)
        for tokens in (first, second):
            with pytest.raises(errors.Unauthenticated):
                await of(tokens.access_token).GetTrainingJob(jobs.GetTrainingJobRequest(name=job))
        await of(other.access_token).GetTrainingJob(jobs.GetTrainingJobRequest(name=job))


async def test_a_foreign_project_looks_like_one_that_does_not_exist(auth: RunningAuth):
    """For every method with a project in it: the same error, word for word but the name."""
    await populate(auth)
    sam = await logged_in(auth, "sam")

    async def seen(project: str) -> list[tuple[str, str]]:
        group = f"projects/{project}/groups/owners"
        calls: list[Awaitable[object]] = [
            sam.groups.GetGroup(groups.GetGroupRequest(name=group)),
            sam.groups.ListGroups(groups.ListGroupsRequest(parent=f"projects/{project}")),
            sam.groups.CreateGroup(
                groups.CreateGroupRequest(
                    parent=f"projects/{project}", group_id="x", group=group_pb2.Group(permission_parameter=1)
                )
            ),
            sam.groups.UpdateGroup(
                groups.UpdateGroupRequest(group=group_pb2.Group(name=group, permission_parameter=1))
            ),
            sam.groups.DeleteGroup(groups.DeleteGroupRequest(name=group)),
            sam.groups.AddMember(groups.AddMemberRequest(name=group, account="accounts/sam")),
            sam.groups.RemoveMember(groups.RemoveMemberRequest(name=group, account="accounts/olga")),
            sam.groups.ListMembers(groups.ListMembersRequest(name=group)),
            sam.accounts.CreateAccount(accounts.CreateAccountRequest(account_id="x", password=PASSWORD, group=group)),
            sam.policy.WhyDenied(
                policy.WhyDeniedRequest(account="accounts/olga", project=f"projects/{project}", action="jobs.read")
            ),
        ]
        answers = []
        for call in calls:
            with pytest.raises(errors.NotFound) as caught:
                await call
            answers.append((caught.value.message, str(caught.value.metadata)))
        return answers

    there, absent = await seen("line-7"), await seen("line-8")
    assert [
        (message.replace("line-7", "line-8"), meta.replace("line-7", "line-8")) for message, meta in there
    ] == absent


async def test_a_denial_names_group_parameter_and_threshold(auth: RunningAuth):
    """In the error, and in WhyDenied for oneself and for others who may be asked about."""
    await populate(auth)
    vera, olga = await logged_in(auth, "vera"), await logged_in(auth, "olga")
    with pytest.raises(errors.PermissionDenied) as caught:
        await vera.groups.AddMember(
            groups.AddMemberRequest(name="projects/line-7/groups/owners", account="accounts/vera")
        )
    assert caught.value.metadata == {
        "account": "accounts/vera",
        "action": "groups.write",
        "project": "projects/line-7",
        "group": "projects/line-7/groups/viewers",
        "parameter": "10",
        "threshold": "40",
    }
    own = await vera.policy.WhyDenied(policy.WhyDeniedRequest(project="projects/line-7", action="groups.write"))
    assert not own.decision.allowed
    assert "10, below the threshold 40" in own.explanation
    others = await olga.policy.WhyDenied(
        policy.WhyDeniedRequest(account="accounts/vera", project="projects/line-7", action="jobs.read")
    )
    assert others.decision.allowed
    with pytest.raises(errors.PermissionDenied):
        await vera.policy.WhyDenied(
            policy.WhyDeniedRequest(account="accounts/olga", project="projects/line-7", action="jobs.read")
        )
    with pytest.raises(errors.InvalidArgument):
        await vera.policy.WhyDenied(policy.WhyDeniedRequest(project="projects/line-7", action="no.such"))


async def test_watch_policy_sends_at_once_at_changes_and_as_a_sign_of_life(auth: RunningAuth):
    """The stream on which every cache hangs."""
    admin, storage = await auth.administrator(), auth.service("storage")
    received: list[int] = []

    async def watch() -> None:
        async for message in storage.policy.WatchPolicy(policy.WatchPolicyRequest()):
            received.append(message.revision)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(5):
        while not received:
            await asyncio.sleep(0.01)
    first = received[0]
    threshold = group_pb2.Threshold(name="thresholds/jobs.submit", value=31)
    await admin.groups.SetThreshold(groups.SetThresholdRequest(threshold=threshold))
    async with asyncio.timeout(0.9):
        while received[-1] == first:
            await asyncio.sleep(0.01)
    signs = len(received)
    async with asyncio.timeout(3):
        while len(received) == signs:
            await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


@pytest.fixture
def brief_confidence(monkeypatch: pytest.MonkeyPatch) -> None:
    """An auth that is started later compares its policy often, and does not believe it for long."""
    monkeypatch.setattr("services.auth.policy.authority.POLL_SECONDS", 0.25)
    monkeypatch.setattr("services.auth.policy.authority.CONFIRMED_SECONDS", 1.5)


@pytest.mark.usefixtures("brief_confidence")
async def test_without_its_database_the_service_denies_and_says_that_it_is_not_ready(auth: RunningAuth):
    """Authorize becomes Unavailable, health NOT_SERVING, the watch ends; nothing is ever allowed meanwhile."""
    await populate(auth)
    storage = auth.service("storage")
    health = health_pb2_grpc.HealthStub(storage.channel)
    question = policy.AuthorizeRequest(account="accounts/olga", project="projects/line-7", action="jobs.submit")
    assert (await storage.policy.Authorize(question)).decision.allowed
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    database = auth.settings.state / "auth.db"
    away = database.with_name("away.db")
    await auth.app._engine.dispose()
    for file in auth.settings.state.glob("auth.db*"):
        file.rename(file.with_name(file.name.replace("auth.db", "away.db")))
    database.mkdir()
    async with asyncio.timeout(10):
        with contextlib.suppress(errors.Unavailable):
            while (await storage.policy.Authorize(question)).decision.allowed:
                await asyncio.sleep(0.05)
        while (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.05)
    with pytest.raises(errors.Unavailable):
        await storage.policy.Authorize(question)
    with pytest.raises(errors.Unavailable):
        await auth.login("olga")
    with pytest.raises(errors.Unavailable):
        async for _ in storage.policy.WatchPolicy(policy.WatchPolicyRequest()):
            pass
    database.rmdir()
    for file in away.parent.glob("away.db*"):
        file.rename(file.with_name(file.name.replace("away.db", "auth.db")))
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(errors.Unavailable):
                if (await storage.policy.Authorize(question)).decision.allowed:
                    break
            await asyncio.sleep(0.05)


async def test_endpoints_are_told_to_everybody(running_auth):
    """The NATS URL is the public one; doors that are not open are empty, also without Consul."""
    async with running_auth(public_nats_url="tls://nats.example:4222") as auth:
        found = await auth.terminal().sessions.ListEndpoints(sessions.ListEndpointsRequest())
        assert (found.storage, found.scheduler, found.nats_url) == ("", "", "tls://nats.example:4222")


async def test_no_secret_gets_into_the_log(auth: RunningAuth, capfd: pytest.CaptureFixture[str]):
    """Passwords, tokens, good and bad, through every door that takes them."""
    await populate(auth)
    tokens = await auth.login("olga")
    with pytest.raises(errors.BadCredentials):
        await auth.login("olga", "canary wrong password")
    door = auth.terminal(tokens.access_token)
    await door.accounts.SetPassword(
        accounts.SetPasswordRequest(name="accounts/olga", old_password=PASSWORD, new_password="canary new password")
    )
    with pytest.raises(errors.Unauthenticated):
        await door.sessions.Refresh(sessions.RefreshRequest(refresh_token="canary refresh token"))
    written = "".join(capfd.readouterr())
    for secret in (PASSWORD, "canary", tokens.access_token, tokens.refresh_token, auth.admin_password):
        assert secret not in written
