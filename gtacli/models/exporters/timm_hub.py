"""The folder that timm loads as `local-dir:FOLDER`, and that is uploaded to the Hugging Face hub.

config.json        architecture, its arguments, preprocessing and classes, in timm's layout
model.safetensors  weights
README.md          the model card, for readers
attention.png      where the model looks, of a model with a CLS token
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, cast

import timm
from torch import Tensor

from gtacli.errors import UsageError
from gtacli.models.card import MULTI_LABEL
from gtacli.models.exporters.base import Export, Exporter
from gtacli.models.exporters.model_card import PICTURE, model_card
from gtacli.models.exporters.weights import (
    check_weights,
    pretrained_config,
    weights_output,
    write_weights,
)
from gtacli.models.loading import LoadedModel
from gtacli.models.pooling import reads_both
from gtacli.runtime.atomic import to_json
from gtacli.runtime.strict_json import parse_json


class TimmHub(Exporter):
    """A folder in the layout of timm's models on the hub."""

    help: ClassVar[str] = "a folder for timm (local-dir:) and the Hugging Face hub, with a card"
    suffix: ClassVar[str] = ""
    has_graph: ClassVar[bool] = False

    def check(self, model: LoadedModel) -> None:
        check_weights(model, "a folder for timm")
        if reads_both(model.model):
            text = "timm has no classifier of CLS and patches (`pool=cls+mean`); use onnx or pt2"
            raise UsageError(text, option="format")

    def write(self, export: Export, path: Path) -> None:
        model, card, network = export.model, export.card, cast(Any, export.model.model)
        config = {
            "architecture": model.architecture,
            "num_classes": len(card.classes),
            "num_features": network.num_features,
            "global_pool": network.global_pool,
            "label_names": list(card.classes),
            "model_args": {**(model.kwargs or {}), "img_size": list(card.image_size)},
            "pretrained_cfg": pretrained_config(model, card),
            **({"problem_type": MULTI_LABEL} if card.multi_label else {}),
        }
        write_weights(export, path / "model.safetensors")
        (path / "config.json").write_text(to_json(config, indent=2) + "\n", encoding="utf-8")
        (path / "README.md").write_text(model_card(export), encoding="utf-8")
        if export.facts.picture is not None:
            (path / PICTURE).write_bytes(export.facts.picture)

    def run(self, path: Path, images: Tensor) -> tuple[Tensor, ...]:
        model = timm.create_model(f"local-dir:{path}", pretrained=True)
        config = parse_json((path / "config.json").read_bytes())
        return (weights_output(model, images, config.get("problem_type") == MULTI_LABEL),)
