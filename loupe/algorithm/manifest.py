"""The manifest of an algorithm image, `algorithm.toml`: what it is, how it is entered, which parameters it takes."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from loupe.job_kinds import JobKind
from loupe.patterns import ID, VERSION
from loupe.tasks import TASKS

FILE_NAME = "algorithm.toml"
MAX_BYTES = 64 << 10
_PARAMETER = r"[a-z][a-z0-9_]{0,62}"
_ENTRY = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"

Value = int | float | bool | str | None


class BadManifest(ValueError):
    """Says what in `algorithm.toml` is wrong, and what would be right."""


class InvalidParameter(ValueError):
    """Names a parameter of a job, the value given for it, and what is allowed.

    parameter: its name.
    """

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"parameter {parameter!r}: {message}")
        self.parameter = parameter


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Parameter(_Table):
    """One setting that a job may give.

    type: "file" is the digest of an uploaded file; it has no default and may be left out unless `required`.
    min, max: inclusive; they belong to "int" and "float". choices: belong to "choice".
    """

    type: Literal["int", "float", "bool", "string", "choice", "file"]
    default: int | float | bool | str | None = None
    min: int | float | None = None
    max: int | float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    description: str = ""

    @field_validator("choices", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _consistent(self) -> Parameter:
        if (self.min is not None or self.max is not None) and self.type not in ("int", "float"):
            raise ValueError(f"min and max do not apply to type {self.type!r}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        if bool(self.choices) != (self.type == "choice"):
            raise ValueError('choices must be given for type "choice", and for no other')
        if self.type == "file" and self.default is not None:
            raise ValueError("a file has no default")
        if self.type != "file" and self.default is None and not self.required:
            raise ValueError("give a default, or required = true")
        if self.default is not None:
            self.accept("default", self.default)
        return self

    def allowed(self) -> str:
        """Return in words what may be given.

        >>> Parameter(type="int", default=3, min=1).allowed()
        'a whole number of at least 1'
        """
        words = {
            "choice": "one of " + ", ".join(self.choices),
            "bool": "true or false",
            "string": "text of at most 1,000 characters",
            "file": "the sha256 of an uploaded file",
            "int": "a whole number",
            "float": "a number",
        }[self.type]
        if self.min is not None:
            words += f" from {self.min}" if self.max is not None else f" of at least {self.min}"
        if self.max is not None:
            words += f" to {self.max}" if self.min is not None else f" of at most {self.max}"
        return words

    def accept(self, name: str, value: Any) -> Value:
        """Return the value in its type; text as typed in a shell is understood. Raises InvalidParameter."""
        typed = _typed(self.type, value)
        if typed is None or not self._in_range(typed):
            raise InvalidParameter(name, f"{_shown(value)} is not {self.allowed()}")
        return typed

    def _in_range(self, value: Any) -> bool:
        if self.type == "choice":
            return value in self.choices
        if self.type in ("int", "float"):
            return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)
        return self.type == "bool" or len(value) <= 1000


class Resources(_Table):
    """What a trainer must have to run the image; min_memory_mb is in MiB."""

    min_memory_mb: int = Field(default=0, ge=0)
    gpu: Literal["none", "optional", "required"] = "none"


class Manifest(_Table):
    """A parsed and checked `algorithm.toml`.

    name, version: as in the resource name "algorithms/{name}/versions/{version}". kinds: the jobs that it runs,
    training unless it says otherwise; what trains does nothing else. entry: "module:function", a function of one
    Context, or of one InferenceContext where the image trains nothing. task: one of `loupe.tasks`; where it trains
    nothing, empty for all of them.
    """

    name: str = Field(pattern=f"^{ID}$")
    version: str = Field(pattern=f"^{VERSION}$")
    kinds: tuple[JobKind, ...] = (JobKind.TRAIN,)
    task: str = ""
    entry: str = Field(pattern=f"^{_ENTRY}$")
    licence: str = Field(min_length=1, max_length=200)
    summary: str = Field(min_length=1, max_length=500)
    parameters: Mapping[str, Parameter] = Field(default_factory=dict)
    resources: Resources = Field(default_factory=Resources)

    @field_validator("kinds", mode="before")
    @classmethod
    def _kinds(cls, value: Any) -> Any:
        """Read the kinds from their names, which strict types would not take."""
        if not isinstance(value, list):
            return value
        if unknown := [each for each in value if each not in list(JobKind)]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(JobKind)}")
        return tuple(JobKind(each) for each in value)

    @model_validator(mode="after")
    def _task_of_kinds(self) -> Manifest:
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError("kinds must name at least one, and each once")
        if JobKind.TRAIN in self.kinds and len(self.kinds) > 1:
            raise ValueError(
                "kinds: an image that trains does nothing else; give the other kinds an image of their own"
            )
        if self.task not in TASKS and (self.task or JobKind.TRAIN in self.kinds):
            raise ValueError(f"task: {self.task!r} is none of {', '.join(TASKS)}")
        return self

    @field_validator("parameters")
    @classmethod
    def _names(cls, value: Mapping[str, Parameter]) -> Mapping[str, Parameter]:
        for name in value:
            if not re.fullmatch(_PARAMETER, name):
                raise ValueError(f"{name!r} is no parameter name; use {_PARAMETER}")
        return value


def parse_manifest(text: str | bytes) -> Manifest:
    """Read the text of an `algorithm.toml`. Raises BadManifest."""
    if len(text) > MAX_BYTES:
        raise BadManifest(f"{FILE_NAME}: {len(text)} bytes; at most {MAX_BYTES} are taken")
    try:
        table = tomllib.loads(text.decode() if isinstance(text, bytes) else text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadManifest(f"{FILE_NAME} is not TOML: {error}") from error
    try:
        return Manifest.model_validate(table)
    except ValidationError as error:
        found = "; ".join(_fault(each) for each in error.errors(include_url=False))
        raise BadManifest(f"{FILE_NAME}: {found}") from error


def read_manifest(folder: Path) -> Manifest:
    """Read the `algorithm.toml` of an image folder. Raises BadManifest."""
    try:
        return parse_manifest((folder / FILE_NAME).read_bytes())
    except FileNotFoundError as error:
        raise BadManifest(f"{folder} has no {FILE_NAME}") from error


def resolve_parameters(manifest: Manifest, given: Mapping[str, Any]) -> dict[str, Value]:
    """Return a value for every parameter, the given ones checked. Raises InvalidParameter.

    A whole number may come as 3, 3.0 or "3" (JSON and shells have no integers); a file left out is None.

    >>> manifest = Manifest(
    ...     name="a", version="1", task="classification", entry="main:train", licence="MIT", summary="An example.",
    ...     parameters={"epochs": Parameter(type="int", default=30)},
    ... )
    >>> resolve_parameters(manifest, {"epochs": "12"}), resolve_parameters(manifest, {})
    ({'epochs': 12}, {'epochs': 30})
    """
    for name in given:
        if name not in manifest.parameters:
            near = difflib.get_close_matches(name, manifest.parameters, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            known = ", ".join(sorted(manifest.parameters)) or "none"
            raise InvalidParameter(name, f"{manifest.name} has no such parameter; {hint}it has: {known}")
    resolved: dict[str, Value] = {}
    for name, parameter in manifest.parameters.items():
        value = given.get(name)
        if value is None and parameter.required:
            raise InvalidParameter(name, f"{manifest.name} cannot do without it; give {parameter.allowed()}")
        if value is None:
            value = parameter.default
        resolved[name] = None if value is None else parameter.accept(name, value)
    return resolved


def _typed(kind: str, value: Any) -> Value:
    """Return the value in its type, or None where it cannot be read as one."""
    if kind in ("string", "choice", "file"):
        return value if isinstance(value, str) else None
    if kind == "bool":
        words = {"true": True, "false": False}
        read = words.get(value.strip().lower()) if isinstance(value, str) else value
        return read if isinstance(read, bool) else None
    return _number(kind, value)


def _number(kind: str, value: Any) -> int | float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = int(value) if kind == "int" and isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        return None
    if kind == "float" or not math.isfinite(number):
        return number if math.isfinite(number) else None
    return int(value) if number == int(number) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fault(error: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "the file"
    given = error.get("input")
    shown = "" if isinstance(given, dict) or error["type"] == "missing" else f" (given: {_shown(given)})"
    return f"{where}: {error['msg']}{shown}"
