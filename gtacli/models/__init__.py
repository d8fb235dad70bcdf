"""Models: from a spec to a ViT with its preprocessing, and the attention tap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel, load_model
    from gtacli.models.specs import ModelProvider
    from gtacli.models.tap import Reading, Request, Tap, TappedViT, attention
    from gtacli.models.weights import LoadReport

_WHERE = {
    "LoadReport": "weights",
    "LoadedModel": "loading",
    "ModelProvider": "specs",
    "Reading": "tap",
    "Request": "tap",
    "Tap": "tap",
    "TappedViT": "tap",
    "attention": "tap",
    "load_model": "loading",
}
__all__ = [
    "LoadReport",
    "LoadedModel",
    "ModelProvider",
    "Reading",
    "Request",
    "Tap",
    "TappedViT",
    "attention",
    "load_model",
]


def __getattr__(name: str) -> Any:
    # On demand: a process that only decodes images needs no timm.
    if name in _WHERE:
        return getattr(import_module(f"gtacli.models.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
