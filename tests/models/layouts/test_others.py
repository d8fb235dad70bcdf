"""Tests of the layouts of torchvision, against its own code, and of MMPretrain."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torchvision.models import VisionTransformer

from gtacli import load_model
from gtacli.models.layouts import find_layout

SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3, "img_size": 32}


def test_torchvision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = VisionTransformer(224, 16, 12, 3, 192, 768, num_classes=7).eval()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    torch.save({"model": source.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    loaded = load_model(f"vit_tiny_patch16_224@{tmp_path / 'a.pth'}")
    assert loaded.report.layout == "torchvision"
    assert len(loaded.report.loaded) == 152
    assert not loaded.report.unexpected
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), source(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arch", "imagenet"),
    [
        ("vit_base_patch16_224", True),  # as published
        ("vit_base_patch16_224.augreg_in1k", False),  # as the tag says
        ("vit_tiny_patch16_224", False),  # torchvision has none; all of timm's have mean 0.5
    ],
)
def test_normalization_of_torchvision(tmp_path: Path, arch: str, imagenet: bool) -> None:
    width = 192 if "tiny" in arch else 768
    source = VisionTransformer(224, 16, 12, 3, width, width, num_classes=2)
    state = {n: v.half() for n, v in source.state_dict().items() if ".mlp." not in n}
    torch.save(state, tmp_path / "a.pth")
    loaded = load_model(f"{arch}@{tmp_path / 'a.pth'}", partial_weights=True)
    assert (loaded.mean == (0.485, 0.456, 0.406)) is imagenet


def mmpretrain(t: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    renames = (
        ("patch_embed.proj.", "patch_embed.projection."), ("blocks.", "layers."), ("norm1", "ln1"),
        ("norm2", "ln2"), ("mlp.fc1", "ffn.layers.0.0"), ("mlp.fc2", "ffn.layers.1"),
    )  # fmt: skip
    for name, value in t.items():
        if name.startswith("head."):
            out[f"head.layers.{name}"] = value
            continue
        for ours, theirs in renames:
            name = name.replace(ours, theirs)
        name = f"ln1.{name[5:]}" if name.startswith("norm.") else name
        out[f"backbone.{name}"] = value
    return out


@pytest.mark.parametrize("segmentation", [False, True])
def test_mmpretrain(segmentation: bool) -> None:
    source = timm.create_model("vit_tiny_patch16_224", num_classes=3, **SMALL).state_dict()
    published = mmpretrain(source) | {"data_preprocessor.mean": torch.zeros(3)}
    if segmentation:  # torch's own attention
        renames = {"attn.qkv.": "attn.attn.in_proj_", "attn.proj.": "attn.attn.out_proj."}
        for ours, theirs in renames.items():
            published = {n.replace(ours, theirs): v for n, v in published.items()}
    layout = find_layout(published)
    assert layout is not None
    assert layout.name == "MMPretrain"
    kept, dropped, _ = layout.convert(published)
    assert dropped == ("data_preprocessor.mean",)
    assert set(kept) == set(source)
    assert all(torch.equal(kept[n], v) for n, v in source.items())


def test_a_layout_below_a_prefix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lightning's module holds the network of another library."""
    source = VisionTransformer(224, 16, 12, 3, 192, 768, num_classes=7).state_dict()
    state = {f"net.model.{n}": v for n, v in source.items()}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    with caplog.at_level(logging.INFO):
        loaded = load_model(f"vit_tiny_patch16_224@{tmp_path / 'a.ckpt'}")
    assert loaded.report.layout == "torchvision"
    assert torch.equal(loaded.model.norm.weight, source["encoder.ln.weight"])
