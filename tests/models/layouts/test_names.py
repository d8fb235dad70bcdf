"""Tests of layouts with the true names and shapes of published checkpoints.

published.json was written from the original code (`from`): its networks' own names and shapes, two
blocks deep (the chunked one keeps two of twelve), the text towers but for a few names left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gtacli.models.layouts import LAYOUTS, find_layout

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())


def tensors_of(entry: dict[str, Any]) -> dict[str, torch.Tensor]:
    tensors = {n: torch.ones(()).expand(shape) for n, shape in entry["tensors"].items()}
    if "rope_embed.periods" in tensors:
        count = len(tensors["rope_embed.periods"])
        tensors["rope_embed.periods"] = 100.0 ** (torch.arange(count) / count)
    for name in list(tensors):
        if name.endswith("bias_mask"):
            mask = torch.ones(tensors[name].shape)
            mask.view(3, -1)[1] = 0
            tensors[name] = mask
    return tensors


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda e: e["from"])
def test_published_layouts_are_recognized_and_fit(
    entry: dict[str, Any],
) -> None:
    tensors = tensors_of(entry)
    fitting = [layout.name for layout in LAYOUTS if layout.fits(tensors, entry["part"])]
    assert fitting == ([] if entry["layout"] is None else [entry["layout"]])
    layout = find_layout(tensors, entry["part"])
    if layout is None:
        return
    kept, dropped, kwargs = layout.convert(tensors)
    assert set(dropped) <= set(tensors)
    with torch.device("meta"):
        depth = 2 if "chunks" not in entry["from"] else 12
        model = timm.create_model(entry["architecture"], depth=depth, num_classes=10, **kwargs)
    own = {n: tuple(v.shape) for n, v in model.state_dict().items()}
    own = {n: s for n, s in own.items() if not n.startswith("blocks.") or int(n.split(".")[1]) < 2}
    heads = ("head.", "head_dist.")
    assert {n: tuple(v.shape) for n, v in kept.items() if not n.startswith(heads)} == {
        n: s for n, s in own.items() if not n.startswith(heads)
    }
    for name in ("head.weight", "head_dist.weight"):
        if name in kept:
            assert kept[name].shape[1] == own[name][1]


@pytest.mark.parametrize(
    "arch",
    [
        "vit_tiny_patch16_224",
        "deit_tiny_patch16_224",
        "vit_small_patch14_reg4_dinov2",
        "vit_base_patch16_clip_224",
        "vit_base_patch16_siglip_224",
        "vit_small_patch16_dinov3_qkvb",
        "deit3_small_patch16_224",
        "eva02_tiny_patch14_224",
        "beit3_base_patch16_224",
        "eva_large_patch14_196",
        "vit_small_patch16_rope_ape_224",
        "vit_pe_core_tiny_patch16_384",
        "vit_medium_patch16_gap_240",
        "vit_so150m_patch16_reg4_gap_256",
    ],
)
def test_timms_own_files_are_not_converted(arch: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(arch, depth=1)
    names = {n: torch.ones(()).expand(v.shape) for n, v in model.state_dict().items()}
    assert find_layout(names) is None


def test_mae_encoder_is_recognized_by_fixed_positions() -> None:
    names = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=0).state_dict()
    assert find_layout(names) is None
    # mae/util/pos_embed.py: half the width for each axis, in it the sines before the cosines.
    angles = torch.outer(torch.arange(14.0), 10000 ** -(torch.arange(48) / 48))
    axis = torch.cat((angles.sin(), angles.cos()), 1)
    grid = torch.cat((axis.repeat(14, 1), axis.repeat_interleave(14, 0)), 1)
    names["pos_embed"] = torch.cat((torch.zeros(1, 1, 192), grid[None]), 1)
    layout = find_layout(names)
    assert layout is not None
    assert layout.name == "MAE encoder"
    assert layout.imagenet
    assert find_layout({**names, "head.weight": torch.zeros(3, 192)}) is None


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_every_tensor_is_kept_or_reported_as_dropped(data: st.DataObject) -> None:
    """Any subset of a published file: names are renamed one to one, q, k, v three to one."""
    entry = data.draw(st.sampled_from(PUBLISHED))
    gone = data.draw(st.sets(st.sampled_from(sorted(entry["tensors"])), max_size=3))
    tensors = {n: v for n, v in tensors_of(entry).items() if n not in gone}
    layout = find_layout(tensors, entry["part"])
    if layout is not None and not layout.steps:
        kept, dropped, _ = layout.convert(tensors)
        assert len(kept) + len(dropped) == len(tensors)
        assert len(set(dropped)) == len(dropped)
