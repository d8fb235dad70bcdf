"""Tests of resized position embeddings against the publishers' code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from gtacli import attention, load_model
from gtacli.models.positions import resize

TINY = "vit_tiny_patch16_224"


def dinos(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Resize as `interpolate_pos_encoding` of facebookresearch/dino does, line by line."""
    n = positions.shape[1] - 1
    side = int(n**0.5)
    w0, h0 = rows + 0.1, columns + 0.1
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = (w0 / n**0.5, h0 / n**0.5)
    grid = nn.functional.interpolate(grid, scale_factor=factor, mode="bicubic")
    assert grid.shape[-2:] == (rows, columns)
    flat = grid.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)
    return torch.cat((positions[:, :1], flat), dim=1)


@pytest.mark.parametrize("grid", [(30, 30), (7, 7), (20, 11), (60, 60), (5, 90)])
def test_resize_equals_dinos_code(grid: tuple[int, int]) -> None:
    positions = torch.randn(1, 1 + 14 * 14, 6)
    assert torch.equal(resize(positions, grid, (14, 14), 1, "dino"), dinos(positions, *grid))
    timms = resize(positions, grid, (14, 14), 1, "timm")
    assert torch.equal(timms, resample_abs_pos_embed(positions, list(grid), [14, 14]))
    assert not torch.allclose(timms, dinos(positions, *grid), atol=1e-2)


def test_resize_to_the_same_grid_changes_nothing() -> None:
    positions = torch.randn(1, 1 + 14 * 14, 6)
    assert torch.equal(resize(positions, (14, 14), (14, 14), 1, "dino"), positions)


def saved(folder: Path, as_dino: bool) -> tuple[str, dict[str, Tensor]]:
    """Write random weights for 64 pixels with timm's names, or as DINO's training does."""
    torch.manual_seed(0)
    model = load_model(f"{TINY}@none", num_classes=0, image_size=64).model
    weights = {k: torch.randn_like(v) * 0.1 + v for k, v in model.state_dict().items()}
    stored = {f"backbone.{k}": v for k, v in weights.items()} if as_dino else dict(weights)
    if as_dino:
        stored["head.mlp.0.weight"] = torch.zeros(1)
    save_file(stored, folder / "weights.safetensors")
    return f"{TINY}@{folder / 'weights.safetensors'}", weights


@pytest.mark.parametrize("any_size", [False, True])
@pytest.mark.parametrize("as_dino", [False, True])
def test_resize_method_of_a_model(tmp_path: Path, as_dino: bool, any_size: bool) -> None:
    spec, weights = saved(tmp_path, as_dino)
    at = {"image_size": 64, "any_size": True} if any_size else {"image_size": (96, 160)}
    model = load_model(spec, **at).model  # type: ignore[arg-type]
    expected = load_model(f"{TINY}@none", num_classes=0, image_size=(96, 160)).model
    old = weights["pos_embed"]
    new = dinos(old, 6, 10) if as_dino else resample_abs_pos_embed(old, [6, 10], [4, 4])
    expected.load_state_dict({**weights, "pos_embed": new})
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        (found,), (true,) = attention(model, images), attention(expected, images)
    assert torch.allclose(found.maps(), true.maps(), atol=1e-6)
