"""Tests that a model for any image size equals one created for that size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gtacli import attention, load_model

FAMILIES = {
    "vit_tiny_patch16_224": 16,  # AugReg, DINO and MAE
    "deit_tiny_distilled_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch14_reg4_dinov2": 14,
    "vit_small_patch16_dinov3": 16,
    "eva02_tiny_patch14_224": 14,
    "vit_small_patch16_rope_mixed_224": 16,
    "vit_base_patch32_clip_224": 32,
}


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (patch == 32))
        for name, patch in FAMILIES.items()
    ],
)
def test_attention_at_another_size_and_shape(architecture: str, tmp_path: Path) -> None:
    patch = FAMILIES[architecture]
    size = (3 * patch, 5 * patch)
    torch.manual_seed(0)
    trained = load_model(f"{architecture}@none", num_classes=0, image_size=4 * patch).model
    weights = {k: torch.randn_like(v) * 0.1 + v for k, v in trained.state_dict().items()}
    save_file(weights, tmp_path / "weights.safetensors")
    spec = f"{architecture}@{tmp_path / 'weights.safetensors'}"
    fixed = load_model(spec, image_size=size)
    free = load_model(spec, image_size=4 * patch, any_size=True)
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = attention(fixed.model, images, "all")
        found = attention(free.model, images, "all")
    assert found[0].grid == (3, 5)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.maps(), other.maps(), atol=1e-5)
    varied = expected[0].maps()
    assert (varied - varied.mean((-2, -1), keepdim=True)).abs().max() > 1e-3
