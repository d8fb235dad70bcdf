"""The demo's source model: a small ViT in half precision that the package contains.

It was trained on `demo-source`, creatures that are no classes of the demo, so that `gta finetune`
without arguments transfers to new classes without a download. The recipe `demo-source` trains it
again, and docs/scripts/demo_model.py converts such a run to the file. Its metadata contain the
recipe, the seed, the digest of the drawing code and the accuracy.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from gtacli.models.files import read_weights
from gtacli.models.specs import ModelProvider
from gtacli.models.weights import Weights

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
    """The demo's source model."""

    help: ClassVar[str] = "the demo's source model: a small pre-trained ViT, built in"

    def weights(self) -> Weights:
        tensors, metadata = read_weights(WEIGHTS)
        full = {name: tensor.float() for name, tensor in tensors.items()}
        return Weights(ARCHITECTURE, full, metadata, "the demo's source model", KWARGS)
