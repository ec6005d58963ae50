"""Logins, refresh tokens and their end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator

import jwt
import pytest

from loupe import database
from loupe.errors import (
    BadCredentials,
    InvalidArgument,
    LoupeError,
    RefreshReplayed,
    Throttled,
    Unauthenticated,
)
from loupe.identity import JwksVerifier, decode_token
from loupe.names import AccountName, JobName
from services.auth.accounts.store import AccountTable
from services.auth.database.metadata import metadata
from services.auth.database.session import Database
from services.auth.policy.authority import Authority
from services.auth.sessions.sessions import Sessions, TokenPair
from services.auth.sessions.store import SigningKeyTable
from services.auth.sessions.tokens import KeyRing
from tests.auth.conftest import LINE, PASSWORD, Rooms

OLGA = AccountName("olga")


def login_of(access_token: str) -> str:
    """Read the login id out of an access token."""
    return jwt.decode(access_token, options={"verify_signature": False})["login"]


async def is_active(rooms: Rooms, access_token: str) -> bool:
    """Return what every service hears about this token's login."""
    return (await rooms.authority.decide(OLGA, LINE, "jobs.read", login_of(access_token))).active


async def test_bad_logins_look_alike(rooms: Rooms, monkeypatch: pytest.MonkeyPatch):
    """Unknown, wrong, disabled: the same error, word for word, after one check of a hash; throttled likewise."""
    checked: list[str] = []
    verify = rooms.passwords._verify
    monkeypatch.setattr(rooms.passwords, "_verify", lambda known, given: checked.append(known) or verify(known, given))
    await rooms.person("dora", "projects/line-7/groups/viewers")
    await rooms.accounts.set_disabled(AccountName("admin"), AccountName("dora"), True)
    tries = [("unknown", PASSWORD), ("olga", "wrong password"), ("dora", PASSWORD)]
    seen = set()
    for account, password in tries:
        with pytest.raises(BadCredentials) as caught:
            await rooms.sessions.login(AccountName(account), password, "here")
        seen.add((caught.value.message, str(caught.value.metadata)))
    assert len(seen) == 1
    assert len(checked) == len(tries)
    throttled = set()
    for account, password in tries:
        for _ in range(9):
            with pytest.raises(BadCredentials):
                await rooms.sessions.login(AccountName(account), password, "here")
        with pytest.raises(Throttled) as refused:
            await rooms.sessions.login(AccountName(account), password, "here")
        throttled.add((refused.value.message, str(refused.value.metadata)))
    assert len(throttled) == 1
    await rooms.sessions.login(AccountName("admin"), await reset(rooms), "here")


async def reset(rooms: Rooms) -> str:
    """Give the administrator a known password, past the front door."""
    async with rooms.database.write() as session:
        await AccountTable(session).set_password_hash("admin", await rooms.passwords.hash(PASSWORD, "here"))
    return PASSWORD


async def test_a_refresh_token_works_once_and_a_replay_ends_its_login(rooms: Rooms):
    """The new pair works; the old refresh token ends the family, the new tokens included; another login stays."""
    other, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    first, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    second = await rooms.sessions.refresh(first.refresh_token)
    third = await rooms.sessions.refresh(second.refresh_token)
    assert login_of(third.access_token) == login_of(first.access_token)
    assert await is_active(rooms, third.access_token)
    with pytest.raises(RefreshReplayed):
        await rooms.sessions.refresh(first.refresh_token)
    assert not await is_active(rooms, third.access_token)
    with pytest.raises(Unauthenticated):
        await rooms.sessions.refresh(third.refresh_token)
    assert await is_active(rooms, other.access_token)
    await rooms.sessions.refresh(other.refresh_token)


