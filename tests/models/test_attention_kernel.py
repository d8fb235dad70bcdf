"""The attention kernel of training in bf16 on a CPU, against the plain formula and timm's pass."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.models import attention_kernel
from gtacli.models.attention_kernel import attended_values
from gtacli.models.mae_decoders import CrossBlock
from gtacli.models.tap import Request, TappedViT
from gtacli.testing.inputs import drawn_images, half_precision, tiny_vit

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 64}),
    "qk-norm": ("vit_tiny_patch16_224", {"img_size": 64, "qk_norm": True}),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 56}),
}
CPU = torch.device("cpu")
sizes = st.tuples(*(st.integers(1, most) for most in (5, 4, 20, 20, 9)))


def tokens(*shape: int, seed: int = 0) -> Tensor:
    """Return bf16 values (B, H, T, D) in the memory order of tokens."""
    b, h, t, d = shape
    drawn = torch.randn(b, t, h, d, generator=torch.Generator().manual_seed(seed))
    return drawn.bfloat16().transpose(1, 2).requires_grad_()


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Return our kernel's values and gradients, for a gradient drawn of the values' shape."""
    with half_precision(CPU):
        values = attended_values(nn.Identity().train(), q, k, v)
    return values, *torch.autograd.grad(values, (q, k, v), tokens(*values.shape, seed=9))


def plain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """Return the same by the formula in float64."""
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    values = (wide[0] @ wide[1].transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1) @ wide[2]
    return values, *torch.autograd.grad(values, wide, tokens(*values.shape, seed=9).double())


def apart(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


@given(sizes)
def test_values_and_gradients_of_the_plain_formula(size: tuple[int, ...]) -> None:
    b, h, r, t, d = size
    q, k, v = tokens(b, h, r, d), tokens(b, h, t, d, seed=1), tokens(b, h, t, d, seed=2)
    found, wanted = attend(q, k, v), plain(q, k, v)
    for name, ours, theirs in zip(("values", "q", "k", "v"), found, wanted, strict=True):
        assert ours.dtype == torch.bfloat16
        # Rounding is of the size of the terms; with one token those of q and k cancel out.
        terms = [theirs, wanted[3]] if name in "qk" else [theirs]
        room = 0.02 * max(float(x.detach().norm()) for x in terms)
        assert float((ours.detach().double() - theirs.detach()).norm()) <= room, name


def test_images_are_computed_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (tokens(5, 3, 17, 8, seed=seed) for seed in range(3))
    whole = attend(q, k, v)
    sizes: list[int] = []
    bmm = torch.bmm

    def counted(a: Tensor, b: Tensor) -> Tensor:
        sizes.append(len(a))
        return bmm(a, b)

    monkeypatch.setattr(attention_kernel, "CACHE_BYTES", 2 * 3 * 17 * 17 * 2)
    monkeypatch.setattr(torch, "bmm", counted)
    parts = attend(q, k, v)
    assert set(sizes) == {6, 3}  # two images of three heads, and the last one
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_attention_is_not_kept_for_the_gradient() -> None:
    q, k, v = (tokens(2, 3, 40, 8, seed=seed) for seed in range(3))
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), half_precision(CPU):
        attended_values(nn.Identity().train(), q, k, v)
    assert [x.shape for x in kept] == [q.shape] * 3


def run(model: Any, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the gradients of a network's loss by name."""
    model.zero_grad()
    output = model(images)
    logits = output if isinstance(output, Tensor) else output.logits
    F.cross_entropy(logits.float(), labels).backward()
    network = model.model if isinstance(model, TappedViT) else model
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tapped", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_networks_gradient_is_as_exact_as_with_the_fused_kernel(
    name: str, tapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of timm's own pass in bf16 and ours, against timm's in fp32."""
    arch, size = NETWORKS[name]
    torch.manual_seed(0)
    small = {"embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 5}
    model = timm.create_model(arch, **{**small, **size}).train()
    with torch.no_grad():  # timm's first weights attend to everything alike
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    side = size["img_size"]
    images, labels = torch.randn(16, 3, side, side), torch.arange(16) % 5
    exact = run(model, images, labels)
    with half_precision(CPU):
        theirs = run(model, images, labels)
    used: list[int] = []
    ours_apply = attention_kernel._CachedAttention.apply

    def apply(*values: Any) -> Any:
        used.append(1)
        return ours_apply(*values)

    monkeypatch.setattr(attention_kernel._CachedAttention, "apply", apply)
    request = Request(layers=(0, 1, 2)) if tapped else Request()
    with half_precision(CPU):
        ours = run(TappedViT(model, request), images, labels)
    assert len(used) == 3
    assert ours.keys() == exact.keys()

    def error(found: dict[str, Tensor]) -> float:
        return apart(*(torch.cat([g.flatten() for g in x.values()]) for x in (found, exact)))

    assert error(ours) < 1.25 * error(theirs)


def test_a_row_beside_the_values_has_its_gradient() -> None:
    """That of the CLS row's logits, which GTA compares, and of the output are added up."""
    model, images = tiny_vit().train(), drawn_images(8)
    tapped = TappedViT(model, Request(layers=(0, 1, 2)))

    def gradient() -> Tensor:
        model.zero_grad()
        outputs = tapped(images)
        loss = (
            sum(row.square().mean() for row in outputs.row) + outputs.logits.float().square().sum()
        )
        assert all(row.dtype == torch.float32 for row in outputs.row)
        loss.backward()
        return torch.cat([block.attn.qkv.weight.grad.flatten() for block in model.blocks])

    exact = gradient()
    with half_precision(CPU):
        rounded = gradient()
    assert apart(rounded, exact) < 0.03


def test_other_passes_use_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(attention_kernel._CachedAttention, "apply", refuse)
    model, images = tiny_vit(), drawn_images(2)
    tapped = TappedViT(model, Request(layers=(2,)))
    tapped.train()(images)  # in fp32
    with half_precision(CPU):
        tapped.eval()(images)
        with torch.no_grad():
            tapped.train()(images)
        q, k, v = (tokens(2, 3, 4, 8, seed=seed) for seed in range(3))
        attended_values(nn.Identity().train(), q, k, v, dropout=0.5)
        with pytest.raises(AssertionError):
            tapped.train()(images)


def test_checkpointed_blocks_have_the_same_gradient() -> None:
    model, images, labels = tiny_vit().train(), drawn_images(4), torch.arange(4)
    tapped = TappedViT(model, Request(layers=(1,)))
    with half_precision(CPU):
        whole = run(tapped, images, labels)
        model.set_grad_checkpointing()
        again = run(tapped, images, labels)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_cross_attention() -> None:
    torch.manual_seed(0)
    block, x, memory = CrossBlock(24, 48, 3).train(), torch.randn(2, 5, 24), torch.randn(2, 9, 48)
    exact = block(x, memory)
    exact.sum().backward()
    wanted = block.kv.weight.grad.clone()
    block.zero_grad()
    with half_precision(CPU):
        found = block(x, memory)
    assert "_CachedAttention" in names_of(found)
    found.float().sum().backward()
    assert apart(found, exact) < 0.02
    assert apart(block.kv.weight.grad, wanted) < 0.05


def names_of(x: Tensor) -> str:
    """Return the names of the functions that a tensor was computed by."""
    left, names = [x.grad_fn], set()
    while left:
        node = left.pop()
        if node is not None and node not in names:
            names.add(node)
            left += [parent for parent, _ in node.next_functions]
    return " ".join(node.name() for node in names)
