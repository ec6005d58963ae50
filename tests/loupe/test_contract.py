"""The contract: generated code is current, every RPC has a row in the access table, every action a threshold."""

from __future__ import annotations

import filecmp
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool

from loupe.access import DEFAULT_THRESHOLDS
from loupe.common.v1.reason_pb2 import Reason
from loupe.errors import LoupeError
from loupe.rpc.gate import access_table
from loupe.rpc.status import CODES

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"


def service_names() -> list[str]:
    """Every gRPC service of the contract, by its full name."""
    names = []
    for path in sorted(PROTOS.rglob("*_service.proto")):
        relative = path.relative_to(PROTOS).with_suffix("")
        module = importlib.import_module(".".join(relative.parts) + "_pb2")
        names += [service.full_name for service in module.DESCRIPTOR.services_by_name.values()]
    return names


def all_methods() -> list[tuple[str, Any]]:
    pool = descriptor_pool.Default()
    return [
        (f"/{name}/{method.name}", method)
        for name in service_names()
        for method in pool.FindServiceByName(name).methods
    ]


def test_generated_code_is_current(tmp_path: Path) -> None:
    """What protoc makes of protos/ now is what is committed."""
    subprocess.run([sys.executable, "-m", "deploy.protos", "--out", str(tmp_path)], cwd=ROOT, check=True)
    fresh = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*"))
    assert len(fresh) > 20
    stale = [str(path) for path in fresh if not filecmp.cmp(tmp_path / path, ROOT / path, shallow=False)]
    assert stale == [], "run `make protos`"


def test_every_rpc_has_a_row_in_the_access_table() -> None:
    """An RPC that says nothing about access would be refused to everybody; here it fails the build."""
    pool = descriptor_pool.Default()
    table = access_table(pool.FindServiceByName(name) for name in service_names())
    missing = [path for path, _ in all_methods() if path not in table]
    assert missing == []
    for path, rule in table.items():
        some = rule.public or rule.authenticated or rule.action.action or rule.services or rule.attempt
        assert some, f"{path} lets nobody in"


def test_every_action_has_a_threshold_and_every_threshold_an_action() -> None:
    """Thresholds and contract name the same actions; "groups.admin" is the administrators' own."""
    pool = descriptor_pool.Default()
    table = access_table(pool.FindServiceByName(name) for name in service_names())
    used = {rule.action.action for rule in table.values() if rule.action.action} | {"groups.admin"}
    assert used == set(DEFAULT_THRESHOLDS)


READS = re.compile(r"/loupe\.\w+\.v1\.\w+/(Get|List|Watch|Read|Download|Find|Query|Explain|WhyDenied|WhoAmI)\w*")


def test_every_rpc_says_whether_it_leaves_a_row_in_the_audit_log() -> None:
    """Whatever is not called as if it only read says it either way; the trainer keeps no log."""
    pool = descriptor_pool.Default()
    table = access_table(pool.FindServiceByName(name) for name in service_names() if ".trainer." not in name)
    silent = [path for path, rule in table.items() if not rule.HasField("audit") and not READS.fullmatch(path)]
    assert silent == []
    assert [path for path, rule in table.items() if rule.audit and READS.fullmatch(path)] == []
    writing = {
        path for path, rule in table.items() if re.search(r"\.(write|create|submit|cancel)$", rule.action.action)
    }
    unseen = {path for path in writing if not table[path].audit and not READS.fullmatch(path)}
    assert unseen == set()


SECRET = re.compile(r"(.*_)?(password|token|secret|key)")


def test_secrets_are_marked_so_that_no_log_tells_them() -> None:
    """Every text of a request that leaves a row, at any depth, that is called a secret; page tokens are none."""
    pool = descriptor_pool.Default()
    table = access_table(pool.FindServiceByName(name) for name in service_names())
    open_secrets = []

    def look(message: Any, path: str, above: tuple[str, ...]) -> None:
        for field in message.fields:
            if field.message_type is not None and field.message_type.GetOptions().map_entry:
                continue  # only its length is told
            if field.message_type is not None and field.message_type.full_name not in above:
                look(field.message_type, f"{path}.{field.name}", (*above, field.message_type.full_name))
            elif SECRET.fullmatch(field.name) and not field.GetOptions().debug_redact:
                open_secrets.append(f"{path}.{field.name}")

    for path, method in all_methods():
        if table[path].audit:
            look(method.input_type, method.input_type.full_name, ())
    assert open_secrets == []


@pytest.mark.parametrize(("path", "method"), all_methods())
def test_an_action_rule_names_a_real_string_field(path: str, method) -> None:
    """The field in which the project stands exists in the request, for every RPC, taken from the descriptors."""
    pool = descriptor_pool.Default()
    rule = access_table([pool.FindServiceByName(method.containing_service.full_name)])[path]
    message = method.input_type
    parts = rule.action.resource.split(".") if rule.action.resource else []
    for index, part in enumerate(parts):
        field = message.fields_by_name[part]
        if index == len(parts) - 1:
            assert field.cpp_type == field.CPPTYPE_STRING
        message = field.message_type


def test_every_reason_has_a_status_code_and_an_error_class() -> None:
    """A reason without a class or a code could not travel."""
    reasons = {value for value in Reason.values() if value}
    assert set(CODES) == reasons
    assert set(LoupeError.registry) >= reasons
