"""What each process may do in Consul, asked of a real agent."""

from __future__ import annotations

import shutil
import time
import uuid
from pathlib import Path

import consul
import pytest

from deploy.local.consul import NODE, client, ensure_tokens, policies, token_file
from deploy.local.mesh import LocalMesh
from deploy.local.state import TrainerId

NORTH, SOUTH = TrainerId("north", "a"), TrainerId("south", "b")
DENIED = consul.ACLPermissionDenied


def of(mesh: LocalMesh, process: str | None) -> consul.Consul:
    token = token_file(mesh.state, process).read_text().strip() if process else None
    return consul.Consul(host="127.0.0.1", port=int(mesh.endpoints.consul_url.rpartition(":")[2]), token=token)


def test_a_trainer_writes_its_own_key_and_no_other(infrastructure: LocalMesh) -> None:
    north, south = of(infrastructure, NORTH.process), of(infrastructure, SOUTH.process)
    assert north.kv.put("loupe/trainers/north/a", "{}")
    assert south.kv.put("loupe/trainers/south/b", "{}")
    for key in (
        "loupe/trainers/south/b",
        "loupe/trainers/north/ab",
        "loupe/trainers/north/a/x",
        "loupe/scheduler/leader",
    ):
        with pytest.raises(DENIED):
            north.kv.put(key, "{}")
    with pytest.raises(DENIED):
        north.kv.delete("loupe/trainers/south/b")


def test_the_scheduler_reads_loads_and_writes_its_own_keys(infrastructure: LocalMesh) -> None:
    of(infrastructure, NORTH.process).kv.put("loupe/trainers/north/a", "load")
    scheduler = of(infrastructure, "scheduler")
    found = scheduler.kv.get("loupe/trainers/", recurse=True)[1]
    assert ("loupe/trainers/north/a", b"load") in {(entry["Key"], entry["Value"]) for entry in found}
    assert scheduler.kv.put("loupe/scheduler/leader", "me")
    with pytest.raises(DENIED):
        scheduler.kv.put("loupe/trainers/north/a", "forged")


@pytest.mark.parametrize("process", ["auth", "storage"])
def test_other_services_touch_no_key(infrastructure: LocalMesh, process: str) -> None:
    for key in ("loupe/trainers/north/a", "loupe/scheduler/leader", f"loupe/{process}"):
        with pytest.raises(DENIED):
            of(infrastructure, process).kv.put(key, "{}")


@pytest.mark.parametrize(
    ("process", "service"),
    [("auth", "auth"), ("storage", "storage"), ("scheduler", "scheduler"), (NORTH.process, NORTH.process)],
)
def test_a_process_registers_as_itself_only(infrastructure: LocalMesh, process: str, service: str) -> None:
    own = of(infrastructure, process)
    assert own.agent.service.register(f"loupe-{service}", service_id=process, port=1)
    for other in {"auth", "storage", "scheduler", "trainer", NORTH.process, SOUTH.process} - {service}:
        with pytest.raises(DENIED):
            own.agent.service.register(f"loupe-{other}", service_id=f"forged-{other}", port=1)
    own.agent.service.deregister(process)


def test_members_find_each_other_and_strangers_find_nobody(infrastructure: LocalMesh) -> None:
    storage, trainer = of(infrastructure, "storage"), of(infrastructure, NORTH.process)
    assert storage.agent.service.register("loupe-storage", service_id="storage", port=1)
    deadline = time.monotonic() + 10
    while not trainer.health.service("loupe-storage")[1]:  # the agent tells the catalogue a moment later
        assert time.monotonic() < deadline, "the trainer does not see storage"
        time.sleep(0.05)
    assert of(infrastructure, None).health.service("loupe-storage")[1] == []
    storage.agent.service.deregister("storage")


def leading(scheduler: consul.Consul) -> str:
    """Return the scheduler's session, which holds the leader lock."""
    check = {**consul.Check.ttl("60s"), "status": "passing"}
    assert scheduler.agent.service.register("loupe-scheduler", service_id="scheduler", port=1, check=check)
    deadline = time.monotonic() + 10
    while not scheduler.health.service("loupe-scheduler")[1]:
        assert time.monotonic() < deadline, "the catalogue does not know the scheduler"
        time.sleep(0.05)
    session: str = scheduler.session.create(checks=["serfHealth", "service:scheduler"], behavior="delete", lock_delay=0)
    assert scheduler.kv.put("loupe/scheduler/leader", "scheduler", acquire=session)
    return session


