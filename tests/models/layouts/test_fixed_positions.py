"""Tests that MoCo-v3 is told apart from MAE by its fixed positions, and gets its 12 heads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from gtacli import load_model
from gtacli.models.layouts import find_layout
from gtacli.models.metadata import model_metadata
from gtacli.models.patches import sincos_positions
from gtacli.runtime.run_folder import RunFolder


def moco_positions(grid: tuple[int, int], width: int) -> Tensor:
    """Return the table of moco-v3/vits.py (there with a meshgrid whose first axis is `w`)."""
    w, h = torch.meshgrid(
        torch.arange(grid[0], dtype=torch.float32), torch.arange(grid[1], dtype=torch.float32),
        indexing="ij",
    )  # fmt: skip
    omega = 1.0 / (10000.0 ** (torch.arange(width // 4, dtype=torch.float32) / (width // 4)))
    ws, hs = (torch.einsum("m,d->md", axis.flatten(), omega) for axis in (w, h))
    return torch.cat([ws.sin(), ws.cos(), hs.sin(), hs.cos()], dim=1)


def with_class(table: Tensor) -> Tensor:
    return torch.cat((torch.zeros(1, table.shape[1]), table))[None]


def backbone(arch: str, positions: Tensor) -> dict[str, Tensor]:
    state = timm.create_model(arch, num_classes=0).state_dict()
    return {**state, "pos_embed": positions}


@pytest.mark.parametrize("grid", [(14, 14), (4, 9), (9, 4), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_order_of_rows_and_columns(grid: tuple[int, int], dtype: torch.dtype) -> None:
    tables = {
        "MoCo-v3": moco_positions(grid, 96), "MAE encoder": sincos_positions(grid, 96),
    }  # fmt: skip
    assert not torch.allclose(*tables.values())
    for name, table in tables.items():
        tensors = {"pos_embed": with_class(table).to(dtype), "cls_token": torch.zeros(1, 1, 96)}
        names = ("norm.weight", "blocks.0.norm1.weight", "patch_embed.proj.weight")
        tensors |= {n: torch.ones(96) for n in names}
        found = find_layout(tensors)
        assert found is not None
        assert found.name == name
        learned = {**tensors, "pos_embed": torch.randn(1, table.shape[0] + 1, 96)}
        assert find_layout(learned) is None


@pytest.mark.parametrize("table", ["mae", "moco"])
def test_the_small_network_of_moco_has_12_heads(tmp_path: Path, table: str) -> None:
    arch, grid = "vit_small_patch16_224", (14, 14)
    positions = sincos_positions(grid, 384) if table == "mae" else moco_positions(grid, 384)
    heads = 12 if table == "moco" else 6
    state = backbone(arch, with_class(positions))
    torch.save(state, tmp_path / "a.pth")
    loaded = load_model(f"{arch}@{tmp_path / 'a.pth'}")
    assert loaded.model.blocks[0].attn.num_heads == heads
    assert loaded.mean == (0.485, 0.456, 0.406)
    source = timm.create_model(arch, num_classes=0, num_heads=heads).eval()
    source.load_state_dict(state)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), source(x))
    # Saved as by a run.
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    metadata = model_metadata(loaded, ())
    assert json.loads(metadata["kwargs"]) == ({"num_heads": 12} if table == "moco" else {})
    run.write_model(loaded.model, metadata)
    assert load_model(str(run.path)).model.blocks[0].attn.num_heads == heads


def test_a_training_checkpoint_of_moco(tmp_path: Path) -> None:
    """Its base encoder, without the projector in the place of the classifier."""
    state = backbone("vit_small_patch16_224", with_class(moco_positions((14, 14), 384)))
    whole = {f"module.momentum_encoder.{n}": torch.zeros_like(v) for n, v in state.items()}
    whole |= {f"module.base_encoder.{n}": v for n, v in state.items()}
    whole |= {f"module.base_encoder.head.{i}.weight": torch.zeros(8, 8) for i in (0, 3, 6)}
    whole |= {f"module.predictor.{i}.weight": torch.zeros(8, 8) for i in (0, 3)}
    torch.save({"arch": "vit_small", "state_dict": whole}, tmp_path / "vit-s-300ep.pth.tar")
    loaded = load_model(f"vit_small_patch16_224@{tmp_path / 'vit-s-300ep.pth.tar'}")
    assert loaded.report.layout == "MoCo-v3"
    assert len(loaded.report.dropped) == 5
    assert torch.equal(loaded.model.norm.weight, state["norm.weight"])
    assert loaded.model.blocks[0].attn.num_heads == 12
