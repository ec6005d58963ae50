"""Consul as the mesh uses it: who is there, keys that their owner keeps fresh, a lock for the leader.

py-consul is synchronous, so short calls run in a small thread pool and blocking queries in daemon threads of their own.
Consul being away is never an error here: what was known stays known, and everything goes on when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import consul
import requests
import structlog

from loupe.concurrency import shielded
from loupe.settings import ServiceSettings

log = structlog.get_logger(__name__)

TTL = "3s"
BEAT_SECONDS = 1.0
_CALL_TIMEOUT = 3.0
_BLOCK = "10s"
_RETRY_SECONDS = 0.5
_LOCK_DELAY_SECONDS = 1
_LISTED_TRIES, _LISTED_SECONDS = 40, 0.05
_NOT_READY = ("No cluster leader", "ACL not found")
"""What an agent says that has just started: it cannot tell yet who may do what."""
_FAILURES = (consul.ConsulException, requests.RequestException)


@dataclass(frozen=True)
class Instance:
    """One healthy process of a service; public and internal are "host:port", public may be empty."""

    id: str
    public: str
    internal: str


@dataclass(frozen=True)
class _Registration:
    name: str
    instance: str
    public: str
    internal: str


class Discovery:
    """One process's view of Consul, and its place in it."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._url = urlsplit(settings.consul_url)
        self._token = settings.secret(settings.consul_token_file)
        self._consul = self._client()
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="consul")
        self._registration: _Registration | None = None
        self._wanted = ""
        self._registered = asyncio.Event()
        self._known: dict[str, list[Instance]] = {}
        self._session_id: str | None = None
        self._held: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = threading.Event()

    def _client(self) -> consul.Consul:
        client = consul.Consul(
            host=self._url.hostname or "127.0.0.1",
            port=self._url.port or 8500,
            scheme=self._url.scheme,
            token=self._token,
            connections_timeout=_CALL_TIMEOUT,
        )
        client.http.session.trust_env = False  # a proxy to the world outside is none to the mesh's own agent
        return client

    async def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def register(self, name: str, instance: str, public: str, internal: str) -> None:
        """Put this process into the catalogue and keep its 3 s check passing until close().

        Returns at once; while Consul is away it keeps trying, and it registers again when Consul forgot it.
        """
        self._wanted = instance
        self._registration = _Registration(name, instance, public, internal)
        self._tasks.append(asyncio.create_task(self._beat(), name="consul-beat"))

    async def _beat(self) -> None:
        alone = False
        while True:
            try:
                if not alone:
                    await self._dismiss_predecessor()
                    alone = True
                await self._pass_check()
                self._registered.set()
            except _FAILURES as error:
                if self._registered.is_set():
                    log.warning("Consul lost; going on with what is known", error=str(error)[:200])
                self._registered.clear()
            await asyncio.sleep(BEAT_SECONDS if self._registered.is_set() else _RETRY_SECONDS)

    async def _dismiss_predecessor(self) -> None:
        """Take out what a killed process of this name left behind.

        One that is back within its TTL would keep its predecessor's check passing, and so the predecessor's sessions
        alive: locks and keys would be held for ever by somebody who is gone.
        """
        assert self._registration is not None, "register() comes first"
        try:
            await self._call(self._consul.agent.service.deregister, self._registration.instance)
        except consul.ConsulException as error:  # newer agents call it an error when there was none
            if any(word in str(error) for word in _NOT_READY):
                raise

    async def _pass_check(self) -> None:
        try:
            await self._call(self._consul.agent.check.ttl_pass, self._check_id)
        except consul.ConsulException:  # Consul answers, but does not know the check: it is new here, or was wiped
            await self._register()
            await self._call(self._consul.agent.check.ttl_pass, self._check_id)

    @property
    def _check_id(self) -> str:
        assert self._registration is not None, "register() comes first"
        return f"service:{self._registration.instance}"

    async def _register(self) -> None:
        try:
            await self._enter()
        except consul.ACLPermissionDenied as error:
            if "Permission denied" not in str(error):  # "ACL not found": Consul has just started and knows nobody yet
                raise
            # Consul guards the names of services, and their ids for the one who has them first. Who is found by name
            # needs no id of its choice.
            assert self._registration is not None
            own = f"{self._wanted}-{secrets.token_hex(4)}"
            log.warning("somebody else has this process's id in Consul; taking another", own=own)
            self._registration = replace(self._registration, instance=own)
            await self._enter()

    async def _enter(self) -> None:
        registration = self._registration
        assert registration is not None
        host, _, port = registration.internal.rpartition(":")
        await self._call(
            self._consul.agent.service.register,
            registration.name,
            service_id=registration.instance,
            address=host,
            port=int(port),
            meta={"public": registration.public, "internal": registration.internal},
            # Registered as passing: a check that turns critical, even for a moment, ends the sessions bound to it.
            check={**consul.Check.ttl(TTL), "status": "passing"},
        )

    async def instances(self, name: str) -> list[Instance]:
        """Return the healthy processes of a service by id; the last known ones while Consul is away."""
        try:
            _, nodes = await self._call(self._consul.health.service, name, passing=True)
        except _FAILURES:
            return self._known.get(name, [])
        found = [
            Instance(
                node["Service"]["ID"],
                node["Service"]["Meta"].get("public", ""),
                node["Service"]["Meta"].get("internal", ""),
            )
            for node in nodes or ()
        ]
        # An agent that has just started has an empty catalogue for a moment: rather ask who was there before.
        if found:
            self._known[name] = sorted(found, key=lambda instance: instance.id)
        return self._known.get(name, [])

    async def _session(self) -> str:
        """A session that ends when this process's check does; keys held under it are deleted then."""
        if self._session_id is None:
            await self._registered.wait()
            self._session_id = await self._call(
                self._consul.session.create,
                checks=["serfHealth", self._check_id],
                behavior="delete",
                lock_delay=_LOCK_DELAY_SECONDS,
            )
        assert self._session_id is not None
        return self._session_id

    def _drop_session(self, error: Exception) -> None:
        """Forget a session that Consul has ended; one that may still live must be kept, for it keeps its locks."""
        if "invalid session" in str(error):
            self._session_id = None

    async def hold(self, key: str, value: Callable[[], bytes], interval: float = BEAT_SECONDS) -> None:
        """Keep a key rewritten with value() every `interval` seconds, once registered; close() takes it away.

        One that is killed leaves its key behind: readers look at how old the value is. A session would take it away,
        but whoever may make one may end everybody's, the leader's included.
        """
        self._held.append(key)
        self._tasks.append(asyncio.create_task(self._hold(key, value, interval), name=f"consul-hold {key}"))

    async def _hold(self, key: str, value: Callable[[], bytes], interval: float) -> None:
        await self._registered.wait()
        await self._listed()
        while True:
            try:
                # To its end, or a write that close() cut off would come after the key was taken away.
                await shielded(self._call(self._consul.kv.put, key, value()))
            except _FAILURES as error:
                log.warning("a key could not be written", key=key, error=str(error)[:200])
            await asyncio.sleep(interval)

    async def _listed(self) -> None:
        """Wait a moment for the catalogue to hear of this process: whoever reads its key looks there at once."""
        assert self._registration is not None
        for _ in range(_LISTED_TRIES):
            if await self.instances(self._registration.name):
                return
            await asyncio.sleep(_LISTED_SECONDS)

    async def leadership(self, key: str) -> AsyncGenerator[bool, None]:
        """Yield True when this process gets the lock, and False as soon as it cannot be sure of it."""
        leading = False
        while True:
            try:
                session = await self._session()
                identity = self._registration.instance.encode() if self._registration else b""
                now = bool(await self._call(self._consul.kv.put, key, identity, acquire=session))
            except _FAILURES as error:
                log.warning("the leader lock could not be checked", error=str(error)[:200])
                self._drop_session(error)
                now = False
            if now != leading:
                leading = now
                yield leading
            await asyncio.sleep(BEAT_SECONDS if leading else _RETRY_SECONDS)

    async def watch_prefix(self, prefix: str) -> AsyncGenerator[dict[str, bytes], None]:
        """Yield all keys under a prefix with their values, at once and at every change.

        Silent while Consul is away. Keys are yielded whole, prefix included.
        """
        loop = asyncio.get_running_loop()
        changes: asyncio.Queue[dict[str, bytes]] = asyncio.Queue()
        stop = threading.Event()
        threading.Thread(
            target=self._watch,
            args=(prefix, stop, lambda entries: loop.call_soon_threadsafe(changes.put_nowait, entries)),
            name=f"consul-watch {prefix}",
            daemon=True,
        ).start()
        try:
            while True:
                latest = await changes.get()
                while not changes.empty():
                    latest = changes.get_nowait()
                yield latest
        finally:
            stop.set()

    def _watch(self, prefix: str, stop: threading.Event, publish: Callable[[dict[str, bytes]], object]) -> None:
        client = self._client()
        index: str | None = None
        while not stop.is_set() and not self._closed.is_set():
            try:
                newest, entries = client.kv.get(prefix, index=index, wait=_BLOCK, recurse=True)
            except _FAILURES:
                index = None
                stop.wait(_RETRY_SECONDS)
                continue
            if newest == index:
                continue
            # Consul's index went backwards: its data are others now, so start over (Consul's own advice).
            index = None if index is not None and int(newest) < int(index) else newest
            with contextlib.suppress(RuntimeError):  # the loop was closed while the query was blocking
                publish({entry["Key"]: entry["Value"] or b"" for entry in entries or ()})

    async def close(self) -> None:
        """Stop everything and take this process out of the catalogue, its sessions and keys with it."""
        self._closed.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left: list[tuple[Callable[..., Any], str]] = [(self._consul.kv.delete, key) for key in self._held]
        if self._session_id is not None:
            left.append((self._consul.session.destroy, self._session_id))
        if self._registration is not None:
            left.append((self._consul.agent.service.deregister, self._registration.instance))
        for take_away, what in left:
            try:
                await self._call(take_away, what)
            except consul.ConsulException as error:
                log.info("Consul did not take an entry out", entry=what, error=str(error)[:200])
            except requests.RequestException:
                break  # Consul is away, and will find out by itself
        self._pool.shutdown(wait=False)
