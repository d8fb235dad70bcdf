"""Models: from a spec to a ViT with its preprocessing, and the attention tap."""

from gtacli.models.loading import LoadedModel, ModelProvider, load_model
from gtacli.models.tap import Reading, Request, Tap, TappedViT, attention
from gtacli.models.weights import LoadReport

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
