"""A folder with a model of any task: what model.json says of it, its files checked and opened, its golden pictures.

Folders may come from anywhere, so nothing in them is believed: what does not fit is told, and never computed with.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import DataLoss, GateFailed, InvalidArgument, invalid
from loupe.letterbox import FILL, FITS, Fit
from loupe.tasks import DEFAULT, TASKS
from loupe.tasks.task import Task
from loupe.terminal.hashing import sha256_of

FORMAT = "loupe-model/1"
MODEL_NETWORK = "model.onnx"
GOLDEN_FILE = "golden.npz"
NEEDED_FILES = {"model.json", MODEL_NETWORK, GOLDEN_FILE}
BATCH = 32
"""The pictures that are answered at once."""
MOST_PIXELS = 1 << 24
"""Of a model's input: more than any network takes."""
MOST_GOLDEN_BYTES = 1 << 29
_BROKEN_ARCHIVE = (zipfile.BadZipFile, zlib.error, RuntimeError)


@dataclass(frozen=True)
class ModelFolder:
    """What model.json says of any model. labels: C of them. height, width: of its pixels. fit: how a picture
    comes into them.

    digests: sha256 in hex, by file. document: all that model.json says.
    """

    folder: Path
    task: Task
    labels: list[str]
    height: int
    width: int
    fit: Fit
    digests: Mapping[str, str]
    document: Mapping[str, Any]

    def network(self, name: str, threads: int, outputs: Sequence[str]) -> Network:
        """Open an ONNX file of the folder that has these outputs. Raises DataLoss.

        threads: they wait without spinning.
        """
        session = _session(self.folder / name, threads)
        # After the loading, whose error says more of a file that is no model at all.
        self._check_digest(name)
        network = Network(self.folder / name, session, list(outputs))
        network.check_doors(self.height, self.width)
        return network

    def golden(self, names: Sequence[str]) -> list[np.ndarray]:
        """Return the golden pictures, uint8 [K, height, width, 3], K at least 1, and other arrays of their file.

        Raises GateFailed when there are no golden pictures, DataLoss for a damaged file.
        """
        file = self.folder / GOLDEN_FILE
        self._check_digest(GOLDEN_FILE)
        try:
            _check_size(file)
            with np.load(file, allow_pickle=False) as golden:
                pictures, *arrays = (np.asarray(golden[name]) for name in ("pictures", *names))
        except (*_BROKEN_ARCHIVE, OSError, ValueError, KeyError, TypeError, EOFError, MemoryError) as error:
            raise DataLoss(f"{file} is damaged ({error!r}); pull the model again", file=file) from error
        if pictures.shape[:1] == (0,):
            raise GateFailed(f"the model in {self.folder} has no golden pictures", model=self.folder)
        if pictures.dtype != np.uint8 or pictures.shape[1:] != (self.height, self.width, 3):
            raise DataLoss(
                f"{file} is damaged (pictures of {pictures.dtype} {list(pictures.shape)}); pull the model again",
                file=file,
            )
        return [pictures, *arrays]

    def _check_digest(self, name: str) -> None:
        file = self.folder / name
        if name in self.digests and file.is_file() and sha256_of(file) != self.digests[name]:
            raise DataLoss(
                f"{file} is damaged (its sha256 is not the one in model.json); pull the model again", file=file
            )


