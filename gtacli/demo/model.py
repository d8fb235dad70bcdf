"""The demo's source model: a small ViT that comes with the package, in half precision.

It learned families of creatures that the demo's own classes have no part in (`demo-source`), so
that `gta finetune` without arguments transfers to something new, without a download. The recipe
`demo-source` trains it again; docs/demo_model.py makes the file of such a run. Its metadata says
how it came to be: recipe, seed, the drawing's digest, accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from gtacli.models.specs import ModelProvider, Weights
from gtacli.models.weights import read_weights

WEIGHTS = Path(__file__).with_suffix(".safetensors")
ARCHITECTURE = "vit_tiny_patch16_224"
KWARGS = {"img_size": 96, "patch_size": 12, "embed_dim": 128, "depth": 6, "num_heads": 4}


class Untrained(ModelProvider):
    """The demo's architecture with random weights."""

    help: ClassVar[str] = "the demo's architecture with random weights"
    pretrained: ClassVar[bool] = False

    def weights(self) -> Weights:
        return Weights(ARCHITECTURE, None, {}, "demo-untrained", KWARGS)


class DemoModel(ModelProvider):
    """The demo's source."""

    help: ClassVar[str] = "the demo's source: a small ViT, pre-trained, built in"

    def weights(self) -> Weights:
        tensors, metadata = read_weights(WEIGHTS)
        full = {name: tensor.float() for name, tensor in tensors.items()}
        return Weights(ARCHITECTURE, full, metadata, "the demo's source model", KWARGS)
