"""Between an objective and its message in the contract."""

from __future__ import annotations

from loupe.common.v1.objective_pb2 import Objective as Message
from loupe.errors import invalid
from loupe.tasks.objective import Objective


def pack_objective(objective: Objective) -> Message:
    """Return the message."""
    if objective.at_most:
        return Message(metric=objective.metric, at_most=objective.bound)
    return Message(metric=objective.metric, at_least=objective.bound)


def unpack_objective(field: str, message: Message) -> Objective:
    """Return what a message asks for; which metrics there are is the task's to say. Raises InvalidArgument."""
    match message.WhichOneof("bound"):
        case "at_least":
            return Objective(message.metric, message.at_least)
        case "at_most":
            return Objective(message.metric, message.at_most, at_most=True)
    raise invalid(field, None, "a metric with at_least or at_most, for example accuracy at least 0.97")
