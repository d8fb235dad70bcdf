"""Experiment loggers, which follow a run in another program; one class each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.training.loggers.base import RunLogger

__all__ = ["RunLogger"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: the command line reads options of loggers without torch.
    if name in __all__:
        from gtacli.training.loggers import base

        return getattr(base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
