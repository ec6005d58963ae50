"""A host for one run on this machine, over a folder of pictures: for authors of algorithms, benches and tests."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from loupe.algorithm.host import DatasetIndex, Progress, Result, RunSpec, Split
from loupe.algorithm.region_file import no_regions
from loupe.letterbox import Fit
from loupe.picture import DECODER, BadPicture, decode, digest
from loupe.picture_folders import SPLIT_NAMES, SUFFIXES, class_folders, walk_class
from loupe.tasks.average_precision import Regions
from loupe.tasks.objective import Objective

SPLITS_FILE = "splits.csv"
SPLITS_BY_NAME = {"train": Split.TRAIN, "validation": Split.VALIDATION, "test": Split.TEST}


class BadFolder(ValueError):
    """Says what keeps a folder from being read as labelled pictures."""


@dataclass(frozen=True)
class PictureFolder:
    """N pictures on disk, in the order of their digests, with all that is known of them, nothing withheld.

    labels: class names. digests: sha256 of each file, hex. classes: int32 [N], indices into labels, -1 for none.
    splits: uint8 [N], a `Split` for each picture. regions: boxes in parts of the square that pictures are letterboxed
    into.
    """

    root: Path
    labels: Sequence[str]
    paths: Sequence[Path]
    digests: Sequence[str]
    classes: np.ndarray
    splits: np.ndarray
    regions: Regions = field(default_factory=no_regions)

    @property
    def identity(self) -> str:
        """What tells these pictures, in this order, from any others: 32 hex digits."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()[:32]

    def index(self) -> DatasetIndex:
        """Return the data set as a run may see it: test labels and regions withheld."""
        withheld = np.where(self.splits == Split.TEST, np.int32(-1), self.classes)
        shown = self.regions.where(self.splits[self.regions.pictures] != Split.TEST)
        return DatasetIndex(self.root.name, self.labels, withheld, self.splits, self.digests, shown)


def read_folder(root: Path, *, validation: float = 0.2, test: float = 0.2) -> PictureFolder:
    """Read splits.csv (path, label, split) where there is one, else folders as `loupe.picture_folders` says.

    Without a split of the user's own each class is split by the order of its pictures' digests, validation and test
    being parts of 1: the same pictures always fall the same way. A picture that is there twice counts once. Raises
    BadFolder.
    """
    rows = _rows_of_csv(root) if (root / SPLITS_FILE).is_file() else _rows_of_folders(root)
    if not rows:
        raise BadFolder(f"{root} has no pictures; expected a folder per class, or {SPLITS_FILE}")
    seen: dict[str, tuple[Path, str, Split | None]] = {}
    for path, label, split in rows:
        try:
            seen.setdefault(digest(path.read_bytes()), (path, label, split))
        except OSError as error:
            raise BadFolder(f"{path} cannot be read: {error}") from error
    labels = sorted({label for _, label, _ in seen.values()})
    digests = sorted(seen)
    classes = np.array([labels.index(seen[each][1]) for each in digests], dtype=np.int32)
    splits = np.zeros(len(digests), dtype=np.uint8)
    for number in range(len(labels)):
        members = np.flatnonzero(classes == number)
        splits[members] = drawn_splits(len(members), validation, test)
    for row, each in enumerate(digests):
        split = seen[each][2]
        if split is not None:
            splits[row] = split
    return PictureFolder(root, labels, [seen[each][0] for each in digests], digests, classes, splits)


def drawn_splits(count: int, validation: float, test: float) -> np.ndarray:
    """Return int [count], a `Split` for each of so many pictures in their order; validation, test: parts of 1."""
    place = (np.arange(count) + 0.5) / max(1, count)
    return np.where(place < test, Split.TEST, np.where(place < test + validation, Split.VALIDATION, Split.TRAIN))


