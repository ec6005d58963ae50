"""What a row of the audit log says of a request: the resource, the request_id and, bounded, the other fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from loupe.audit import WIDTHS, AuditedCall
from loupe.common.v1 import access_pb2
from loupe.escapes import escaped
from loupe.identity import Caller
from loupe.rpc.calls import peer_address
from loupe.rpc.gate import Context, resource_of

_NAMES = ("name", "parent", "project", "account")
"""The fields that say what a call is about, where its access rule does not name one."""
_LONGEST_VALUE = 60
_DEEPEST = 4


def describe_call(
    method: str, rule: access_pb2.Access, caller: Caller, request: Message, context: Context
) -> AuditedCall:
    """Describe a call by its first message; method: its full path."""
    path = rule.action.resource or next((name for name in _NAMES if name in request.DESCRIPTOR.fields_by_name), "")
    return AuditedCall(
        caller,
        method=method.rpartition("/")[2],
        action=rule.action.action,
        resource=resource_of(request, path) if path else "",
        peer=peer_address(context),
        request_id=next((text for name, text in _texts(request) if name.rpartition(".")[2] == "request_id"), ""),
        summary=summary_of(request, path),
    )


def summary_of(request: Message, resource: str = "") -> str:
    """Return what a request says on one line, without its resource, and without what nobody may read.

    Left out are bytes, and fields that the contract marks with debug_redact: passwords and tokens.
    """
    told, length = [], 0
    for name, value in _fields(request):
        if name == resource or name.rpartition(".")[2] == "request_id":
            continue
        told.append(f"{name}={value}")
        length += len(told[-1]) + 2
        if length > WIDTHS["summary"]:
            break
    return ", ".join(told)


def _fields(message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields that are set, by their paths; of several values only how many there are."""
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if field.GetOptions().debug_redact or isinstance(value, bytes):
            continue
        if isinstance(value, Message):
            if name.count(".") < _DEEPEST:
                yield from _fields(value, f"{name}.")
        elif isinstance(value, str):
            yield name, json.dumps(escaped(value, _LONGEST_VALUE), ensure_ascii=False)
        elif isinstance(value, (bool, int, float)):
            yield name, _number(field, value)
        else:
            yield name, f"({len(value)})"


def _texts(message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the texts that are set, whole, by their paths."""
    for field, value in message.ListFields():
        if isinstance(value, str) and not field.GetOptions().debug_redact:
            yield f"{prefix}{field.name}", value
        elif isinstance(value, Message) and prefix.count(".") < _DEEPEST:
            yield from _texts(value, f"{prefix}{field.name}.")


def _number(field: FieldDescriptor, value: float) -> str:
    if field.enum_type is None:
        return json.dumps(value)
    known = cast(Any, field.enum_type).values_by_number.get(value)
    return str(known.name if known else value)
