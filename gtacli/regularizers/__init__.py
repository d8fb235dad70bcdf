"""Regularizers that keep a fine-tuned network close to its source, one formula per class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.regularizers.base import Needs, Regularizer, StepOutputs

__all__ = ["Needs", "Regularizer", "StepOutputs"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: the command line reads the options beside this file without torch.
    if name in __all__:
        from gtacli.regularizers import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
