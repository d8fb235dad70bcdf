"""Exporters: a trained model in the format of another program. A registry group."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.models.exporters.base import Export, Exporter
    from gtacli.models.exporters.card import ExportCard

_WHERE = {"Export": "base", "ExportCard": "card", "Exporter": "base"}
__all__ = ["Export", "ExportCard", "Exporter"]


def __getattr__(name: str) -> Any:
    # On demand: a process that only runs an exported file needs no torch.
    if name in _WHERE:
        return getattr(import_module(f"gtacli.models.exporters.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
