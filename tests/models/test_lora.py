"""Tests of low-rank adapters: the layer against autograd, the merge against timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.errors import UsageError
from gtacli.models.lora import (
    AdaptedLinear,
    adapted_layers,
    add_adapters,
    default_rank,
    merge_adapters,
    merged_state,
)
from gtacli.models.tap import Request, TappedViT

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}
EVA = {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 32, "patch_size": 8}
MODELS = {
    "vit_tiny_patch16_224": TINY,
    "eva02_tiny_patch14_224": EVA,  # q, k and v apart, SwiGLU
    "eva_giant_patch14_224": EVA,  # a joint projection, whose weights are read past its forward
}


def build(name: str = "vit_tiny_patch16_224") -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **MODELS[name]).eval()
    nn.init.normal_(model.head.weight)  # eva's are nearly zero
    return model


def moved(name: str = "vit_tiny_patch16_224", rank: int = 2) -> nn.Module:
    """Return a network whose adapters are not zero."""
    model = build(name)
    add_adapters(model, rank, 0)
    for _, layer in adapted_layers(model):
        nn.init.normal_(layer.lora_B, std=0.1)
    return model


def linear(x: Tensor, layer: AdaptedLinear) -> Tensor:
    """Return the layer's output in peft's order of operations."""
    low = F.linear(F.linear(x, layer.lora_A), layer.lora_B)
    return F.linear(x, layer.base, layer.bias) + layer.scaling * low


@pytest.mark.parametrize("bias", [True, False])
def test_layer_and_its_gradients(bias: bool) -> None:
    torch.manual_seed(1)
    layer = AdaptedLinear(nn.Linear(7, 5, bias=bias), 3, 12.0).double()
    layer.base.requires_grad_(False)
    nn.init.normal_(layer.lora_B)
    assert layer.scaling == 4
    x = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    wrt = [x, *(p for p in layer.parameters() if p.requires_grad)]
    outputs = layer(x), linear(x, layer)
    torch.testing.assert_close(*outputs)
    loss = torch.randn_like(outputs[0])
    for ours, theirs in zip(
        *(torch.autograd.grad((o * loss).sum(), wrt) for o in outputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradcheck(layer, x)


def test_frozen_parts_get_no_gradient_and_low_precision_works() -> None:
    layer = AdaptedLinear(nn.Linear(8, 6), 2, 4.0)
    layer.base.requires_grad_(False)
    layer.lora_A.requires_grad_(False)
    nn.init.normal_(layer.lora_B)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.ones(3, 8))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), linear(torch.ones(3, 8), layer), rtol=0.02, atol=0.02)
    y.float().sum().backward()
    assert layer.lora_B.grad is not None
    assert layer.lora_B.grad.dtype == torch.float32
    assert layer.base.grad is None
    assert layer.lora_A.grad is None


@pytest.mark.parametrize("name", MODELS)
def test_new_adapters_change_nothing_and_merged_ones_compute_the_same(name: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    model, plain = build(name), build(name)
    add_adapters(model, 2, 0)
    assert torch.equal(model(x), plain(x))
    model = moved(name)
    assert (model(x) - plain(x)).abs().max() > 1e-3
    tapped = TappedViT(model, Request((0, 2)))
    rows = tapped(x).row
    plain.load_state_dict(merged_state(model))  # strictly: timm's own names
    torch.testing.assert_close(plain(x), model(x), rtol=1e-5, atol=1e-5)
    alone = TappedViT(plain, Request((0, 2), output=False))(x).row
    short = TappedViT(model, Request((0, 2), output=False))(x).row  # projects the CLS token only
    for each in (rows, short):
        torch.testing.assert_close(each, alone, rtol=1e-5, atol=1e-5)
    before = model(x)
    merge_adapters(model)
    assert not list(adapted_layers(model))
    torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva_giant_patch14_224"])
def test_checkpointing_gives_the_same_gradients(name: str) -> None:
    x = torch.randn(2, 3, 32, 32)

    def gradients(prepare: Callable[[Any], None]) -> dict[str, Tensor]:
        model = moved(name)
        prepare(model)
        tapped = TappedViT(model, Request((1,)))
        outputs = tapped(x)
        assert outputs.logits is not None
        (outputs.logits.square().sum() + outputs.row[0].square().sum()).backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    plain = gradients(lambda m: None)
    again = gradients(lambda m: m.set_grad_checkpointing())
    assert plain.keys() == again.keys()
    assert any("lora_A" in n for n in plain)
    for n in plain:
        torch.testing.assert_close(again[n], plain[n], rtol=1e-5, atol=1e-6)


def test_draws_follow_from_the_seed_alone() -> None:
    models = [build() for _ in range(3)]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        add_adapters(model, 2, seed)
        torch.rand(5)
    first, same, other = ([m.lora_A for _, m in adapted_layers(x)] for x in models)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    torch.set_rng_state(state)
    add_adapters(build(), 2, 0)
    torch.set_rng_state(state)
    drawn = torch.rand(3)
    torch.set_rng_state(state)
    for _, layer in adapted_layers(models[0]):  # bounds of Kaiming-uniform with a = sqrt(5)
        assert layer.lora_A.abs().max() <= layer.in_features**-0.5
        assert layer.lora_A.std() > 0.4 * layer.in_features**-0.5
    assert torch.equal(torch.rand(3), drawn)


def test_half_squares() -> None:
    for _, layer in adapted_layers(moved(rank=3)):
        expected = 0.5 * (layer.weight - layer.base).square().sum()
        torch.testing.assert_close(layer.half_squares(), expected, rtol=1e-4, atol=1e-6)


def test_rank() -> None:
    share = {}
    for name in ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=50)
        rank, width, depth = default_rank(model), model.embed_dim, len(model.blocks)
        learning = depth * rank * 16 * width + sum(p.numel() for p in model.head.parameters())
        share[rank] = learning / (sum(p.numel() for p in model.parameters()) + learning)
    assert [*share] == [2, 4, 8]
    assert max(share.values()) < 0.015
    with pytest.raises(UsageError, match=r"rank 25 is larger than blocks\.0\.attn\.qkv; .* 24"):
        add_adapters(build(), 25, 0)
