"""Tests of the tap against unfused attention of the same network, for every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from gtacli import attention, load_model
from gtacli.errors import UsageError
from gtacli.models.qkv import row_logits, split_heads
from gtacli.models.tap import Request, TappedViT, absolute_layers

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 64}),
    "qk-norm": ("vit_tiny_patch16_224", {"img_size": 64, "qk_norm": True}),
    "layer-scale": ("vit_tiny_patch16_224", {"img_size": 64, "init_values": 0.1}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 56}),
    "rope-mixed": ("vit_small_patch16_rope_mixed_224", {"img_size": 64}),
    "pre-norm": ("vit_base_patch16_clip_224", {"img_size": 64}),
    "post-norm": ("vit_tiny_patch16_224", {"img_size": 64, "post_norm": True}),
    "no-cls": ("vit_medium_patch16_gap_256", {"img_size": 64}),
    "not-square": ("vit_tiny_patch16_224", {"img_size": (64, 96)}),
    "dynamic": ("vit_tiny_patch16_224", {"img_size": 64, "dynamic_img_size": True}),
}


def make(family: str) -> tuple[nn.Module, Tensor]:
    arch, kwargs = FAMILIES[family]
    kwargs = dict(kwargs)
    if kwargs.pop("post_norm", False):
        from timm.models.vision_transformer import ResPostBlock

        kwargs["block_fn"] = ResPostBlock
    torch.manual_seed(0)
    model = timm.create_model(arch, **{**SMALL, **kwargs}).eval()
    for p in model.parameters():  # initial LayerScales and biases would hide errors
        if p.ndim == 1:
            nn.init.normal_(p, 0.5, 0.3)
    size = kwargs["img_size"]
    h, w = (96, 64) if family == "dynamic" else size if isinstance(size, tuple) else (size, size)
    return model, torch.randn(2, 3, h, w)


def unfused(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the attention of every block by timm's own unfused path."""
    caught: list[Tensor] = []
    hooks = []
    for block in model.blocks:
        block.attn.fused_attn = False
        hooks.append(block.attn.attn_drop.register_forward_hook(lambda m, i, o: caught.append(o)))
    with torch.no_grad():
        model(images)
    for block, hook in zip(model.blocks, hooks, strict=True):
        hook.remove()
        block.attn.fused_attn = True
    return caught


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_all_rows_equal_unfused_attention(family: str) -> None:
    model, images = make(family)
    expected = unfused(model, images)
    taps = attention(model, images, layers="all", rows="all")
    assert [t.layer for t in taps] == [0, 1, 2]
    for tap, full in zip(taps, expected, strict=True):
        assert tap.logits.shape == full.shape
        torch.testing.assert_close(tap.logits.softmax(-1), full, atol=1e-5, rtol=0)
        gh, gw = tap.grid
        assert gh * gw + tap.num_prefix_tokens == full.shape[-1]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "no-cls"])
