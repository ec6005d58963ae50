"""Do without torch's compiler, `torch._dynamo`: it takes seconds and 130 MB to load, and nothing here compiles.

torch loads it all the same, to say which functions it must leave alone and where an optimizer's step begins and ends.
Where something does load it in earnest (torch.compile, torch.export), it hears of all that from then on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType
from typing import Any

import torch
import torch._compile

COMPILER = "torch._dynamo"


class _StandIn(ModuleType):
    """Stands where the compiler, or a part of it, would be."""

    def __init__(self, name: str, **content: Callable[..., Any]) -> None:
        super().__init__(name)
        self.__dict__.update(content)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Keep torch from loading the compiler by itself, and what is imported within the block, too.

    torch's own functions are changed for good, before any optimizer is made: they look whether there is a compiler, and
    load none. torchvision and timm find a stand-in for it within the block; what else they wanted of it would be an
    ImportError or AttributeError. Where the compiler is loaded already, nothing happens.
    """
    if COMPILER in sys.modules:
        yield
        return
    _call_uncompiled()
    _step_uncompiled()
    parts = [
        _StandIn(COMPILER, disable=_leave_alone),
        _StandIn(f"{COMPILER}.utils", is_compile_supported=_is_compile_supported),
    ]
    sys.modules.update({part.__name__: part for part in parts})
    try:
        yield
    finally:
        for part in parts:
            del sys.modules[part.__name__]


def _call_uncompiled() -> None:
    """Let what `torch._disable_dynamo` decorates be called as it is while there is no compiler.

    Each such function asks by `getattr` for what the compiler made of it, and loads the compiler when that is nothing.
    """

    def made_of(function: Any, name: str, default: Any = None) -> Any:
        return getattr(function, name, default if _compiler() else function)

    torch._compile.getattr = made_of  # type: ignore[attr-defined]  # this module alone sees it in place of the builtin


def _step_uncompiled() -> None:
    """Let the optimizers of torch.optim take their steps as they are while there is no compiler."""
    for optimizer in vars(torch.optim).values():
        if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
            step: Any = optimizer.step
            if "graph_break" in step.__code__.co_names:
                optimizer.step = _uncompiled_step(step)  # type: ignore[method-assign]


def _uncompiled_step(step: Any) -> Callable[..., Any]:
    @wraps(step.__wrapped__)
    def uncompiled_step(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
        if _compiler():
            return step(optimizer, *args, **kwargs)
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return step.__wrapped__(optimizer, *args, **kwargs)

    return uncompiled_step


def _leave_alone(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Any:
    """Do as `torch._dynamo.disable` does, as soon as there is a compiler that could do otherwise."""
    if function is None:
        return partial(_leave_alone, recursive=recursive, **options)
    called = function

    @wraps(function)
    def uncompiled_function(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        if called is function and (compiler := _compiler()):
            called = compiler.disable(function, recursive, **options)
        return called(*args, **kwargs)

    return uncompiled_function


def _compiler() -> Any | None:
    """Return the compiler if it is loaded."""
    loaded = sys.modules.get(COMPILER)
    return None if isinstance(loaded, _StandIn) else loaded


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    supported: bool = is_compile_supported(device_type)
    return supported
