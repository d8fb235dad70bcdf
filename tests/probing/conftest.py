"""Fixtures: small images in folders of classes, and a small ViT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

TINY: dict[str, Any] = {
    "embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8,
}  # fmt: skip


def write_photo(path: Path, seed: int, size: tuple[int, int] = (40, 48), tint: int = 0) -> Path:
    """Write noise that is brighter in the color channel `tint` modulo 3."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 120, (*size, 3))
    pixels[..., tint % 3] += 130
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture
def small_vit(tmp_path: Path) -> Callable[..., str]:
    """Return a function of a seed that returns the spec of a small ViT with random weights."""

    def make(seed: int = 0, spoil: float | None = None) -> str:
        torch.manual_seed(seed)
        arch = "vit_tiny_patch16_224"
        model = timm.create_model(arch, num_classes=3, **TINY)
        if spoil is not None:
            model.state_dict()["blocks.1.mlp.fc1.weight"].fill_(spoil)
        folder = tmp_path / f"model-{seed}-{spoil}"
        folder.mkdir(exist_ok=True)
        metadata = {"architecture": arch, "kwargs": json.dumps(TINY), "num_classes": "3"}
        save_file(model.state_dict(), folder / "model.safetensors", metadata)
        return str(folder)

    return make


@pytest.fixture
def class_folders(tmp_path: Path) -> Callable[..., Path]:
    """Return a function like `class_folders(train=5, test=3)`, with images per class and split."""

    def make(name: str = "photos", **counts: int) -> Path:
        for split, count in counts.items():
            for label, kind in enumerate(("blue", "green", "red")):
                for i in range(count):  # every folder has the same file names
                    seed = hash((len(split), label, i)) % 2**31
                    write_photo(tmp_path / name / split / kind / f"{i}.png", seed, tint=label)
        return tmp_path / name

    return make