class LocalHost:
    """A `Host` over a picture folder. Raises BadFolder for a picture that cannot be read.

    work: the run's folder; the last checkpoint is kept beside it, in `<work>.checkpoint`, and `report.json` in it.
    cache: where decoded pictures are kept from run to run. show and say get progress and log lines.
    result: what the run handed over, once it has; answers: what it said of the pictures, where it was to answer them.
    """

    def __init__(
        self,
        folder: PictureFolder,
        spec: RunSpec,
        *,
        work: Path,
        cache: Path,
        show: Callable[[Progress], None] = lambda progress: None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._folder = folder
        self._spec = replace(spec, dataset=folder.index())
        self._work, self._cache = work, cache
        self._show, self._say = show, say
        self._checkpoint = work.with_name(work.name + ".checkpoint")
        self._revealed = False
        self.result: Result | None = None
        self.answers: Regions | None = None
        work.mkdir(parents=True, exist_ok=True)
        cache.mkdir(parents=True, exist_ok=True)

    @property
    def work(self) -> Path:
        return self._work

    def spec(self) -> RunSpec:
        return self._spec

    def pictures(self, height: int, width: int, fit: Fit = "stretch") -> Path:
        target = self._cache / f"{self._folder.identity}-{fit}-{height}x{width}-{DECODER.rpartition('-')[2]}.npy"
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}.partial")
            shape = (len(self._folder.paths), height, width, 3)
            pixels = np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape)

            def fill(row: int) -> None:
                try:
                    pixels[row] = decode(self._folder.paths[row].read_bytes(), height, width, fit)
                except BadPicture as error:
                    raise BadFolder(f"{self._folder.paths[row]}: {error}") from error

            try:
                with ThreadPoolExecutor(self._spec.threads) as pool:
                    list(pool.map(fill, range(len(self._folder.paths))))
                pixels.flush()
                partial.rename(target)
            finally:
                partial.unlink(missing_ok=True)
        return target

    def reveal_test(self, answers: np.ndarray) -> np.ndarray:
        self._reveal()
        return self._folder.classes

    def reveal_test_regions(self, found: Regions) -> Regions:
        self._reveal()
        return self._folder.regions

    def hand_over_answers(self, found: Regions) -> None:
        self.answers = found

    def _reveal(self) -> None:
        if self._revealed:
            raise RuntimeError("the test labels were revealed before; that is done once in a run")
        self._revealed = True

    def report(self, progress: Progress) -> None:
        self._show(progress)

    def log(self, text: str) -> None:
        self._say(text)

    def save_checkpoint(self, folder: Path) -> None:
        if self._revealed:
            raise RuntimeError("no checkpoint is taken after the test labels were revealed")
        fresh = self._checkpoint.with_name(self._checkpoint.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(folder, fresh)
        shutil.rmtree(self._checkpoint, ignore_errors=True)
        fresh.rename(self._checkpoint)

    def restore_checkpoint(self) -> Path | None:
        return self._checkpoint if self._checkpoint.is_dir() else None

    def stop_requested(self) -> bool:
        return False

    def finish(self, result: Result) -> None:
        self.result = result
        text = json.dumps(dict(result.report), ensure_ascii=False, indent=2, allow_nan=False)
        (self._work / "report.json").write_text(text + "\n", encoding="utf-8")


def local_spec(folder: PictureFolder, parameters: Mapping[str, Any], objective: Objective, **rest: Any) -> RunSpec:
    """Return what a run over the folder is asked to do; rest as in RunSpec."""
    return RunSpec(parameters=parameters, objective=objective, dataset=folder.index(), **rest)


def _rows_of_folders(root: Path) -> list[tuple[Path, str, Split | None]]:
    if not root.is_dir():
        raise BadFolder(f"{root} is not a folder")
    return [
        (path, folder.name, SPLITS_BY_NAME.get(split))
        for folder, split in class_folders(root)[0]
        for path in walk_class(folder)
        if isinstance(path, Path) and path.suffix.lower() in SUFFIXES
    ]


def _rows_of_csv(root: Path) -> list[tuple[Path, str, Split | None]]:
    rows: list[tuple[Path, str, Split | None]] = []
    with (root / SPLITS_FILE).open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            split = SPLITS_BY_NAME.get(SPLIT_NAMES.get((row.get("split") or "").strip().lower(), ""))
            if not row.get("path") or not row.get("label") or split is None:
                raise BadFolder(
                    f"{root / SPLITS_FILE}, line {number}: expected path, label and split (train, validation or test)"
                )
            rows.append((root / row["path"], row["label"], split))
    return rows