@torch.no_grad()
def test_cls_row_of_an_early_end_equals_unfused_attention(family: str) -> None:
    model, images = make(family)
    expected = unfused(model, images)
    taps = attention(model, images, layers=(0, -2), rows="cls")  # ends inside block 1
    assert [t.layer for t in taps] == [0, 1]
    for tap, full in zip(taps, expected[:2], strict=True):
        assert tap.logits.shape == (*full.shape[:2], 1, full.shape[-1])
        torch.testing.assert_close(
            tap.logits[:, :, 0].softmax(-1), full[:, :, 0], atol=1e-5, rtol=0
        )
        patches = full[:, :, 0, tap.num_prefix_tokens :].unflatten(-1, tap.grid)
        torch.testing.assert_close(tap.maps(), patches, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_output_features_and_hidden_equal_the_models(family: str) -> None:
    model, images = make(family)
    caught: dict[str, Tensor] = {}
    hooks = [
        model.blocks[1].register_forward_hook(lambda m, i, o: caught.update(block=o)),
        model.blocks[2].attn.register_forward_hook(lambda m, i, o: caught.update(msa=o)),
    ]
    expected = model(images)
    for hook in hooks:
        hook.remove()
    tapped = TappedViT(model, Request((0, 2), msa=(2,), hidden=(1,), features=True))
    reading = tapped.unpack(tapped(images), images.shape)
    torch.testing.assert_close(reading.logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reading.hidden[1], caught["block"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reading.msa[2], caught["msa"], atol=1e-5, rtol=1e-5)
    features = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(reading.features, features, atol=1e-5, rtol=1e-5)


def test_gradients_of_a_tapped_pass_equal_the_models() -> None:
    model, images = make("qk-norm")
    tapped = TappedViT(model, Request((0, 1, 2), features=True))
    tapped(images).logits.square().sum().backward()
    ours = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(images).square().sum().backward()
    for mine, p in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad, atol=1e-4, rtol=1e-4)


def test_nothing_after_the_last_requested_keys_is_computed() -> None:
    model, images = make("plain")
    ran: list[str] = []
    for i, block in enumerate(model.blocks):
        for name in ("mlp", "norm2"):
            part = getattr(block, name)
            part.register_forward_hook(lambda m, x, o, n=f"{i}.{name}": ran.append(n))
    model.norm.register_forward_hook(lambda m, x, o: ran.append("norm"))
    attention(model, images, layers=(1,))
    assert ran == ["0.norm2", "0.mlp"]


@pytest.mark.parametrize(
    "family", ["plain", *(pytest.param(f, marks=pytest.mark.slow) for f in ("dinov3", "registers"))]
)
def test_compiles_as_one_graph(family: str) -> None:
    model, images = make(family)
    tapped = TappedViT(model, Request((0, 2), features=True))
    source = TappedViT(model, Request((0, 2), output=False))
    torch._dynamo.reset()
    for module in (tapped, source):
        compiled = torch.compile(module, backend="eager", fullgraph=True)
        for a, b in zip(compiled(images), module(images), strict=True):
            if a is not None:  # a tensor or a tuple of them
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_fused_attention_stays_on() -> None:
    model, images = make("plain")
    assert all(b.attn.fused_attn for b in model.blocks)
    calls = []
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return original(*args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = spy
    try:
        TappedViT(model, Request((0, 1, 2)))(images)
    finally:
        torch.nn.functional.scaled_dot_product_attention = original
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("arch", "kwargs", "named"),
    [
        ("resnet18", {}, "ResNet"),
        ("swin_tiny_patch4_window7_224", {"embed_dim": 12, "num_heads": (1, 1, 1, 1)}, "Swin"),
        (
            "vit_small_patch16_18x2_224",
            {"depth": 1, "embed_dim": 24, "num_heads": 3},
            "ParallelThi",
        ),
    ],
)
def test_unsupported_models_are_rejected_by_class_name(arch: str, kwargs: Any, named: str) -> None:
    model = timm.create_model(arch, **kwargs)
    with pytest.raises(UsageError, match=named):
        attention(model, torch.zeros(1, 3, 224, 224))


def test_cls_rows_need_a_cls_token() -> None:
    model, images = make("no-cls")
    with pytest.raises(UsageError, match=r"rows: .*`rows=all`"):
        attention(model, images)


def test_absolute_layers() -> None:
    assert absolute_layers("all", 3) == (0, 1, 2)
    assert absolute_layers("last", 3) == (2,)
    assert absolute_layers((-1, 0, 2), 3) == (0, 2)
    with pytest.raises(UsageError, match="no block 3"):
        absolute_layers((3,), 3)


def test_union_of_requests() -> None:
    a, b = Request((0,), "cls", output=False), Request((1,), "all", hidden=(2,), output=False)
    both = a | b
    assert (both.layers, both.rows, both.hidden, both.output) == ((0, 1), "all", (2,), False)
    # Only the rows of tapped blocks count.
    assert (Request(rows="all") | a).rows == "cls"


@pytest.mark.parametrize("layout", ["fused", "apart"])
def test_row_logits_and_their_gradients(layout: str) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 7, 3, 3, 8, dtype=torch.float64)
    if layout == "apart":
        qkv = qkv.permute(2, 0, 3, 1, 4).contiguous().permute(1, 3, 0, 2, 4)
    leaf = qkv.float().requires_grad_()
    q, k, _ = leaf.permute(2, 0, 3, 1, 4).unbind(0)
    ours = row_logits(q[:, :, :1], k, 0.3)
    reference_leaf = qkv.clone().requires_grad_()
    rq, rk, _ = reference_leaf.permute(2, 0, 3, 1, 4).unbind(0)
    expected = torch.einsum("bhrd,bhnd->bhrn", rq[:, :, :1], rk) * 0.3
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(expected)
    (ours * weight.float()).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(leaf.grad.double(), reference_leaf.grad, atol=1e-5, rtol=1e-5)


def test_bf16_keys_give_fp32_logits() -> None:
    q, k = torch.randn(2, 3, 1, 8), torch.randn(2, 3, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = row_logits(q, k, 1.0)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, q @ k.transpose(-1, -2), atol=1e-5, rtol=1e-5)


def test_split_heads_equals_timms_split() -> None:
    """Values and gradients equal autograd in float64, with all outputs used."""
    torch.manual_seed(0)
    start = torch.randn(2, 7, 3 * 24, dtype=torch.float64)
    weights = [torch.randn(2, 3, 7, 8, dtype=torch.float64) for _ in range(3)]
    weights.append(torch.randn(2, 3, 1, 7, dtype=torch.float64))

    def plain(qkv: Tensor) -> tuple[Tensor, ...]:
        q, k, v = qkv.reshape(2, 7, 3, 3, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v, (q[:, :, :1] * 0.3) @ k.mT

    for used in [(0, 1, 2, 3), (0, 1, 2), (3,), (1, 3), (2,)]:
        mine = start.float().requires_grad_()
        exact = start.clone().requires_grad_()
        for leaf, outputs in ((mine, split_heads(mine, 3, 0.3)), (exact, plain(exact))):
            torch.autograd.backward([(outputs[i] * weights[i].to(leaf.dtype)).sum() for i in used])
        for a, b in zip(split_heads(mine, 3, 0.3), plain(exact), strict=True):
            torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(mine.grad.double(), exact.grad, atol=1e-5, rtol=1e-5)


def test_cls_row_does_not_keep_keys_in_memory() -> None:
    """Keys are views of the full projection, which they would keep in memory."""
    model, images = make("plain")
    (cls,) = attention(model, images)
    assert cls.q is None
    assert cls.k is None
    assert cls.logits.untyped_storage().nbytes() == cls.logits.nbytes
    (every,) = attention(model, images, rows="all")
    torch.testing.assert_close(every.cls().logits, cls.logits, atol=1e-5, rtol=1e-5)


def test_what_load_model_returns_is_accepted(tiny_model: Path) -> None:
    loaded = load_model(str(tiny_model))
    images = torch.rand(2, 3, *loaded.image_size)
    (one,), (other,) = attention(loaded, images), attention(loaded.model, images)
    assert torch.equal(one.logits, other.logits)
