"""Tests of linear layers with packed weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gtacli.models import attention, load_model
from gtacli.models.packed_linear import PackedLinear, is_packable, pack

BF16 = torch.bfloat16


def packed_layers(model: nn.Module) -> list[PackedLinear]:
    return [m for m in model.modules() if isinstance(m, PackedLinear)]


def test_packed_layers_give_the_same_output(tiny_model: Path) -> None:
    loaded = load_model(str(tiny_model))
    packed: Any = pack(deepcopy(loaded.model).requires_grad_(False))
    assert packed_layers(packed)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), loaded.model(x), atol=1e-5, rtol=1e-5)
    own: Any = loaded.model
    assert torch.equal(packed.blocks[0].attn.qkv.weight, own.blocks[0].attn.qkv.weight)
    assert not packed_layers(pack(deepcopy(loaded.model).to(BF16)))


def test_bf16_is_that_of_autocast(tiny_model: Path) -> None:
    """Rounded once or in each pass, the weights are the same; so is the sum between the blocks."""
    model = load_model(str(tiny_model)).model.eval().requires_grad_(False)
    packed: Any = pack(deepcopy(model), BF16)
    assert len(packed_layers(packed)) == 4 * 3 + 1
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", BF16):
            ours, theirs = packed(x).float(), model(x).float()
    error = (theirs - exact).norm()
    assert 0 < error < 0.03 * exact.norm()
    assert 0 < (ours - exact).norm() < 1.5 * error


def test_layers_of_bf16_take_and_give_what_others_do() -> None:
    layer = nn.Linear(16, 8).requires_grad_(False)
    packed = PackedLinear(layer, dtype=BF16)
    x = torch.randn(5, 3, 16)
    expected = x.to(BF16).double() @ layer.weight.to(BF16).double().T + layer.bias.to(BF16).double()
    for given in (x, x.to(BF16)):
        out = packed(given)
        assert out.dtype == BF16
        # One rounding of the sum: half a unit in the last of eight places.
        torch.testing.assert_close(out.double(), expected, atol=1e-3, rtol=2**-8)
    assert torch.equal(packed.weight, layer.weight.to(BF16).float())
    assert packed.bias is layer.bias
    assert PackedLinear(nn.Linear(16, 8, bias=False), dtype=BF16)(x).shape == (5, 3, 8)


def test_queries_and_keys_of_the_last_block(tiny_model: Path) -> None:
    """The pass that ends at a block's keys multiplies with a part of its weights."""
    model = load_model(str(tiny_model)).model.eval().requires_grad_(False)
    packed = pack(deepcopy(model), BF16)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", BF16):
        ours, theirs = (attention(m, x, [0, 2])[1].logits for m in (packed, model))
    torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.05)


def test_shared_weights_are_not_copied() -> None:
    def stack() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4)).requires_grad_(False)

    shared: Any = stack()
    weight = shared[0].weight
    assert pack(shared, shared=True)[0].weight is weight  # type: ignore[index]
    half: Any = stack()
    assert type(pack(half, BF16, shared=True)[0]) is nn.Linear  # type: ignore[index]


def test_nothing_is_packed_for_other_types() -> None:
    assert not is_packable(torch.float16)
    model = nn.Sequential(nn.Linear(4, 4))
    assert type(pack(model, torch.float16)[0]) is nn.Linear  # type: ignore[index]


def test_a_processor_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr("gtacli.models.packed_linear.fused_linear", missing)
    is_packable.cache_clear()
    try:
        assert not is_packable(BF16)
        assert type(pack(nn.Sequential(nn.Linear(4, 4)), BF16)[0]) is nn.Linear  # type: ignore[index]
    finally:
        is_packable.cache_clear()
