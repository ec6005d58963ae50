"""The auth callout's rules, without a NATS server: what is understood, what is granted, what is cut."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import Any

import nacl.public
import nkeys
import pytest

from loupe.bus import inbox_prefix
from loupe.errors import Unauthenticated, Unavailable
from loupe.names import AccountName, GroupName, ProjectName
from services.auth.accounts.store import AccountTable
from services.auth.nats import jwt as nats_jwt
from services.auth.nats.callout import (
    Callout,
    Consumer,
    Grant,
    account_of,
    connections_to_cut,
    consumers_to_delete,
    grant,
    permissions,
    read_connections,
    read_consumers,
    read_server,
)
from tests.auth.conftest import LINE, PASSWORD, Rooms

OLGA = AccountName("olga")
SERVER = nacl.public.PrivateKey.generate()
OURS = nacl.public.PrivateKey.generate()


def account_key() -> nkeys.KeyPair:
    """Make a new account's nkey."""
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT))


def question(token: str, **changes: object) -> bytes:
    """Return what the server asks, sealed."""
    nats = {
        "user_nkey": nats_jwt.public_key(account_key()),
        "server_id": {"id": "a-server"},
        "connect_opts": {"auth_token": token},
        **changes,
    }
    signed = nats_jwt.encode(account_key(), "server", nats, time.time())
    return nats_jwt.seal(SERVER, nats_jwt.xkey(OURS), signed.encode())


def verdict(answer: bytes) -> dict[str, Any]:
    """Open the answer as the server does."""
    return nats_jwt.decode(nats_jwt.unseal(SERVER, nats_jwt.xkey(OURS), answer).decode())


@pytest.fixture
def callout(rooms: Rooms) -> Callout:
    """Give a callout with the rooms' policy and keys."""
    rooms.clock.now = time.time()
    return Callout(
        rooms.authority,
        rooms.keys.public,
        signer=account_key(),
        sealer=OURS,
        nats_account="LOUPE",
        now=rooms.clock,
    )


async def olgas_token(rooms: Rooms) -> str:
    """Return an access token of now."""
    await rooms.authority.refresh()
    pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    return pair.access_token


async def test_a_good_token_gets_exactly_its_projects(rooms: Rooms, callout: Callout):
    """Only line-7, until the token expires, in the terminals' account."""
    token = await olgas_token(rooms)
    answered = verdict(callout.answer(question(token), nats_jwt.xkey(SERVER)))
    assert answered["aud"] == "a-server"
    user = nats_jwt.decode(answered["nats"]["jwt"])
    assert user["aud"] == "LOUPE"
    assert user["exp"] == pytest.approx(time.time() + 600, abs=5)
    assert user["nats"]["sub"] == {"allow": [f"{inbox_prefix(token)}.>", "loupe.progress.line-7.>"]}
    names = [f"terminal-olga-{number}" for number in range(16)]
    assert user["nats"]["pub"] == {
        "allow": [
            *(f"$JS.API.CONSUMER.CREATE.PROGRESS.{name}.loupe.progress.line-7.>" for name in names),
            *(f"$JS.API.CONSUMER.DELETE.PROGRESS.{name}" for name in names),
            "$JS.API.DIRECT.GET.PROGRESS.loupe.progress.line-7.>",
            "$JS.FC.PROGRESS.>",
        ]
    }


async def test_whoever_cannot_be_vouched_for_is_refused(rooms: Rooms, callout: Callout):
    """Garbage, nothing, a login that ended, a policy that is not confirmed: an error and no user."""
    token = await olgas_token(rooms)
    for bad in ("", "garbage", token[:-6] + "AAAAAA"):
        assert "error" in verdict(callout.answer(question(bad), nats_jwt.xkey(SERVER)))["nats"]
    rooms.clock.now += 60
    answered = verdict(callout.answer(question(token), nats_jwt.xkey(SERVER)))["nats"]
    assert "error" in answered
    assert "jwt" not in answered
    await rooms.authority.refresh()
    assert "jwt" in verdict(callout.answer(question(token), nats_jwt.xkey(SERVER)))["nats"]
    async with rooms.database.write() as session:
        await AccountTable(session).revoke_logins("olga")
    await rooms.authority.refresh()
    assert "error" in verdict(callout.answer(question(token), nats_jwt.xkey(SERVER)))["nats"]


async def test_what_is_no_question_is_not_answered(rooms: Rooms, callout: Callout):
    """Unsealed, sealed for somebody else, without its fields."""
    token = await olgas_token(rooms)
    stranger = nacl.public.PrivateKey.generate()
    for data, key in (
        (question(token), None),
        (question(token), nats_jwt.xkey(stranger)),
        (b"", nats_jwt.xkey(SERVER)),
        (b"xkv1" + bytes(60), nats_jwt.xkey(SERVER)),
        (question(token, server_id=None), nats_jwt.xkey(SERVER)),
        (question(token, connect_opts=None), nats_jwt.xkey(SERVER)),
    ):
        with pytest.raises(Unauthenticated):
            callout.answer(data, key)


