"""Modules that a command needs and `loupe --help` does not: each is loaded when something in it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["errors", "names", "targets"]


class _Lazy:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


if TYPE_CHECKING:
    from loupe import errors, names
    from loupe.tasks import targets
else:
    errors = _Lazy("loupe.errors")
    names = _Lazy("loupe.names")
    targets = _Lazy("loupe.tasks.targets")