async def test_a_refresh_whose_answer_was_lost_is_asked_for_again(rooms: Rooms):
    """The same request gives the same refresh token until that is used; any other request is a replay."""
    request, other = str(uuid.uuid4()), str(uuid.uuid4())
    first, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    lost = await rooms.sessions.refresh(first.refresh_token, request)
    again = await rooms.sessions.refresh(first.refresh_token, request)
    assert again.refresh_token == lost.refresh_token != first.refresh_token
    assert await is_active(rooms, again.access_token)
    newest = await rooms.sessions.refresh(again.refresh_token, request)
    assert newest.refresh_token not in (again.refresh_token, first.refresh_token)
    with pytest.raises(RefreshReplayed):  # it came after all: whoever asks for it now is somebody else
        await rooms.sessions.refresh(first.refresh_token, request)
    assert not await is_active(rooms, newest.access_token)
    for repetition in (other, ""):
        pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
        await rooms.sessions.refresh(pair.refresh_token, request)
        with pytest.raises(RefreshReplayed):
            await rooms.sessions.refresh(pair.refresh_token, repetition)
        with pytest.raises(Unauthenticated):
            await rooms.sessions.refresh(pair.refresh_token, request)


@pytest.mark.parametrize("request_id", ["7", "x" * 129])
async def test_a_request_that_can_be_guessed_is_refused(rooms: Rooms, request_id: str):
    """And nothing is used up."""
    pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    with pytest.raises(InvalidArgument, match="random one of 16 to 128"):
        await rooms.sessions.refresh(pair.refresh_token, request_id)
    await rooms.sessions.refresh(pair.refresh_token)


@contextlib.asynccontextmanager
async def another_process(rooms: Rooms) -> AsyncIterator[Sessions]:
    """Give the sessions of an auth with connections of its own to the same database."""
    engine = database.create_engine(rooms.engine.url.render_as_string(hide_password=False))
    own = Database(engine, rooms.clock)
    authority = Authority(own, AccountTable, revoked_seconds=900, now=rooms.clock, monotonic=rooms.clock)
    yield Sessions(own, authority, rooms.passwords, rooms.throttle, rooms.tokens)
    await engine.dispose()


async def test_a_refresh_token_used_twice_at_once_gives_one_pair_that_is_worth_nothing(rooms: Rooms):
    """Here, and in two processes: one gets tokens, the other ends the login, those tokens included."""
    async with another_process(rooms) as elsewhere:
        for second in [rooms.sessions, elsewhere] * 4:
            token = (await rooms.sessions.login(OLGA, PASSWORD, "here"))[0].refresh_token
            both = rooms.sessions.refresh(token), second.refresh(token)
            answers = await asyncio.gather(*both, return_exceptions=True)
            (pair,) = [each for each in answers if isinstance(each, TokenPair)]
            (refusal,) = [each for each in answers if not isinstance(each, TokenPair)]
            assert isinstance(refusal, RefreshReplayed)
            with pytest.raises(Unauthenticated) as caught:
                await rooms.sessions.refresh(pair.refresh_token)
            assert caught.value.metadata["problem"] == "revoked"
            await rooms.authority.refresh()
            assert not await is_active(rooms, pair.access_token)


async def test_logout_ends_a_login_by_any_of_its_refresh_tokens(rooms: Rooms):
    """Access tokens of the login are refused from now on; a second logout is fine; an unknown token is not."""
    first, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    second = await rooms.sessions.refresh(first.refresh_token)
    await rooms.sessions.logout(first.refresh_token)
    assert not await is_active(rooms, second.access_token)
    with pytest.raises(Unauthenticated):
        await rooms.sessions.refresh(second.refresh_token)
    await rooms.sessions.logout(first.refresh_token)
    with pytest.raises(Unauthenticated):
        await rooms.sessions.logout("unknown")


async def test_a_revoked_login_is_remembered_longer_than_its_access_token_lives(rooms: Rooms):
    """Also by a process that starts only then."""
    pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    await rooms.sessions.logout(pair.refresh_token)
    rooms.clock.now += rooms.lifetimes.access + 60
    other = rooms.again()
    for authority in (rooms.authority, other):
        await authority.refresh()
        assert not authority.is_active(OLGA, login_of(pair.access_token))


