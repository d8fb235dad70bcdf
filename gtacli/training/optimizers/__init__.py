"""Optimizers of training runs, one class per method; timm's others need no part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.training.optimizers.base import OptimizerMethod

__all__ = ["OptimizerMethod"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: the command line reads options of optimizers without torch.
    if name in __all__:
        from gtacli.training.optimizers import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