@dataclass(frozen=True)
class Network:
    """An opened ONNX file, called with pictures, its one input. outputs: those that it answers with, in this order."""

    file: Path
    session: Any
    outputs: Sequence[str]

    def __call__(self, pictures: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for uint8 [N, height, width, 3]. Raises DataLoss where the network breaks off."""
        try:
            door = self.session.get_inputs()[0].name
            return list(self.session.run(self.outputs, {door: np.ascontiguousarray(pictures)}))
        except Exception as error:  # onnxruntime's own errors have no base class but Exception
            raise DataLoss(
                f"{self.file} cannot answer {len(pictures)} pictures ({str(error)[:200]}); pull the model again",
                file=self.file,
            ) from error

    def check_doors(self, height: int, width: int) -> None:
        """Raise DataLoss unless it takes any number of pictures, and no more, and has the outputs."""
        inputs, there = self.session.get_inputs(), [one.name for one in self.session.get_outputs()]
        if len(inputs) != 1 or not set(self.outputs) <= set(there):
            raise DataLoss(
                f"{self.file} has inputs {[one.name for one in inputs]} and outputs {there}; expected one input, and "
                f"the outputs {', '.join(self.outputs)}",
                file=self.file,
            )
        kind, shape = inputs[0].type, list(inputs[0].shape)
        fixed = [one if isinstance(one, int) else None for one in shape]
        fits = len(fixed) == 4 and all(
            one in known for one, known in zip(fixed, ((None,), (None, height), (None, width), (None, 3)), strict=True)
        )
        if kind != "tensor(uint8)" or not fits:
            raise DataLoss(
                f"{self.file} takes pictures as {kind} {shape}; expected tensor(uint8) of any number x {height} x "
                f"{width} x 3",
                file=self.file,
            )


def read_model_folder(folder: Path) -> ModelFolder:
    """Read model.json. Raises InvalidArgument for a folder that is not such a model, DataLoss for a damaged one."""
    file = folder / "model.json"
    if not file.is_file():
        raise invalid("model", str(folder), "a folder with a pulled model (model.json, model.onnx, golden.npz)")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        form, labels, told = document["format"], document["labels"], document["input"]
        sides = told["height"], told["width"]
        kinds = {
            "task": (document.get("task", DEFAULT.name), TASKS),
            "fit": (told.get("fit", "stretch"), FITS),
            "fill": (told.get("fill", FILL), (FILL,)),
        }
        readable = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
        readable = readable and all(isinstance(side, int) and side > 0 for side in sides)
        readable = readable and sides[0] * sides[1] <= MOST_PIXELS
        digests = {str(name): str(digest) for name, digest in dict(document.get("files", {})).items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(folder, error) from error
    if form != FORMAT:
        raise _for_another_loupe(file, "format", form, FORMAT)
    for field, (value, known) in kinds.items():
        if value not in list(known):
            raise _for_another_loupe(file, field, value, *known)
    if not readable:
        raise DataLoss(f"{file} is damaged (labels or input); pull the model again", file=file)
    return ModelFolder(folder, TASKS[kinds["task"][0]], labels, *sides, kinds["fit"][0], digests, document)


def require_task(model: ModelFolder, name: str) -> None:
    """Raise InvalidArgument for a model of another task; it says which command answers with that one."""
    if model.task.name != name:
        raise InvalidArgument(
            f"{model.folder} holds a model for {model.task.name}; expected one for {name}: "
            f"`loupe {model.task.command}` answers with this one",
            field="model",
            value=model.task.name,
            expected=name,
        )


def damaged(folder: Path, error: BaseException) -> DataLoss:
    """Make the error for a model.json that does not say what it should."""
    file = folder / "model.json"
    return DataLoss(f"{file} is damaged ({error!r}); pull the model again", file=file)


def _for_another_loupe(file: Path, field: str, value: object, *expected: object) -> InvalidArgument:
    wanted = " or ".join(f'"{one}"' for one in expected)
    return InvalidArgument(
        f'{file} has the {field} "{str(value)[:120]}"; expected {wanted}: this model was made for another Loupe',
        field=field,
        value=str(value)[:120],
        expected=wanted,
    )


def _check_size(file: Path) -> None:
    with zipfile.ZipFile(file) as members:
        size = sum(one.file_size for one in members.infolist())
    if size > MOST_GOLDEN_BYTES:
        raise ValueError(f"{size} bytes; at most {MOST_GOLDEN_BYTES} are taken")


def _session(file: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no base class but Exception
        raise DataLoss(f"{file} cannot be loaded ({str(error)[:200]}); pull the model again", file=file) from error
