"""Bringing a model version to this machine: resumed, every byte checked, installed only when it answers right."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loupe.backoff import Backoff
from loupe.errors import AlreadyExists, DataLoss, GateFailed, LoupeError, Unavailable
from loupe.names import ModelVersionName
from loupe.storage.v1 import model_pb2
from loupe.tasks.anomaly import Anomaly
from loupe.tasks.classification import Classification
from loupe.tasks.detection import Detection
from loupe.terminal.classifier import Classifier
from loupe.terminal.clearing import Cleared
from loupe.terminal.connection import TRANSFER_RETRY_SECONDS
from loupe.terminal.detector import Detector
from loupe.terminal.first_use import CHECKED_FILE
from loupe.terminal.hashing import sha256_of
from loupe.terminal.inspector import Inspector
from loupe.terminal.installed import default_folder, record
from loupe.terminal.locks import file_lock
from loupe.terminal.model_folder import NEEDED_FILES, read_model_folder
from loupe.terminal.precision import Precision
from loupe.terminal.progress import PullProgress
from loupe.terminal.targets import objective_of, score_of, why_unreleased

PLAIN_FILENAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Read = Callable[[str, int], AsyncGenerator[bytes]]
"""Begins a file of the version at an offset, and yields its bytes. Raises LoupeError."""


@dataclass(frozen=True)
class Pulled:
    """A version, and the folder where it stands.

    fresh: it was brought now; else it stood there already, whole. cleared: the older ones that went for it.
    """

    version: model_pb2.ModelVersion
    folder: Path
    fresh: bool
    cleared: Cleared = field(default_factory=Cleared)


async def pull_version(
    version: model_pb2.ModelVersion,
    read: Read,
    folder: Path | None = None,
    *,
    allow_below_target: bool = False,
    named: bool = False,
    show: Callable[[PullProgress], None] = lambda progress: None,
    backoff: Backoff | None = None,
) -> Pulled:
    """Make `folder` hold the version's files; nothing stands there before all of it is checked.

    named: somebody asked for this very version, which `loupe.terminal.clearing` leaves alone.

    Raises GateFailed for a version that is not released, or does not answer its golden pictures here as it should;
    DataLoss for bytes that are not what the library says; Unavailable when storage stays away.
    """
    if not version.released and not allow_below_target:
        metrics = version.metrics
        raise GateFailed(
            f"{version.name} {why_unreleased(metrics)}; use --allow-below-target to pull it all the same",
            model=version.name,
            accuracy=score_of(metrics),
            target=objective_of(metrics).bound,
        )
    _check_files(version)
    # A folder that somebody names holds whatever was pulled into it last; the user's own are told apart by records.
    recorded, folder = folder is None, folder or default_folder(ModelVersionName.parse(version.name))
    partial = folder.parent / f".{folder.name}.{version.uid[:12] or 'new'}.part"
    async with file_lock(folder.parent / f".{folder.name}.lock"):
        if await asyncio.to_thread(_holds, folder, version):
            if recorded:
                await asyncio.to_thread(record, version, named=named)
            return Pulled(version, folder, fresh=False)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not (folder / "model.json").exists():
            raise AlreadyExists(
                f"{folder} holds something that is not a Loupe model; name an empty folder", resource=folder
            )
        partial.mkdir(parents=True, exist_ok=True)
        await _fetch_all(version, read, partial, show, backoff or Backoff(TRANSFER_RETRY_SECONDS))
        await asyncio.to_thread(_check_answers, partial)
        if recorded:
            await asyncio.to_thread(record, version, named=named)
        await asyncio.to_thread(_install, partial, folder)
    return Pulled(version, folder, fresh=True)


def _check_files(version: model_pb2.ModelVersion) -> None:
    names = [file.filename for file in version.files]
    for name in names:
        if not PLAIN_FILENAME.fullmatch(name):
            raise DataLoss(
                f"{version.name} has a file called {name[:120]!a}; expected a plain file name", file=name[:120]
            )
    lacking = sorted(NEEDED_FILES - set(names))
    if lacking:
        raise DataLoss(
            f"{version.name} cannot be used on a terminal: it has no {', '.join(lacking)}", file=", ".join(lacking)
        )


def _holds(folder: Path, version: model_pb2.ModelVersion) -> bool:
    return all(_is_whole(folder / file.filename, file) for file in version.files)


def _is_whole(path: Path, file: model_pb2.ModelFile) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.digest


async def _fetch_all(
    version: model_pb2.ModelVersion, read: Read, folder: Path, show: Callable[[PullProgress], None], backoff: Backoff
) -> None:
    total = sum(file.size for file in version.files)
    before = 0
    for file in version.files:
        path = folder / file.filename

        def moved(here: int, before: int = before) -> None:
            backoff.reset()
            show(PullProgress(before + here, total))

        # What an earlier pull left may be bad: then once more from the beginning.
        for _ in range(2 if path.exists() else 1):
            await _fetch(read, file, path, moved, backoff)
            if await asyncio.to_thread(_is_whole, path, file):
                break
            path.unlink(missing_ok=True)
        else:
            raise DataLoss(
                f"{file.filename} of {version.name} arrived with another sha256 than the library's; "
                "pull again, and tell whoever runs the storage service if it stays so",
                digest=file.digest,
            )
        before += file.size


async def _fetch(
    read: Read, file: model_pb2.ModelFile, path: Path, moved: Callable[[int], None], backoff: Backoff
) -> None:
    """Append to the file from where it ends until it has its size, through as many cuts as backoff bears."""
    with path.open("ab") as content:
        if content.tell() > file.size:
            content.truncate(0)
        while True:
            try:
                async with contextlib.aclosing(read(file.filename, content.tell())) as chunks:
                    async for chunk in chunks:
                        content.write(chunk)
                        moved(content.tell())
            except Unavailable as error:
                await backoff.wait(error)
            else:
                if content.tell() >= file.size:
                    break
                await backoff.wait(Unavailable(f"the download of {file.filename} ended early", dependency="storage"))
        content.flush()
        os.fsync(content.fileno())


def _check_answers(folder: Path) -> None:
    try:
        _CHECKS[read_model_folder(folder).task.name](folder)
    except LoupeError:
        shutil.rmtree(folder)
        raise


def _check_classifier(folder: Path) -> None:
    Classifier(folder, precision=Precision.FP32).check_golden()
    Classifier(folder)  # what is quicker here is tried now, and not while somebody waits for an answer


def _check_first_use(open_model: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return the check of a model that answers its golden pictures on its first use."""

    def check(folder: Path) -> None:
        (folder / CHECKED_FILE).unlink(missing_ok=True)  # what arrived vouches for nothing
        open_model(folder)

    return check


_CHECKS: Mapping[str, Callable[[Path], None]] = {
    Classification.name: _check_classifier,
    Detection.name: _check_first_use(Detector),
    Anomaly.name: _check_first_use(Inspector),
}
"""By the task of a model: whether it answers on this machine as it did after training."""


def _install(partial: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
