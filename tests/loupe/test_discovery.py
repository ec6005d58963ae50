"""Discovery against a real Consul agent with ACLs: catalogue, held keys, watch, leader lock; and a killed agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from consul import ConsulException

from deploy.local.mesh import LocalMesh
from loupe.discovery import Discovery
from loupe.settings import ServiceSettings

KEY = "loupe/trainers/north/a"


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    folder = tmp_path_factory.mktemp("mesh")
    with LocalMesh(folder, trainers=[("north", "a")], processes=["consul"], lifeline=True) as mesh:
        yield mesh


@asynccontextmanager
async def process(mesh: LocalMesh, name: str) -> AsyncIterator[Discovery]:
    root: Path = mesh.state.tls.parent
    settings = ServiceSettings(
        state=root / name,
        internal_port=1,
        tls_ca=mesh.state.tls / "ca.pem",
        tls_cert=mesh.state.tls / f"{name}.pem",
        tls_key=mesh.state.tls / f"{name}.key",
        consul_url=mesh.endpoints.consul_url,
        consul_token_file=mesh.state.secret(f"consul-{name}.token"),
    )
    discovery = Discovery(settings)
    try:
        yield discovery
    finally:
        await discovery.close()


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_a_registered_process_is_found_and_a_closed_one_is_gone(consul: LocalMesh) -> None:
    async with process(consul, "scheduler") as watcher, process(consul, "storage") as storage:
        await storage.register("loupe-storage", "storage", "127.0.0.1:1", "127.0.0.1:2")

        async def found() -> bool:
            return [i.internal for i in await watcher.instances("loupe-storage")] == ["127.0.0.1:2"]

        await eventually(found)
    async with process(consul, "scheduler") as newcomer:

        async def gone() -> bool:
            return await newcomer.instances("loupe-storage") == []

        await eventually(gone)


async def test_a_held_key_is_seen_changes_and_is_taken_away_by_its_owner(consul: LocalMesh) -> None:
    count = iter(range(10_000))
    async with process(consul, "scheduler") as watcher, aclosing(watcher.watch_prefix("loupe/trainers/")) as changes:
        assert await asyncio.wait_for(anext(changes), 10) == {}
        async with process(consul, "trainer-north-a") as trainer:
            await trainer.register("loupe-trainer-north-a", "trainer-north-a", "", "127.0.0.1:3")
            await trainer.hold(KEY, lambda: str(next(count)).encode(), interval=0.1)
            first = await asyncio.wait_for(anext(changes), 10)
            assert list(first) == [KEY]
            second = await asyncio.wait_for(anext(changes), 10)
            assert int(second[KEY]) > int(first[KEY])
        async with asyncio.timeout(10):
            while await anext(changes) != {}:
                pass


async def test_a_trainer_cannot_hold_the_key_of_another(consul: LocalMesh) -> None:
    async with process(consul, "trainer-north-a") as trainer, process(consul, "scheduler") as watcher:
        await trainer.register("loupe-trainer-north-a", "trainer-north-a", "", "127.0.0.1:3")
        await trainer.hold("loupe/trainers/south/b", lambda: b"forged", interval=0.1)
        await trainer.hold(KEY, lambda: b"own", interval=0.1)
        async with aclosing(watcher.watch_prefix("loupe/trainers/")) as changes, asyncio.timeout(10):
            while KEY not in (entries := await anext(changes)):
                pass
        assert "loupe/trainers/south/b" not in entries


async def test_an_id_that_somebody_else_took_keeps_nobody_out(consul: LocalMesh) -> None:
    """Ids belong to who has them first; a service is found by its name, which is its own."""
    async with process(consul, "trainer-north-a") as squatter, process(consul, "storage") as storage:
        await squatter.register("loupe-trainer-north-a", "storage", "", "127.0.0.1:666")

        async def squatted() -> bool:
            return [i.id for i in await squatter.instances("loupe-trainer-north-a")] == ["storage"]

        await eventually(squatted)
        await storage.register("loupe-storage", "storage", "127.0.0.1:1", "127.0.0.1:2")

        async def found() -> bool:
            return [i.internal for i in await squatter.instances("loupe-storage")] == ["127.0.0.1:2"]

        await eventually(found)


@pytest.mark.parametrize("answer", ["500 No cluster leader", "403 ACL not found"])
async def test_a_predecessor_is_dismissed_as_soon_as_the_agent_can(
    consul: LocalMesh, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """A process may start beside its agent, which has no leader then and knows no token."""
    async with process(consul, "storage") as storage:
        dismiss, tries = storage._consul.agent.service.deregister, []

        def deregister(instance: str) -> object:
            tries.append(instance)
            if len(tries) < 3:
                raise ConsulException(answer)
            return dismiss(instance)

        with monkeypatch.context() as patch:
            patch.setattr(storage._consul.agent.service, "deregister", deregister)
            await storage.register("loupe-storage", "storage", "127.0.0.1:1", "127.0.0.1:2")

            async def found() -> bool:
                return [i.id for i in await storage.instances("loupe-storage")] == ["storage"]

            await eventually(found)
        assert tries == ["storage"] * 3


async def test_the_lock_has_one_leader_and_goes_on_to_the_next(consul: LocalMesh) -> None:
    async with process(consul, "scheduler") as second:
        await second.register("loupe-scheduler", "scheduler-2", "", "127.0.0.1:5")
        async with process(consul, "scheduler") as first:
            await first.register("loupe-scheduler", "scheduler-1", "", "127.0.0.1:4")
            async with aclosing(first.leadership("loupe/scheduler/leader")) as reign:
                assert await asyncio.wait_for(anext(reign), 10) is True
            claim = second.leadership("loupe/scheduler/leader")
            waiting = asyncio.ensure_future(anext(claim))
            done, _ = await asyncio.wait([waiting], timeout=1.5)
            assert not done, "two leaders at once"
        assert await asyncio.wait_for(waiting, 15) is True
        await claim.aclose()


async def test_a_killed_leader_that_is_back_within_its_ttl_leads_again(consul: LocalMesh) -> None:
    async with process(consul, "scheduler") as killed, process(consul, "scheduler") as back:
        await killed.register("loupe-scheduler", "scheduler-1", "", "127.0.0.1:4")
        async with aclosing(killed.leadership("loupe/scheduler/leader")) as reign:
            assert await asyncio.wait_for(anext(reign), 10) is True
        for task in killed._tasks:  # as a SIGKILL does: nothing is taken back
            task.cancel()
        await back.register("loupe-scheduler", "scheduler-1", "", "127.0.0.1:4")
        async with aclosing(back.leadership("loupe/scheduler/leader")) as reign:
            assert await asyncio.wait_for(anext(reign), 10) is True


async def test_everything_comes_back_after_the_agent_was_killed(consul: LocalMesh) -> None:
    async with process(consul, "scheduler") as watcher, process(consul, "trainer-north-a") as trainer:
        await trainer.register("loupe-trainer-north-a", "trainer-north-a", "", "127.0.0.1:3")
        await trainer.hold(KEY, lambda: b"load", interval=0.1)

        async def held() -> bool:
            async with aclosing(watcher.watch_prefix("loupe/trainers/")) as changes:
                return KEY in await asyncio.wait_for(anext(changes), 10)

        await eventually(held)
        assert [i.id for i in await watcher.instances("loupe-trainer-north-a")] == ["trainer-north-a"]
        before = consul.pid("consul")
        consul.kill("consul")
        assert [i.id for i in await watcher.instances("loupe-trainer-north-a")] == ["trainer-north-a"], (
            "forgotten at once"
        )

        async def restarted() -> bool:
            status = {line.name: line for line in await asyncio.to_thread(consul.status)}["consul"]
            return status.state == "healthy" and status.pid != before

        await eventually(restarted, 30)
        await eventually(held, 30)