async def test_a_refresh_token_expires(rooms: Rooms):
    """After its 30 days it is refused, and using the login until then moved them on."""
    pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    rooms.clock.now += rooms.lifetimes.refresh - 10
    renewed = await rooms.sessions.refresh(pair.refresh_token)
    rooms.clock.now += rooms.lifetimes.refresh - 10
    renewed = await rooms.sessions.refresh(renewed.refresh_token)
    rooms.clock.now += rooms.lifetimes.refresh + 1
    with pytest.raises(Unauthenticated) as caught:
        await rooms.sessions.refresh(renewed.refresh_token)
    assert caught.value.metadata["problem"] == "expired"


@pytest.mark.parametrize("ending", ["set_password", "disable"])
async def test_a_new_password_and_disabling_end_every_login(rooms: Rooms, ending: str):
    """Tokens of before are worth nothing; after enabling neither."""
    admin = AccountName("admin")
    pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    if ending == "disable":
        await rooms.accounts.set_disabled(admin, OLGA, True)
        with pytest.raises(Unauthenticated):
            await rooms.sessions.refresh(pair.refresh_token)
        await rooms.accounts.set_disabled(admin, OLGA, False)
    else:
        await rooms.accounts.set_password(
            OLGA, OLGA, login="", old_password=PASSWORD, new_password="another password", peer="here"
        )
        with pytest.raises(BadCredentials):
            await rooms.sessions.login(OLGA, PASSWORD, "here")
        await rooms.sessions.login(OLGA, "another password", "here")
    assert not await is_active(rooms, pair.access_token)
    with pytest.raises(Unauthenticated):
        await rooms.sessions.refresh(pair.refresh_token)


async def test_the_old_password_is_throttled_like_a_login(rooms: Rooms):
    """Who found an open terminal cannot guess the password there."""
    for expected in [BadCredentials] * 10 + [Throttled] * 5:
        with pytest.raises(expected):
            await rooms.accounts.set_password(
                OLGA, OLGA, login="", old_password="a wrong guess", new_password="another password", peer="here"
            )


async def counted(monkeypatch: pytest.MonkeyPatch, rooms: Rooms) -> list[str]:
    """Return the list of the passwords that are compared with a hash from now on."""
    tried: list[str] = []
    verify = rooms.passwords._verify
    monkeypatch.setattr(rooms.passwords, "_verify", lambda known, given: tried.append(given) or verify(known, given))
    return tried


async def answer(rooms: Rooms, account: str, password: str, address: str) -> str:
    """Log in and return "tokens", or the reason why not."""
    try:
        await rooms.sessions.login(AccountName(account), password, address)
    except LoupeError as error:
        return error.reason_name()
    return "tokens"


@pytest.mark.parametrize("account", ["olga", "unknown"])
async def test_logins_at_the_same_time_are_throttled_like_one_after_the_other(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, account: str
):
    """64 wrong passwords at once, four times in 18 seconds: 10 are compared, and then one every six seconds."""
    tried = await counted(monkeypatch, rooms)
    for _ in range(4):
        storm = [answer(rooms, account, "wrong password", "ipv4:10.0.0.1") for _ in range(64)]
        assert set(await asyncio.gather(*storm)) <= {"BAD_CREDENTIALS", "THROTTLED"}
        rooms.clock.now += 6.0
    assert len(tried) == 10 + 3


async def test_64_right_logins_at_the_same_time_get_their_tokens(rooms: Rooms):
    """Machines that come back together after a power cut share an account and an address."""
    assert {*await asyncio.gather(*(answer(rooms, "olga", PASSWORD, "here") for _ in range(64)))} == {"tokens"}


async def test_a_storm_on_somebody_elses_account_does_not_lock_them_out(rooms: Rooms):
    """From one address: the owner gets in from anywhere else. From hundreds: from where they logged in before."""
    assert await answer(rooms, "olga", PASSWORD, "ipv4:10.0.0.7") == "tokens"
    for _ in range(3):
        await asyncio.gather(*(answer(rooms, "olga", "wrong password", "afar") for _ in range(64)))
    assert await answer(rooms, "olga", PASSWORD, "afar") == "THROTTLED"
    assert await answer(rooms, "olga", PASSWORD, "a new desk") == "tokens"
    for number in range(10):
        await asyncio.gather(*(answer(rooms, "olga", "wrong password", f"bot {number}") for _ in range(12)))
    assert await answer(rooms, "olga", PASSWORD, "a newer desk") == "THROTTLED"
    assert await answer(rooms, "olga", PASSWORD, "ipv4:10.0.0.7") == "tokens"


