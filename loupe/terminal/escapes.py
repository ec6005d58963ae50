"""Protobuf messages as plain JSON values for programs: numbers stay numbers, enums are names, times are RFC 3339."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def plain(value: Any) -> Any:
    """Return dicts, lists, strings, numbers, booleans and None for messages and collections of them.

    64-bit integers stay integers (protobuf's own JSON makes them strings); durations are seconds.
    """
    if isinstance(value, Message):
        return _message(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "__fspath__"):
        return str(value)
    return value


def _message(message: Message) -> Any:
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        return message.ToJsonString()  # type: ignore[attr-defined]
    if name == "google.protobuf.Duration":
        return message.ToTimedelta().total_seconds()  # type: ignore[attr-defined]
    if name == "google.protobuf.Struct":
        from google.protobuf import json_format

        return json_format.MessageToDict(message)
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields if _said(message, field)}


def _said(message: Message, field: FieldDescriptor) -> bool:
    return not field.has_presence or message.HasField(field.name)


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: plain(value[key]) for key in sorted(value)}
    if field.is_repeated:
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return plain(value)
