"""A mesh that answers every call with texts that steer a terminal, in every field that is text."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from loupe.scheduler.v1 import training_job_pb2 as jobs

TEXT = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\r\nerror: your login has ended\x00\x7f" + "x" * 3000
"""Renames the window, clears the screen, turns the line round, pretends to be the program, and does not end."""
REPORT = json.dumps(
    {
        "labels": [TEXT, "b"],
        "test": {
            "worst_classes": [TEXT],
            "per_class": [{"label": TEXT, "recall": TEXT, "precision": 2e300, "pictures": TEXT}],
            "confusion_matrix": [[9, 1], [2, 2]],
        },
        "label_errors": [{"digest": TEXT, "label": TEXT, "suggested": TEXT, "score": TEXT}, TEXT],
    }
)
KEPT = {"next_page_token": "", "report_json": REPORT, "nats_url": "nats://127.0.0.1:1"}


def filled(kind: type[Message], address: str, depth: int = 6) -> Message:
    """Make a message with every field set."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if depth:
            _fill(message, field, address, depth)
    return message


def _fill(message: Message, field: Any, address: str, depth: int) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        if inner.message_type is None:
            getattr(message, field.name)[TEXT] = _value(inner, address)
        return
    if field.message_type is not None:
        made = filled(message_factory.GetMessageClass(field.message_type), address, depth - 1)
        if field.message_type.full_name.startswith("google.protobuf."):
            made = message_factory.GetMessageClass(field.message_type)()
        target = getattr(message, field.name)
        (target.add() if field.is_repeated else target).CopyFrom(made)
        return
    value = _value(field, address)
    if field.is_repeated:
        getattr(message, field.name).append(value)
    else:
        setattr(message, field.name, value)


def _value(field: FieldDescriptor, address: str) -> Any:
    if field.name in KEPT:
        return KEPT[field.name]
    if field.type == FieldDescriptor.TYPE_STRING:
        return address if field.name in ("storage", "scheduler") else TEXT
    return {
        FieldDescriptor.TYPE_BYTES: b"\x1b[2J",
        FieldDescriptor.TYPE_BOOL: True,
        FieldDescriptor.TYPE_DOUBLE: 0.5,
        FieldDescriptor.TYPE_FLOAT: 0.5,
        FieldDescriptor.TYPE_ENUM: 1,
    }.get(field.type, 3)


def _events(address: str) -> Iterator[Message]:
    kinds = [field.name for field in jobs.JobEvent.DESCRIPTOR.oneofs_by_name["event"].fields]
    for sequence, name in enumerate([*kinds, "state_change"], start=1):
        event = jobs.JobEvent(job=TEXT, sequence=sequence)
        _fill(event, jobs.JobEvent.DESCRIPTOR.fields_by_name[name], address, 6)
        if sequence > len(kinds):
            event.state_change.state = jobs.JOB_STATE_TARGET_MISSED
        yield event


class HostileHandler(grpc.GenericRpcHandler):
    """Answers every method of the contract. address: where it runs, told as every service's door."""

    def __init__(self) -> None:
        self.address = ""

    def service(self, details: Any) -> Any:
        """Return the handler for a method of the contract."""
        service, _, name = details.method.lstrip("/").partition("/")
        method = descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]
        request = message_factory.GetMessageClass(method.input_type)
        response = message_factory.GetMessageClass(method.output_type)

        async def one(requests: Any, context: Any) -> Any:
            if method.client_streaming:
                async for _ in requests:
                    pass
            return filled(response, self.address)

        async def many(requests: Any, context: Any) -> AsyncIterator[Any]:
            if method.client_streaming:
                async for _ in requests:
                    pass
            answers = [filled(response, self.address)]
            if name == "WatchTrainingJob":
                answers = [response(event=event) for event in _events(self.address)]
            for answer in answers:
                yield answer

        shape = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
        make = getattr(grpc, f"{shape[0]}_{shape[1]}_rpc_method_handler")
        return make(
            many if method.server_streaming else one,
            request_deserializer=request.FromString,
            response_serializer=response.SerializeToString,
        )
