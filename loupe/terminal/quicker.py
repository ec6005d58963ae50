"""Which of a model's two files is quicker on this machine: tried once, and remembered beside the model.

INT8 is quicker where the CPU multiplies bytes (VNNI, dot products) and slower elsewhere, and by how much depends on the
network: so both are tried, in turns, on the golden pictures. The decision is remembered with the CPU's name; on another
CPU, as when a disk moves, it is made anew.
"""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from loupe.terminal.classifier_folder import GOLDEN_TOLERANCE, ClassifierFolder
from loupe.terminal.model_folder import BATCH, Network
from loupe.terminal.precision import Precision
from loupe.terminal.whole_files import write_whole

DECISION_FILE = "precision.json"
WORTHWHILE = 1.05
"""How many times as fast as FP32 INT8 must be to be taken."""
ROUNDS = 9
LONGEST_SECONDS = 2.0
_BYTE_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True)
class Decision:
    """What is used on a machine, and what it rests on.

    precision: FP32 or INT8. cpu, onnxruntime: for which it holds. fp32, int8: pictures per second; 0 where INT8 does
    not answer its golden pictures as it should here, and so was not timed.
    """

    precision: Precision
    cpu: str
    onnxruntime: str
    fp32: float = 0.0
    int8: float = 0.0


def quicker(classifier: ClassifierFolder, threads: int) -> Precision:
    """Return which precision a model with an INT8 file answers in on this machine, as remembered or by trying.

    Raises DataLoss for a file that is damaged.
    """
    import onnxruntime

    cpu, version = cpu_name(), str(onnxruntime.__version__)
    file = classifier.model.folder / DECISION_FILE
    known = _remembered(file)
    if known and (known.cpu, known.onnxruntime) == (cpu, version):
        return known.precision
    fp32, int8 = (classifier.network(each, threads) for each in (Precision.FP32, Precision.INT8))
    decision = Decision(Precision.FP32, cpu, version)
    if classifier.golden_difference(int8, Precision.INT8) <= GOLDEN_TOLERANCE[Precision.INT8]:
        rates = _rates(classifier, fp32, int8)
        faster = Precision.INT8 if rates[1] >= WORTHWHILE * rates[0] else Precision.FP32
        decision = Decision(faster, cpu, version, *(round(rate, 1) for rate in rates))
    # In a folder that may not be written to it is tried each time.
    with contextlib.suppress(OSError):
        write_whole(file, json.dumps(asdict(decision)) + "\n")
    return decision.precision


def cpu_name(described: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the CPU calls itself, with what it has to multiply bytes: clouds name different ones alike."""
    try:
        pairs = [line.split(":", 1) for line in described.read_text(errors="replace").splitlines() if ":" in line]
    except OSError:
        return platform.processor() or platform.machine()
    told = {key.strip(): value.strip() for key, value in reversed(pairs)}
    names = [told[key] for key in ("model name", "CPU implementer", "CPU part") if key in told]
    flags = told.get("flags", told.get("Features", "")).split()
    return " ".join([*(names or [platform.machine()]), *(each for each in _BYTE_INSTRUCTIONS if each in flags)])


def _remembered(file: Path) -> Decision | None:
    """Return what was decided; None without a decision, and for one that cannot be read."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        decision = Decision(**told | {"precision": Precision(told["precision"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None if decision.precision is Precision.AUTO else decision


def _rates(classifier: ClassifierFolder, fp32: Network, int8: Network) -> tuple[float, float]:
    """Return the pictures per second of two networks, which take turns on the golden pictures."""
    pictures = classifier.golden_pictures()[:BATCH]
    seconds: tuple[list[float], list[float]] = ([], [])
    until = time.monotonic() + LONGEST_SECONDS
    for turn in range(1 + ROUNDS):
        for network, seen in zip((fp32, int8), seconds, strict=True):
            began = time.perf_counter()
            network(pictures)
            seen.append(time.perf_counter() - began)
        if turn and time.monotonic() > until:
            break
    # The first turn of each is slower than any other.
    first, second = (len(pictures) / statistics.median(seen[1:]) for seen in seconds)
    return first, second
