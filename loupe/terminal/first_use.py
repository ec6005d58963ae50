"""What was found to be right on this machine once, remembered beside the model, so that it is not tried each time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

from loupe.terminal.model_folder import GOLDEN_FILE, MODEL_NETWORK, ModelFolder
from loupe.terminal.quicker import cpu_name
from loupe.terminal.whole_files import write_whole

CHECKED_FILE = "checked.json"


def check_once(model: ModelFolder, check: Callable[[], None]) -> None:
    """Run a check of a model's golden pictures, unless these very files passed it on this CPU with this onnxruntime.

    Raises what the check raises. In a folder that may not be written to, and where model.json has no digests, it runs
    each time.
    """
    now = _fingerprint(model)
    file = model.folder / CHECKED_FILE
    if now and now == _remembered(model):
        return
    check()
    if now:
        with contextlib.suppress(OSError):
            write_whole(file, json.dumps(now) + "\n")


def _fingerprint(model: ModelFolder) -> dict[str, str]:
    """Return what a check holds for; empty where that cannot be told."""
    import onnxruntime

    files = {name: model.digests.get(name, "") for name in (MODEL_NETWORK, GOLDEN_FILE)}
    if not all(files.values()):
        return {}
    return {"cpu": cpu_name(), "onnxruntime": str(onnxruntime.__version__), **files}


def _remembered(model: ModelFolder) -> object:
    try:
        return json.loads((model.folder / CHECKED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
