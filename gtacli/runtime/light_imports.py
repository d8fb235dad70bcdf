"""An import of timm and torchvision that leaves torch's compiler out until something compiles.

Both import `torch._dynamo` for one decorator and one question each, and with it inductor, sympy and
FSDP: 2 of the 5 seconds of CPU time that it takes to import torch and timm. Nothing here replaces
what they do. The decorator and the question import the compiler at their first call, and any other
name that a later release asks for is the compiler's own: then only the time is lost.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

PACKAGES = ("timm", "torchvision")
_UTILS = "torch._dynamo.utils"


def import_lightly() -> None:
    """Let the first import of timm and torchvision, whoever asks for it, leave the compiler out."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """A finder of the two packages that changes how their first lines run, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in PACKAGES or _UTILS in sys.modules:
            return None  # not of them, or within one of them, or the compiler is there already
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            run = partial(_run, spec.loader.exec_module)
            spec.loader.exec_module = run  # type: ignore[method-assign]
        return spec


def _run(exec_module: Callable[[ModuleType], None], module: ModuleType) -> None:
    with compiler_left_out():
        exec_module(module)


@contextmanager
def compiler_left_out() -> Iterator[None]:
    """Import torch without its compiler, and leave it out of what is imported in this block."""
    import torch
    import torch.compiler

    if _UTILS in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    torch.compiler.disable = _disable_at_first_call
    sys.modules[_UTILS] = _Utils(_UTILS)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        _remove()


def _disable_at_first_call(fn: Any = None, recursive: bool = True, **options: Any) -> Any:
    """Do as `torch.compiler.disable`, by the form of it that torch uses within itself."""
    from torch._compile import _disable_dynamo

    return _disable_dynamo(fn, recursive)


class _Utils(ModuleType):
    """A stand-in for `torch._dynamo.utils`: names are functions that ask the real one."""

    @staticmethod
    def is_compile_supported(device_type: str) -> Any:
        """Ask the real module."""
        return importlib.import_module(_UTILS).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        _remove()
        return getattr(importlib.import_module(_UTILS), name)


def _remove() -> None:
    """Make room for the real module."""
    if isinstance(sys.modules.get(_UTILS), _Utils):
        del sys.modules[_UTILS]
