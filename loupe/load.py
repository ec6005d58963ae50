"""How busy a trainer is: what it writes into Consul every second, and the strict reading of it.

The key is `loupe/trainers/{cluster}/{trainer}`, the value one JSON object. Whoever reads it believes nothing else: a
value that is not exactly as described here is refused as a whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from loupe.errors import InvalidArgument
from loupe.names import JobName, TrainerName

PREFIX = "loupe/trainers/"
MAX_BYTES = 64 << 10
MAX_SLOTS = 1024
MAX_GPUS = 64
MAX_INTEGER = 1 << 62


class BadLoad(ValueError):
    """Says what in a load report is malformed, and what it would have to be."""


@dataclass(frozen=True)
class GpuLoad:
    """One GPU: use, of its computing, from 0 to 1; memory in bytes."""

    use: float
    memory_used: int
    memory_total: int


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt that the trainer works on: job is "projects/{project}/jobs/{job}", attempt counts from 1."""

    job: str
    attempt: int


@dataclass(frozen=True)
class TrainerLoad:
    """One report of a trainer.

    name: "clusters/{cluster}/trainers/{trainer}". incarnation: another one after each start of the process.
    beat: counts the reports of an incarnation, so that a reader can tell a new report from an old one without
    comparing clocks. at_ms: the trainer's time of day, milliseconds since 1970, for people.
    cpu_use: the machine's, 0 to 1, without what runs at low priority. memory in bytes, the machine's.
    slots: runs that it takes at a time; busy_slots, warm_slots: those with a run, and those ready for one.
    sandboxed: False when it runs built-in algorithm images only.
    """

    name: str
    incarnation: str
    beat: int
    at_ms: int
    cpu_use: float
    memory_used: int
    memory_total: int
    slots: int
    busy_slots: int
    warm_slots: int
    sandboxed: bool
    gpus: tuple[GpuLoad, ...] = ()
    attempts: tuple[RunningAttempt, ...] = ()

    @property
    def memory_use(self) -> float:
        """The used part of the machine's memory, 0 to 1."""
        return self.memory_used / self.memory_total

    @property
    def gpu_use(self) -> float:
        """The busiest GPU's use, by computing or by memory, 0 to 1; 0 without a GPU."""
        return max((max(gpu.use, gpu.memory_used / gpu.memory_total) for gpu in self.gpus), default=0.0)

    @property
    def free_memory_mb(self) -> int:
        """The machine's memory that nobody uses, in MiB."""
        return (self.memory_total - self.memory_used) >> 20

    def to_json(self) -> bytes:
        """Return the report as it stands in Consul: UTF-8 JSON."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, key: str, data: bytes) -> TrainerLoad:
        """Read the value of a key, which names the trainer too. Raises BadLoad."""
        table = _object(_parse(data), cls, "the report")
        gpus = tuple(_gpu(gpu) for gpu in _list(table, "gpus", MAX_GPUS))
        attempts = tuple(_attempt(attempt) for attempt in _list(table, "attempts", MAX_SLOTS))
        if not isinstance(table["sandboxed"], bool):
            raise BadLoad("sandboxed must be true or false")
        slots = _integer(table, "slots", 1, MAX_SLOTS)
        total = _integer(table, "memory_total", 1)
        return cls(
            name=_name(table["name"], key),
            incarnation=_incarnation(table["incarnation"]),
            beat=_integer(table, "beat", 1),
            at_ms=_integer(table, "at_ms", 0),
            cpu_use=_fraction(table, "cpu_use"),
            memory_used=_integer(table, "memory_used", 0, total),
            memory_total=total,
            slots=slots,
            busy_slots=_integer(table, "busy_slots", 0, slots),
            warm_slots=_integer(table, "warm_slots", 0, slots),
            sandboxed=table["sandboxed"],
            gpus=gpus,
            attempts=attempts,
        )


def load_fraction(load: TrainerLoad) -> float:
    """Return a trainer's load, 0 to 1: the largest of its machine's uses and of busy slots by slots."""
    return max(load.cpu_use, load.memory_use, load.gpu_use, load.busy_slots / load.slots)


def key_of(name: TrainerName) -> str:
    """Return the Consul key under which a trainer reports."""
    return f"{PREFIX}{name.cluster}/{name.trainer}"


def catalogue_name_of(name: TrainerName) -> str:
    """Return the name of the Consul service that a trainer alone registers."""
    return f"loupe-trainer-{name.cluster}-{name.trainer}"


def _parse(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise BadLoad(f"{len(data)} bytes; a report has at most {MAX_BYTES}")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadLoad("the report is not JSON") from error


def _object(value: Any, kind: type, what: str) -> Mapping[str, Any]:
    expected = {field.name for field in fields(kind)}
    if not isinstance(value, dict) or set(value) != expected:
        raise BadLoad(f"{what} must be an object with exactly these fields: {', '.join(sorted(expected))}")
    return value


def _list(table: Mapping[str, Any], field: str, longest: int) -> list[Any]:
    value = table[field]
    if not isinstance(value, list) or len(value) > longest:
        raise BadLoad(f"{field} must be a list of at most {longest}")
    return value


def _integer(table: Mapping[str, Any], field: str, least: int, most: int = MAX_INTEGER) -> int:
    value = table[field]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadLoad(f"{field} must be a whole number from {least} to {most}")
    return value


def _fraction(table: Mapping[str, Any], field: str) -> float:
    value = table[field]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadLoad(f"{field} must be a number")
    if not 0 <= value <= 1:
        raise BadLoad(f"{field} must be from 0 to 1")
    return float(value)


def _name(value: Any, key: str) -> str:
    try:
        name = TrainerName.parse(value if isinstance(value, str) else "")
    except InvalidArgument as error:
        raise BadLoad("name must be clusters/{cluster}/trainers/{trainer}") from error
    if key_of(name) != key:
        raise BadLoad(f"{name} may not report under {key[:200]!r}")
    return str(name)


def _incarnation(value: Any) -> str:
    if not isinstance(value, str) or not 8 <= len(value) <= 64 or not value.isalnum() or not value.isascii():
        raise BadLoad("incarnation must be 8 to 64 letters and digits")
    return value


def _gpu(value: Any) -> GpuLoad:
    table = _object(value, GpuLoad, "a GPU")
    total = _integer(table, "memory_total", 1)
    return GpuLoad(_fraction(table, "use"), _integer(table, "memory_used", 0, total), total)


def _attempt(value: Any) -> RunningAttempt:
    table = _object(value, RunningAttempt, "an attempt")
    try:
        job = JobName.parse(table["job"] if isinstance(table["job"], str) else "")
    except InvalidArgument as error:
        raise BadLoad("job must be projects/{project}/jobs/{job}") from error
    return RunningAttempt(str(job), _integer(table, "attempt", 1))
