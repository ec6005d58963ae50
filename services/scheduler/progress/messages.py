"""A job's event cut to its essentials, for a bus that does not take all of it."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from loupe.escapes import escaped
from loupe.scheduler.v1.training_job_pb2 import JobEvent

_MAX_TEXT = 500
_MAX_WORD = 64


def essentials(body: bytes) -> bytes | None:
    """Return the event in at most a few kilobytes: what happened stays, what was told along with it is cut.

    None where the bytes are no event.
    """
    try:
        event = JobEvent.FromString(body)
    except DecodeError:
        return None
    cut = JobEvent(job=event.job, attempt=event.attempt, sequence=event.sequence, time=event.time)
    match event.WhichOneof("event"):
        case "state_change":
            _cut_change(cut, event)
        case "progress":
            told = event.progress
            cut.progress.phase = escaped(told.phase, _MAX_WORD)
            cut.progress.epoch, cut.progress.step, cut.progress.total_steps = told.epoch, told.step, told.total_steps
            cut.progress.message = escaped(told.message, _MAX_TEXT)
        case "log":
            cut.log = escaped(event.log, _MAX_TEXT)
        case "placement":
            chosen = [each for each in event.placement.considered if each.chosen]
            cut.placement.trainer = event.placement.trainer
            cut.placement.summary = escaped(event.placement.summary, _MAX_TEXT)
            cut.placement.load_threshold = event.placement.load_threshold
            for each in chosen[:1]:
                cut.placement.considered.add().CopyFrom(each)
                cut.placement.considered[0].explanation = escaped(each.explanation, _MAX_TEXT)
    return cut.SerializeToString()


def _cut_change(cut: JobEvent, event: JobEvent) -> None:
    told, change = event.state_change, cut.state_change
    change.state, change.message = told.state, escaped(told.message, _MAX_TEXT)
    if told.HasField("result"):
        change.result.outcome = escaped(told.result.outcome, _MAX_WORD)
        change.result.model_version = escaped(told.result.model_version, _MAX_TEXT)
        change.result.verdict = escaped(told.result.verdict, _MAX_TEXT)
        if told.result.HasField("metrics"):
            change.result.metrics.CopyFrom(told.result.metrics)
    if told.HasField("failure"):
        change.failure.reason = escaped(told.failure.reason, _MAX_WORD)
        change.failure.message = escaped(told.failure.message, _MAX_TEXT)
