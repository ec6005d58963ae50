"""Resource names (AIP-122), parsed once at the edge: inside there is `JobName`, never `name.split("/")`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from loupe.errors import invalid
from loupe.patterns import ID, VERSION

ACTION = r"[a-z]+\.[a-z]+"
NUMBER = r"[1-9][0-9]{0,8}|latest"
SHA256 = r"[0-9a-f]{64}"
SYSTEM = "system"

_ID = re.compile(ID)
_SHA256 = re.compile(SHA256)


def check_id(field: str, value: str) -> str:
    """Return an id that a user chose, or raise InvalidArgument that says what an id looks like."""
    if not _ID.fullmatch(value):
        raise invalid(
            field, value, "a lower-case letter, then up to 62 letters, digits or hyphens, no hyphen at the end"
        )
    return value


def check_sha256(field: str, value: str) -> str:
    """Return a digest in hex, or raise InvalidArgument."""
    if not _SHA256.fullmatch(value):
        raise invalid(field, value, "a sha256 in 64 lower-case hex digits")
    return value


def check_sha256s(field: str, values: Sequence[str]) -> Sequence[str]:
    """Return thousands of digests in hex, or raise InvalidArgument for the first that is none."""
    if not all(map(_SHA256.fullmatch, values)):
        for value in values:
            check_sha256(field, value)
    return values


@dataclass(frozen=True)
class Name:
    """A parsed resource name; str() gives the text back.

    A subclass states its pattern once; its fields are the pattern's variables in order.

    >>> JobName.parse("projects/line-7/jobs/j1")
    JobName(project='line-7', job='j1')
    >>> str(JobName("line-7", "j1"))
    'projects/line-7/jobs/j1'
    >>> JobName.parse("jobs/j1")
    Traceback (most recent call last):
    loupe.errors.InvalidArgument: name is 'jobs/j1'; expected "projects/{project}/jobs/{job}"
    """

    pattern: ClassVar[str]
    _compiled: ClassVar[re.Pattern[str]]

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        kinds = {"version": VERSION, "number": NUMBER, "action": ACTION, "sha256": SHA256}
        parts = re.split(r"\{(\w+)\}", cls.pattern)
        regex = "".join(
            re.escape(part) if i % 2 == 0 else f"(?P<{part}>{kinds.get(part, ID)})" for i, part in enumerate(parts)
        )
        cls._compiled = re.compile(regex)

    @classmethod
    def parse(cls, text: str, field: str = "name") -> Self:
        """Read a name. Raises InvalidArgument naming the field and the pattern."""
        match = cls._compiled.fullmatch(text)
        if match is None:
            raise invalid(field, text, f'"{cls.pattern}"')
        return cls(**match.groupdict())

    def __str__(self) -> str:
        return self.pattern.format(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True)
class AccountName(Name):
    """The name "accounts/{account}"."""

    pattern: ClassVar[str] = "accounts/{account}"
    account: str


@dataclass(frozen=True)
class ProjectName(Name):
    """The name "projects/{project}"; "projects/system" is the domain of system-wide rights."""

    pattern: ClassVar[str] = "projects/{project}"
    project: str


@dataclass(frozen=True)
class GroupName(Name):
    """The name "projects/{project}/groups/{group}"."""

    pattern: ClassVar[str] = "projects/{project}/groups/{group}"
    project: str
    group: str


@dataclass(frozen=True)
class ThresholdName(Name):
    """The name "thresholds/{action}"."""

    pattern: ClassVar[str] = "thresholds/{action}"
    action: str


@dataclass(frozen=True)
class DatasetName(Name):
    """The name "projects/{project}/datasets/{dataset}"."""

    pattern: ClassVar[str] = "projects/{project}/datasets/{dataset}"
    project: str
    dataset: str


@dataclass(frozen=True)
class DatasetVersionName(Name):
    """The name "projects/{project}/datasets/{dataset}/versions/{number}"; number may be "latest"."""

    pattern: ClassVar[str] = "projects/{project}/datasets/{dataset}/versions/{number}"
    project: str
    dataset: str
    number: str


@dataclass(frozen=True)
class AlgorithmName(Name):
    """The name "algorithms/{algorithm}"."""

    pattern: ClassVar[str] = "algorithms/{algorithm}"
    algorithm: str


@dataclass(frozen=True)
class AlgorithmVersionName(Name):
    """The name "algorithms/{algorithm}/versions/{version}"; version may be "latest"."""

    pattern: ClassVar[str] = "algorithms/{algorithm}/versions/{version}"
    algorithm: str
    version: str


@dataclass(frozen=True)
class JobName(Name):
    """The name "projects/{project}/jobs/{job}"."""

    pattern: ClassVar[str] = "projects/{project}/jobs/{job}"
    project: str
    job: str


@dataclass(frozen=True)
class ModelName(Name):
    """The name "projects/{project}/models/{model}"."""

    pattern: ClassVar[str] = "projects/{project}/models/{model}"
    project: str
    model: str


@dataclass(frozen=True)
class ModelVersionName(Name):
    """The name "projects/{project}/models/{model}/versions/{number}"; number may be "latest"."""

    pattern: ClassVar[str] = "projects/{project}/models/{model}/versions/{number}"
    project: str
    model: str
    number: str


@dataclass(frozen=True)
class ClusterName(Name):
    """The name "clusters/{cluster}"."""

    pattern: ClassVar[str] = "clusters/{cluster}"
    cluster: str


@dataclass(frozen=True)
class TrainerName(Name):
    """The name "clusters/{cluster}/trainers/{trainer}"."""

    pattern: ClassVar[str] = "clusters/{cluster}/trainers/{trainer}"
    cluster: str
    trainer: str


def host_of(process: str | TrainerName) -> str:
    """Return the host name on the certificate of a service, or of a trainer, by which TLS knows that it is that one.

    >>> host_of("auth")
    'auth.service.loupe.internal'
    >>> host_of(TrainerName("north", "a"))
    'a.north.trainer.loupe.internal'
    """
    if isinstance(process, TrainerName):
        return f"{process.trainer}.{process.cluster}.trainer.loupe.internal"
    return f"{process}.service.loupe.internal"


_PROJECT = re.compile(rf"projects/({ID})(?:/.*)?", re.DOTALL)


def project_of(text: str, field: str = "name") -> ProjectName:
    """Return the project that a name of any kind stands in. Raises InvalidArgument."""
    match = _PROJECT.fullmatch(text)
    if match is None:
        raise invalid(field, text, 'a name that begins with "projects/{project}"')
    return ProjectName(match[1])
