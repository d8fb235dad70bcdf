"""Models: load a ViT with its preprocessing from a spec, and extract its attention."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel, load_model
    from gtacli.models.specs import ModelFamily, ModelProvider
    from gtacli.models.tap import Request, Tap, TapOutputs, TappedViT, attention
    from gtacli.models.weights import LoadReport

_WHERE = {
    "LoadReport": "weights",
    "LoadedModel": "loading",
    "ModelFamily": "specs",
    "ModelProvider": "specs",
    "Request": "tap",
    "Tap": "tap",
    "TapOutputs": "tap",
    "TappedViT": "tap",
    "attention": "tap",
    "load_model": "loading",
}
__all__ = [
    "LoadReport",
    "LoadedModel",
    "ModelFamily",
    "ModelProvider",
    "Request",
    "Tap",
    "TapOutputs",
    "TappedViT",
    "attention",
    "load_model",
]


def __getattr__(name: str) -> Any:
    # On demand: a process that only decodes images does not need timm.
    if name in _WHERE:
        return getattr(import_module(f"gtacli.models.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