def test_a_nats_token_that_was_changed_is_refused():
    """Claims, algorithm, signature."""
    signed = nats_jwt.encode(account_key(), "someone", {"type": "user"}, 1.0)
    assert nats_jwt.decode(signed)["sub"] == "someone"
    header, body, signature = signed.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "me"}).encode()).decode().rstrip("=")
    none = base64.urlsafe_b64encode(b'{"alg":"none"}').decode().rstrip("=")
    for forged in (f"{header}.{other}.{signature}", f"{none}.{body}.{signature}", f"{header}.{body}.", "x", ""):
        with pytest.raises(Unauthenticated):
            nats_jwt.decode(forged)


async def test_a_connection_is_cut_when_it_holds_another_right_than_now(rooms: Rooms):
    """Lost, gained and unchanged; processes of the mesh, which have no label, are left alone."""
    login = "00000000-0000-0000-0000-000000000001"
    granted = grant(rooms.authority, OLGA, login)
    assert granted is not None
    assert granted.projects == (LINE,)
    assert account_of(granted.label) == (OLGA, login)
    labels = {1: granted.label, 2: "scheduler", 3: "", 4: "olga.not-a-login.0"}
    assert connections_to_cut(rooms.authority, labels) == []
    await rooms.groups.ensure_project(ProjectName("line-8"), "uid-8", OLGA)
    assert connections_to_cut(rooms.authority, labels) == [1]
    renewed = grant(rooms.authority, OLGA, login)
    assert renewed is not None
    assert connections_to_cut(rooms.authority, {1: renewed.label}) == []
    await rooms.person("oskar", "projects/line-8/groups/owners")
    await rooms.groups.remove_member(AccountName("admin"), GroupName("line-8", "owners"), OLGA)
    assert connections_to_cut(rooms.authority, {1: renewed.label}) == [1]


async def test_who_has_no_project_gets_nothing(rooms: Rooms):
    """An empty list of permissions would mean everything to NATS, so there is no grant at all."""
    assert grant(rooms.authority, AccountName("admin"), "") is None
    with pytest.raises(AssertionError):
        permissions(Grant(AccountName("admin"), "", ()), "token")


async def test_a_consumer_goes_with_the_right_to_it(rooms: Rooms):
    """Of another project, of nobody, with a filter too wide, durable or acknowledged: deleted; a terminal's stays."""

    def consumer(name: str, *filters: str, plain: bool = True) -> Consumer:
        return Consumer(name, filters or ("loupe.progress.line-7.job-1",), plain)

    await rooms.person("oskar", "projects/line-7/groups/owners")
    await rooms.person("olga-2", "projects/system/groups/staff")
    kept = [consumer("terminal-olga-0"), consumer("terminal-olga-15", "loupe.progress.line-7.>")]
    doomed = [
        consumer("terminal-olga-1", "loupe.progress.line-8.job-1"),
        consumer("terminal-olga-2", "loupe.progress.line-7.a", "loupe.progress.line-8.b"),
        consumer("terminal-olga-3", "loupe.progress.*.job-1"),
        consumer("terminal-olga-4", "loupe.progress.>"),
        consumer("terminal-olga-5", ""),
        consumer("terminal-olga-6", plain=False),
        consumer("terminal-olga-2-7"),
        consumer("terminal-nobody-0"),
        consumer("anything"),
    ]
    assert consumers_to_delete(rooms.authority, [*kept, *doomed]) == [one.name for one in doomed]
    await rooms.groups.remove_member(AccountName("admin"), GroupName("line-7", "owners"), OLGA)
    assert consumers_to_delete(rooms.authority, kept) == [one.name for one in kept]


def test_consumers_are_read_as_the_server_lists_them():
    """No stream yet is no consumer; what makes one durable or lets it be sent again is seen."""
    listed = {
        "total": 3,
        "consumers": [
            {"name": "a", "config": {"ack_policy": "none", "filter_subject": "x"}},
            {"name": "b", "config": {"ack_policy": "none", "durable_name": "b", "filter_subjects": ["x", "y"]}},
            {"name": "c", "config": {"ack_policy": "explicit"}},
        ],
    }
    found = [Consumer("a", ("x",), True), Consumer("b", ("x", "y"), False), Consumer("c", ("",), False)]
    assert read_consumers(json.dumps(listed).encode()) == (found, 3)
    assert read_consumers(b'{"error": {"code": 404}}') == ([], 0)


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b'{"data": {"connections": [{}], "total": 1}}', b'{"data": 7}'])
def test_a_server_that_answers_nonsense_is_unavailable(answer: bytes):
    """The sweep is tried again rather than believed."""
    with pytest.raises(Unavailable):
        read_connections(answer)
    with pytest.raises(Unavailable):
        read_server(answer)
    with pytest.raises(Unavailable):
        read_consumers(answer)
