"""A small model in the layout of transformers, on which `gta plugins check` tries the family."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

WIDTH, HIDDEN, DEPTH, PATCH, IMAGE, CLASSES = 24, 48, 2, 8, 32, 5


def write_example_model(folder: Path) -> None:
    """Write config.json and model.safetensors of a ViT with random weights."""
    config = {
        "model_type": "vit",
        "hidden_size": WIDTH,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": 3,
        "intermediate_size": HIDDEN,
        "patch_size": PATCH,
        "image_size": IMAGE,
        "id2label": {str(number): f"class {number}" for number in range(CLASSES)},
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, WIDTH),
        "vit.embeddings.position_embeddings": (1, (IMAGE // PATCH) ** 2 + 1, WIDTH),
        "vit.embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "vit.layernorm.weight": (WIDTH,),
        "vit.layernorm.bias": (WIDTH,),
        "classifier.weight": (CLASSES, WIDTH),
        "classifier.bias": (CLASSES,),
    }
    for number in range(DEPTH):
        layer = f"vit.encoder.layer.{number}"
        layers = {
            "attention.attention.query": (WIDTH, WIDTH),
            "attention.attention.key": (WIDTH, WIDTH),
            "attention.attention.value": (WIDTH, WIDTH),
            "attention.output.dense": (WIDTH, WIDTH),
            "intermediate.dense": (HIDDEN, WIDTH),
            "output.dense": (WIDTH, HIDDEN),
        }
        for name, shape in layers.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[:1]
        for name in ("layernorm_before", "layernorm_after"):
            shapes[f"{layer}.{name}.weight"] = shapes[f"{layer}.{name}.bias"] = (WIDTH,)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
