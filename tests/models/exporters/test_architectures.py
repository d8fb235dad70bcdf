"""Exported graphs of timm's families of ViTs, each at two sizes, against PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from gtacli.models.exporters import Export
from gtacli.models.exporters.card import ExportCard
from gtacli.models.exporters.graph import ExportGraph, trace
from gtacli.models.exporters.onnx_file import Onnx
from gtacli.models.exporters.pt2 import Pt2
from gtacli.models.registers import Registers, add_registers
from gtacli.models.tap import has_cls
from gtacli.testing.inputs import drawn_images, loaded

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 7}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "cls": ("vit_tiny_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "layer scale": ("deit3_small_patch16_224", {}),
    "rope": ("eva02_tiny_patch14_224", {"patch_size": 16}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
    "mixed rope": ("vit_small_patch16_rope_mixed_224", {}),
    "gap": ("vit_medium_patch16_gap_256", {}),
    "registers and gap": ("vit_little_patch16_reg4_gap_256", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "clip": ("vit_base_patch16_clip_224", {}),
    "beit3": ("beit3_base_patch16_224", {}),
    "large patches": ("vit_base_patch32_224", {}),
    "test-time registers": ("vit_tiny_patch16_224", {}),
}
QUICK = ("registers", "siglip")
SIZES = ((64, 64), (32, 96))  # the second with a grid that is not square
CASES = [
    pytest.param(name, size, id=f"{name}-{size[0]}x{size[1]}",
                 marks=[] if name in QUICK and size == SIZES[1] else pytest.mark.slow)
    for name in ARCHITECTURES for size in SIZES
]  # fmt: skip


def network(name: str, size: tuple[int, int]) -> nn.Module:
    """Return a small network whose attention and classes depend on the image."""
    architecture, changes = ARCHITECTURES[name]
    torch.manual_seed(0)
    kwargs = {**SMALL, **changes, "img_size": size}
    model = timm.create_model(architecture, pretrained=False, **kwargs)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif "gamma" in key:  # of LayerScale, which begins near 0
                parameter.fill_(1)
    if name == "test-time registers":
        add_registers(model, Registers({0: (1, 5), 1: (0,)}, tokens=2))
    return model.eval()


@pytest.mark.parametrize(("name", "size"), CASES)
def test_the_file_computes_what_pytorch_does(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    model = network(name, size)
    shown = replace(loaded(model, size), architecture=ARCHITECTURES[name][0])
    outputs: Any = ("probabilities", "attention", "box", "embedding")
    card = ExportCard(
        outputs=outputs if has_cls(model) else ("probabilities", "embedding"),
        image_size=size,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        crop_pct=1.0,
        features="cls" if has_cls(model) else "mean",
    )
    graph = ExportGraph(shown, card)
    export = Export(shown, card, trace(graph, drawn_images(2, size)))
    images = drawn_images(3, size, seed=1)
    with torch.no_grad():
        wanted = dict(zip(card.outputs, graph(images), strict=True))
        assert torch.allclose(wanted["probabilities"], model(images).softmax(-1), atol=1e-5)
    assert wanted["probabilities"].std(0).max() > 1e-3  # images matter
    if "attention" in wanted:
        assert wanted["attention"].std(0).max() > 1e-3
    for exporter in (Onnx(), Pt2()):
        path = tmp_path / f"model{exporter.suffix}"
        exporter.write(export, path)
        found = dict(zip(card.outputs, exporter.run(path, images), strict=True))
        for output, value in wanted.items():
            difference = (found[output] - value).abs().max().item()
            print(name, size, exporter.suffix, output, f"{difference:.1e}")
            assert difference <= (1e-4 if output in ("probabilities", "attention") else 1e-3)
