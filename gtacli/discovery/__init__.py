"""Object discovery: maps, masks and boxes of objects from a pre-trained ViT, without labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.discovery.base import Discovery, ObjectMaps
    from gtacli.discovery.bipartition import NormalizedCut
    from gtacli.discovery.ncut import normalized_cut

_WHERE = {
    "Discovery": "base",
    "NormalizedCut": "bipartition",
    "ObjectMaps": "base",
    "normalized_cut": "ncut",
}
__all__ = ["Discovery", "NormalizedCut", "ObjectMaps", "normalized_cut"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: the command line reads the options of the parts without torch.
    if name in _WHERE:
        return getattr(import_module(f"gtacli.discovery.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
