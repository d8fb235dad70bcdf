"""Weights in one safetensors file, with a header from which `gtacli.load_model` builds the network.

Every command takes it as `ARCH@FILE`; programs that know timm read it with `safetensors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models.exporters.base import Export, Exporter
from gtacli.models.exporters.card import ExportCard
from gtacli.models.feature_columns import PooledFeatures, select_columns
from gtacli.models.loading import LoadedModel, load_model
from gtacli.models.metadata import model_metadata
from gtacli.models.registers import registers_of


class Safetensors(Exporter):
    """A safetensors file by timm's names."""

    help: ClassVar[str] = "the weights by timm's names; classes and preprocessing in the header"
    suffix: ClassVar[str] = ".safetensors"
    has_graph: ClassVar[bool] = False

    def check(self, model: LoadedModel) -> None:
        check_weights(model, "a safetensors file")

    def write(self, export: Export, path: Path) -> None:
        write_weights(export, path)

    def run(self, path: Path, images: Tensor) -> tuple[Tensor, ...]:
        with safe_open(path, "pt") as file:
            architecture = (file.metadata() or {})["architecture"]
        model = load_model(f"{architecture}@{path}")
        return (weights_output(model.model, images, model.multi_label),)


def check_weights(model: LoadedModel, what: str) -> None:
    """Raise UsageError for a network that weights alone do not describe."""
    if registers_of(model.model) is not None:
        text = f"{what} holds no test-time registers; onnx and pt2 do"
        raise UsageError(text, option="registers")


def write_weights(export: Export, path: Path) -> None:
    """Write the weights of a model with its header."""
    tensors = {name: value.contiguous() for name, value in export.model.model.state_dict().items()}
    path.touch()
    mode = path.stat().st_mode & 0o777
    save_file(tensors, path, model_metadata(export.model, export.card.classes))
    path.chmod(mode)  # safetensors makes a private file of its own


def weights_output(model: nn.Module, images: Tensor, multi_label: bool = False) -> Tensor:
    """Return the only output of a network without a graph: see `Exporter.has_graph`."""
    with torch.no_grad():
        if cast(Any, model).num_classes:
            logits = cast(Tensor, model.eval()(images))
            return logits.sigmoid() if multi_label else logits.softmax(-1)
        features = "mean" if getattr(model, "cls_token", None) is None else "cls"
        (found,) = PooledFeatures(model.eval(), select_columns(model, features))(images)
        return cast(Tensor, found)


def pretrained_config(model: LoadedModel, card: ExportCard) -> dict[str, Any]:
    """Return the part of timm's config.json about inputs and classes."""
    own = cast(Any, model.model).pretrained_cfg
    return {
        "input_size": [3, *card.image_size],
        "fixed_input_size": True,
        "interpolation": card.interpolation,
        "crop_pct": card.crop_pct,
        "crop_mode": "center",
        "mean": list(card.mean),
        "std": list(card.std),
        "num_classes": len(card.classes),
        "first_conv": own.get("first_conv", "patch_embed.proj"),
        "classifier": own.get("classifier", "head"),
        "custom_load": False,
    }
