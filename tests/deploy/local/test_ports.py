"""Ports that stay the same over restarts, and are nobody else's."""

from __future__ import annotations

import random
import socket

import pytest

from deploy.local.errors import PortTakenError
from deploy.local.ports import is_free, settle
from deploy.local.processes import port_names, ports_of


def test_ports_stay_and_are_all_different() -> None:
    wanted = port_names(["consul", "nats", "auth", "trainer-north-a"])
    first = settle(wanted, {}, frozenset(), False, random.Random(1))
    assert list(first) == wanted
    assert len(set(first.values())) == len(wanted)
    assert settle([*wanted, "storage-public"], first, frozenset(), False, random.Random(2)).items() >= first.items()


def test_a_port_that_another_process_of_the_mesh_has_is_not_picked() -> None:
    class Repeating(random.Random):
        picks = iter([20_011, 20_011, 20_012, 20_012, 20_013])

        def randint(self, a: int, b: int) -> int:
            return next(self.picks)

    # 20012 is kept for a process that does not run now, and will want it back.
    ports = settle(["nats", "auth-public"], {"storage-public": 20_012}, frozenset(), False, Repeating())
    assert ports == {"nats": 20_011, "auth-public": 20_013}


def test_a_taken_port_is_replaced_unless_others_wrote_it_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert not is_free(taken)
        kept = {"auth-public": taken}
        assert settle(kept, kept, frozenset(), False, random.Random(1))["auth-public"] != taken
        with pytest.raises(PortTakenError, match=f"{taken}.*auth-public"):
            settle(kept, kept, frozenset(kept), False, random.Random(1))
        # While the mesh runs, it is the mesh itself that listens there.
        assert settle(kept, kept, frozenset(kept), True, random.Random(1)) == kept


def test_each_process_finds_its_own_ports_only() -> None:
    ports = {"trainer-a-b-internal": 1, "trainer-a-b-c-internal": 2, "nats": 3, "auth-public": 4, "auth-internal": 5}
    assert ports_of("trainer-a-b", ports) == {"internal": 1}
    assert ports_of("nats", ports) == {"client": 3}
    assert ports_of("auth", ports) == {"public": 4, "internal": 5}