@pytest.mark.parametrize("process", [NORTH.process, "auth", "storage"])
def test_nobody_but_the_scheduler_sees_makes_or_ends_a_session(infrastructure: LocalMesh, process: str) -> None:
    scheduler, other = of(infrastructure, "scheduler"), of(infrastructure, process)
    session = leading(scheduler)
    try:
        assert other.session.list()[1] == []
        for forbidden in (
            lambda: other.session.destroy(session),
            lambda: other.session.renew(session),
            lambda: other.session.create(node=NODE),
            lambda: other.agent.check.ttl_fail("service:scheduler"),
        ):
            with pytest.raises(DENIED):
                forbidden()
        holder = scheduler.kv.get("loupe/scheduler/leader")[1]
        assert (holder["Value"], holder["Session"]) == (b"scheduler", session)
    finally:
        assert scheduler.session.destroy(session)
        scheduler.agent.service.deregister("scheduler")


def test_a_trainer_cannot_stand_where_another_is(infrastructure: LocalMesh) -> None:
    """Neither under the other's name, nor in place of its entry; nor can it end it."""
    north, south = of(infrastructure, NORTH.process), of(infrastructure, SOUTH.process)
    own, other = f"loupe-{NORTH.process}", f"loupe-{SOUTH.process}"
    assert south.agent.service.register(other, service_id=SOUTH.process, port=5000)
    for name, id in ((other, SOUTH.process), (other, "mine"), (own, SOUTH.process), ("loupe-trainer", SOUTH.process)):
        with pytest.raises(DENIED):
            north.agent.service.register(name, service_id=id, port=6666)
    with pytest.raises(DENIED):
        north.agent.service.deregister(SOUTH.process)
    scheduler = of(infrastructure, "scheduler")
    deadline = time.monotonic() + 10
    while not (found := scheduler.health.service(other)[1]):
        assert time.monotonic() < deadline, "the scheduler does not see the trainer"
        time.sleep(0.05)
    assert [node["Service"]["Port"] for node in found] == [5000]
    south.agent.service.deregister(SOUTH.process)


@pytest.mark.parametrize("token", [None, "anything", str(uuid.UUID(int=7))])
def test_strangers_are_refused(infrastructure: LocalMesh, token: str | None) -> None:
    port = int(infrastructure.endpoints.consul_url.rpartition(":")[2])
    stranger = consul.Consul(host="127.0.0.1", port=port, token=token)
    with pytest.raises(DENIED):
        stranger.kv.put("loupe/trainers/north/a", "{}")
    with pytest.raises(DENIED):
        stranger.session.create(node=NODE)


def test_lost_policies_and_tokens_come_back(infrastructure: LocalMesh) -> None:
    """A set-up killed half-way, a wiped Consul and hand-made changes all end in the same state."""
    port = int(infrastructure.endpoints.consul_url.rpartition(":")[2])
    agent = client(infrastructure.state, port)
    by_name = {token["Description"]: token["AccessorID"] for token in agent.acl.token.list()}
    agent.acl.token.delete(by_name["loupe-storage"])
    policy_ids = {policy["Name"]: policy["ID"] for policy in agent.acl.policy.list()}
    agent.acl.policy.delete(policy_ids["loupe-auth"])
    agent.acl.policy.update(
        policy_ids["loupe-scheduler"], "loupe-scheduler", rules={"key_prefix": {"": {"policy": "write"}}}
    )
    ensure_tokens(infrastructure.state, port, (NORTH, SOUTH))
    known = {policy["Name"]: policy["ID"] for policy in agent.acl.policy.list()}
    assert known["loupe-scheduler"] == policy_ids["loupe-scheduler"]
    for process, service in (("storage", "storage"), ("auth", "auth")):
        assert of(infrastructure, process).agent.service.register(f"loupe-{service}", service_id=process, port=1)
        of(infrastructure, process).agent.service.deregister(process)
    with pytest.raises(DENIED):
        of(infrastructure, "scheduler").kv.put("loupe/anything", "{}")


def test_a_wiped_consul_is_whole_again_after_the_next_start(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "state", trainers=[("north", "a")], processes=["consul"], lifeline=True)
    with mesh:
        assert of(mesh, NORTH.process).kv.put("loupe/trainers/north/a", "before")
    for name in ("raft", "serf"):
        shutil.rmtree(mesh.state.root / "consul" / name)
    with mesh:
        assert of(mesh, NORTH.process).kv.get("loupe/trainers/north/a")[1] is None
        assert of(mesh, NORTH.process).kv.put("loupe/trainers/north/a", "after")


def test_a_trainer_that_left_loses_its_token(infrastructure: LocalMesh) -> None:
    port = int(infrastructure.endpoints.consul_url.rpartition(":")[2])
    ensure_tokens(infrastructure.state, port, (NORTH,))
    descriptions = {token["Description"] for token in client(infrastructure.state, port).acl.token.list()}
    assert f"loupe-{NORTH.process}" in descriptions
    assert f"loupe-{SOUTH.process}" not in descriptions
    ensure_tokens(infrastructure.state, port, (NORTH, SOUTH))


def test_no_rule_gives_more_than_one_key_to_a_trainer() -> None:
    for process, rules in policies((NORTH, SOUTH)).items():
        if process.startswith("trainer-"):
            assert "key_prefix" not in rules
            assert len(rules["key"]) == 1