async def test_where_an_account_logged_in_from_is_known_to_every_process(rooms: Rooms):
    """And after a restart: it stands with the login, for as long as that is kept."""
    await rooms.sessions.login(OLGA, PASSWORD, "home")
    async with rooms.database.read() as session:
        known = [await AccountTable(session).logged_in_from("olga", address) for address in ("home", "afar")]
        assert not await AccountTable(session).logged_in_from("admin", "home")
    assert known == [True, False]


@pytest.mark.parametrize("account", ["olga", "unknown"])
async def test_what_is_longer_than_any_password_is_refused_before_it_is_hashed(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, account: str
):
    """By a login and by a change of password, with an error that says so."""
    tried = await counted(monkeypatch, rooms)
    with pytest.raises(InvalidArgument, match="password has 1025 characters"):
        await rooms.sessions.login(AccountName(account), "x" * 1025, "here")
    with pytest.raises(InvalidArgument, match="old_password has 1025 characters"):
        await rooms.accounts.set_password(
            OLGA, OLGA, login="", old_password="x" * 1025, new_password="another password", peer="here"
        )
    assert not tried


async def test_refresh_tokens_and_passwords_are_not_in_the_database(rooms: Rooms):
    """Only hashes are stored."""
    pair, _ = await rooms.sessions.login(OLGA, PASSWORD, "here")
    async with rooms.engine.connect() as connection:
        for table in metadata.sorted_tables:
            for row in await connection.execute(table.select()):
                assert pair.refresh_token not in str(row)
                assert PASSWORD not in str(row)


async def test_keys_follow_each_other_and_old_tokens_still_verify(rooms: Rooms):
    """A new key signs after the old one's age; what the old one signed is good until it expires, then the key goes."""
    rooms.clock.now = time.time() - rooms.lifetimes.signing_key - 5
    async with rooms.database.write() as session:
        table = SigningKeyTable(session)
        await table.delete((await table.all())[0].kid)
    keys = KeyRing(rooms.database, rooms.lifetimes, rooms.clock)
    await keys.load()
    old = keys.newest
    rooms.clock.now += rooms.lifetimes.signing_key
    rooms.tokens._keys = keys
    token = rooms.tokens.access(OLGA, "a-login")
    await keys.load()
    assert keys.newest.kid != old.kid
    caller, _ = decode_token(token, keys.public)
    assert caller.account == OLGA
    published = {key["kid"] for key in json.loads(keys.jwks())["keys"]}
    assert published == {old.kid, keys.newest.kid}
    assert "d" not in json.loads(keys.jwks())["keys"][0], "the private half is not published"

    async def fetch() -> str:
        return keys.jwks()

    assert (await JwksVerifier(fetch).verify(rooms.tokens.access(OLGA, "a-login"))).login == "a-login"
    rooms.clock.now += rooms.lifetimes.attempt + rooms.lifetimes.access + 3601
    await keys.load()
    assert keys.public(old.kid) is None


async def test_an_attempt_token_says_for_what_it_is(rooms: Rooms):
    """Job and attempt stand in it, no login does."""
    rooms.clock.now = time.time()
    token = rooms.tokens.attempt(OLGA, JobName("line-7", "job-1"), 3)
    caller, expiry = decode_token(token, rooms.keys.public)
    assert (caller.account, caller.login) == (OLGA, "")
    assert caller.attempt is not None
    assert (str(caller.attempt.job), caller.attempt.attempt) == ("projects/line-7/jobs/job-1", 3)
    assert expiry == pytest.approx(rooms.clock.now + rooms.lifetimes.attempt, abs=2)
