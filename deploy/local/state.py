"""The state directory of a local mesh: where everything lies, and mesh.json, which remembers the mesh's shape."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.errors import StateError
from deploy.local.files import private_directory, write_if_changed
from loupe.patterns import ID

DEFAULT_STATE = Path(".state/mesh")
_SOCKET_PATH_AT_MOST = 100  # the kernel takes 107 bytes; supervisord adds a suffix of its own while binding


@dataclass(frozen=True)
class TrainerId:
    """One trainer of one cluster, written `cluster/trainer`."""

    cluster: str
    trainer: str

    def __post_init__(self) -> None:
        for kind, value in (("cluster", self.cluster), ("trainer", self.trainer)):
            if not re.fullmatch(ID, value):
                raise StateError(
                    f"{value!r} is no {kind} id: 1 to 63 of a-z, 0-9 and '-', first a letter, last no '-'."
                )

    @classmethod
    def parse(cls, text: str) -> TrainerId:
        """Read `cluster/trainer`; StateError when it is not that."""
        cluster, slash, trainer = text.strip().partition("/")
        if not slash:
            raise StateError(f"{text!r} is no trainer: write cluster/trainer, as in north/a.")
        return cls(cluster, trainer)

    @property
    def process(self) -> str:
        """The name of the trainer's process."""
        return f"trainer-{self.cluster}-{self.trainer}"

    def __str__(self) -> str:
        return f"{self.cluster}/{self.trainer}"


@dataclass(frozen=True)
class Shape:
    """What mesh.json remembers: the trainers, their slots, and every port by name."""

    trainers: tuple[TrainerId, ...]
    slots: int
    ports: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise StateError(f"A trainer needs at least one slot, not {self.slots}.")
        processes = [trainer.process for trainer in self.trainers]
        doubled = sorted({name for name in processes if processes.count(name) > 1})
        if doubled:
            raise StateError(f"Two trainers would both be the process {doubled[0]}: give one of them another id.")


class StateDirectory:
    """The paths of one mesh; to make this object makes nothing on disk, `prepare` does."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self.tls = self.root / "tls"
        self.secrets = self.root / "secrets"
        self.logs = self.root / "logs"
        self.run = self.root / "run"
        self.mesh_file = self.root / "mesh.json"

    def prepare(self) -> None:
        """Make the directories (mode 0700); StateError when the place cannot be used."""
        if any(character in str(self.root) for character in ";\n\r"):
            raise StateError(f"The state directory's path must not hold ';' or a line break: {str(self.root)!r}.")
        try:
            for folder in (self.root, self.tls, self.secrets, self.logs, self.run):
                private_directory(folder)
        except OSError as error:
            raise StateError(f"The state directory {self.root} cannot be used: {error}.") from error
        if self.root.stat().st_uid != os.getuid():
            raise StateError(f"The state directory {self.root} belongs to another user.")

    def of(self, process: str) -> Path:
        """Return the directory of one process, made if missing."""
        return private_directory(self.root / process)

    def secret(self, name: str) -> Path:
        """Return the path of a secret file."""
        return self.secrets / name

    def log(self, process: str) -> Path:
        """Return the path of a process's log."""
        return self.logs / f"{process}.log"

    @property
    def socket(self) -> Path:
        """The supervisor's unix socket: in the state directory, or in a short place when that is deep."""
        inside = self.run / "supervisor.sock"
        if len(os.fsencode(inside)) <= _SOCKET_PATH_AT_MOST:
            return inside
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        folder = base / f"loupe-{os.getuid()}"
        private_directory(folder)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise StateError(f"{folder} belongs to another user; set XDG_RUNTIME_DIR to a directory of your own.")
        return folder / f"{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]}.sock"

    def load(self) -> Shape | None:
        """Return the remembered shape; None for a new directory, StateError for a damaged file."""
        try:
            if not self.mesh_file.exists():
                return None
            known = json.loads(self.mesh_file.read_text(encoding="utf-8"))
            return Shape(
                tuple(TrainerId.parse(name) for name in known["trainers"]),
                int(known["slots"]),
                {str(name): int(port) for name, port in known["ports"].items()},
            )
        except PermissionError as error:
            raise StateError(f"{self.mesh_file} cannot be read: it belongs to another user.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"{self.mesh_file} is damaged ({error!r}); delete it and new ports are chosen.") from error

    def save(self, shape: Shape, endpoints: Mapping[str, object]) -> None:
        """Remember the shape, with the endpoints beside it for whoever reads the file."""
        document = {
            "trainers": [str(trainer) for trainer in shape.trainers],
            "slots": shape.slots,
            "ports": dict(shape.ports),
            "endpoints": dict(endpoints),
        }
        write_if_changed(self.mesh_file, json.dumps(document, indent=2) + "\n")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep two commands from changing the same mesh at once; StateError when one is at it."""
        descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StateError(
                    f"Another command is just starting or stopping the mesh in {self.root}; try again when it is done."
                ) from error
            yield
        finally:
            os.close(descriptor)
