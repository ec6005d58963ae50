"""Protobuf messages as JSON values for programs: numbers stay numbers, enums are names, times are RFC 3339."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from google._upb import _message as upb
    from google.protobuf.descriptor import FieldDescriptor

    Field = FieldDescriptor | upb.FieldDescriptor


def json_value(value: Any) -> Any:
    """Return dicts, lists, strings, numbers, booleans and None for messages and collections of them.

    64-bit integers stay integers (protobuf's own JSON makes them strings); durations are seconds.

    >>> json_value({"wait": Duration(seconds=90), "since": Timestamp(seconds=0)})
    {'wait': 90.0, 'since': '1970-01-01T00:00:00Z'}
    """
    if isinstance(value, Message):
        return _message(value)
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return fspath(value) if isinstance(value, PathLike) else value


def _message(message: Message) -> Any:
    if isinstance(message, Timestamp):
        return message.ToJsonString()
    if isinstance(message, Duration):
        return message.ToTimedelta().total_seconds()
    if isinstance(message, Struct):
        return json_format.MessageToDict(message)
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if _said(message, field)}


def _said(message: Message, field: Field) -> bool:
    return not field.has_presence or message.HasField(field.name)


def _field(message: Message, field: Field) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: json_value(value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Field, value: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return json_value(value)
