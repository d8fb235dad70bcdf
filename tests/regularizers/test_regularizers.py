"""Tests of regularizers against float64 loops of their formulas, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from gtacli.config.parts import BSSOptions, GTAOptions, L2SPOptions
from gtacli.errors import UsageError
from gtacli.models.tap import TapOutputs, TappedViT, attention
from gtacli.regularizers.base import Regularizer, StepOutputs
from gtacli.regularizers.bss import BSS
from gtacli.regularizers.gta import GTA
from gtacli.regularizers.l2sp import L2SP

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


def network(seed: int = 0, **kwargs: Any) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("vit_tiny_patch16_224", num_classes=4, **{**SMALL, **kwargs}).eval()


def moved(model: nn.Module, by: float) -> nn.Module:
    other = network()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in other.parameters():
            p.add_(by * torch.randn_like(p))
    return other


def take_step(regularizer: Regularizer[Any], images: Tensor) -> Tensor:
    needs = regularizer.needs
    target = TappedViT(regularizer.target, needs.target)
    seen = None
    if needs.source is not None:
        assert regularizer.source is not None
        source = TappedViT(regularizer.source, needs.source)
        with torch.no_grad():
            seen = source.unpack(source(images), images.shape)
    reading = target.unpack(target(images), images.shape)
    return regularizer.penalty(StepOutputs(reading, seen))


def full_logits(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Compute every block's N x N logits in float64 by the formula."""
    model = network_double(model)
    found: list[Tensor] = []
    x = model.patch_embed(images.double())
    x = model.norm_pre(model._pos_embed(x))
    for block in model.blocks:
        qkv = block.attn.qkv(block.norm1(x))
        b, n, _ = qkv.shape
        q, k, _v = qkv.reshape(b, n, 3, 3, 8).permute(2, 0, 3, 1, 4)
        found.append(q @ k.transpose(-1, -2) / 8**0.5)
        x = block(x)
    return found


def network_double(model: nn.Module) -> nn.Module:
    other = network().double()
    other.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    return other


@pytest.mark.parametrize("layers", ["all", "last", (0, 2)])
@pytest.mark.parametrize("rows", ["cls", "all"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gta_is_the_mean_over_blocks_heads_and_images(
    layers: Any, rows: Any, reduction: Any
) -> None:
    source = network()
    target = moved(source, 0.05)
    images = torch.randn(2, 3, 32, 32)
    options = GTAOptions(layers=layers, rows=rows, reduction=reduction)
    value = take_step(GTA(options, target, source), images)
    pairs = zip(full_logits(target, images), full_logits(source, images), strict=True)
    blocks = []
    for t, s in pairs:
        d = (t - s)[..., 1:]
        d = d[:, :, :1] if rows == "cls" else d
        blocks.append((d.square().sum(-1) if reduction == "sum" else d.square().mean(-1)).mean())
    chosen = (
        {"all": [0, 1, 2], "last": [2]}.get(layers, [0, 2]) if isinstance(layers, str) else layers
    )
    expected = torch.stack([blocks[i] for i in chosen]).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("guide", ["msa", "block"])
def test_gta_with_msa_and_block_outputs(guide: Any) -> None:
    source = network()
    target = moved(source, 0.05)
    images = torch.randn(2, 3, 32, 32)
    value = take_step(GTA(GTAOptions(guide=guide, layers=(1,)), target, source), images)
    outputs = []
    for model in (target, source):
        caught: list[Tensor] = []
        part = model.blocks[1].attn if guide == "msa" else model.blocks[1]
        hook = part.register_forward_hook(lambda m, i, o, c=caught: c.append(o.detach()))
        model(images)
        hook.remove()
        outputs.append(caught[0].double())
    expected = (outputs[0] - outputs[1]).square().sum(-1).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-7)


def test_gta_gradients_reach_only_the_target() -> None:
    source = network()
    target = moved(source, 0.05)
    take_step(GTA(GTAOptions(), target, source), torch.randn(2, 3, 32, 32)).backward()
    assert all(p.grad is None for p in source.parameters())
    assert target.blocks[0].attn.qkv.weight.grad.abs().sum() > 0
    assert target.head.weight.grad is None  # the classifier is not involved
    # Nothing above the last guided block's keys has a gradient either.
    assert target.blocks[2].mlp.fc1.weight.grad is None


def test_gta_is_zero_at_the_source() -> None:
    source = network()
    target = moved(source, 0.0)
    assert take_step(GTA(GTAOptions(), target, source), torch.randn(2, 3, 32, 32)) < 1e-8


@pytest.mark.parametrize(("decay", "half"), [("constant", 0.3), ("linear", 0.15), ("cosine", 0.15)])
def test_gta_decay(decay: Any, half: float) -> None:
    gta = GTA(GTAOptions(lam=0.3, decay=decay), network(), network())
    assert gta.strength(0.0) == pytest.approx(0.3)
    assert gta.strength(0.5) == pytest.approx(half)
    assert gta.strength(1.0) == pytest.approx(0.3 if decay == "constant" else 0.0)


@pytest.mark.parametrize(
    ("kwargs", "rows_all", "guide_msa"),
    [
        ({"num_heads": 2}, "heads", None),
        ({"img_size": 40}, "patches", "patches"),
        ({"embed_dim": 48}, "head width", "width"),
        ({"reg_tokens": 2}, "prefix tokens", "prefix tokens"),
    ],
)
def test_gta_error_names_the_difference(kwargs: Any, rows_all: str, guide_msa: str | None) -> None:
    source = network(**kwargs)
    GTA(GTAOptions(), network(), source)  # rows of logits can always be compared
    with pytest.raises(UsageError, match=f"source: `rows=all` needs the same {rows_all}"):
        GTA(GTAOptions(rows="all"), network(), source)
    for guide in ("msa", "block"):
        options = GTAOptions(guide=guide)  # type: ignore[arg-type]
        if guide_msa is None:
            GTA(options, network(), source)
        else:
            with pytest.raises(
                UsageError, match=f"source: `guide={guide}` needs the same {guide_msa}"
            ):
                GTA(options, network(), source)


def test_gta_with_a_source_of_another_architecture() -> None:
    """The source is deeper and wider, with other heads, finer patches and registers.

    Blocks are paired from the end, heads averaged, and the source's rows resized.
    """
    target = network()
    other = {"depth": 5, "embed_dim": 48, "num_heads": 6, "patch_size": 4, "reg_tokens": 2}
    source = network(1, **other)
    images = torch.randn(2, 3, 32, 32)
    gta = GTA(GTAOptions(layers=(-1, -2)), target, source)
    expected = 0.0
    for ours, theirs in ((1, 3), (2, 4)):
        row_t, row_s = (
            attention(model, images, (layer,))[0].logits.double()
            for model, layer in ((target, ours), (source, theirs))
        )
        fine = row_s[..., 3:].mean(1).view(2, 1, 8, 8)
        coarse = nn.functional.interpolate(fine, (4, 4), mode="bilinear", antialias=True)
        difference = row_t[..., 1:].mean(1).view(2, 16) - coarse.view(2, 16)
        expected += difference.square().sum(-1).mean().item() / 2
    value = take_step(gta, images)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert target.blocks[2].attn.qkv.weight.grad is not None


def test_gta_rejects_invalid_combinations() -> None:
    with pytest.raises(UsageError, match="no block 99"):
        GTA(GTAOptions(layers=(99,)), network(), network())
    with pytest.raises(UsageError, match="source: GTA needs a source"):
        GTA(GTAOptions(), network(), None)
    with pytest.raises(UsageError, match="rows=cls"):
        GTA(GTAOptions(distance="kl", rows="all"), network(), network())
    no_cls = network(class_token=False, global_pool="avg")
    with pytest.raises(UsageError, match=r"rows: .*`rows=all`"):
        GTA(GTAOptions(), no_cls, no_cls)
    GTA(GTAOptions(rows="all"), no_cls, no_cls)
    registers = network(class_token=False, global_pool="avg", reg_tokens=2)
    with pytest.raises(UsageError, match="cls_column: this model has no CLS token"):
        GTA(GTAOptions(rows="all", cls_column="include"), registers, registers)


@pytest.mark.parametrize("lam", [0.01, 0.5])
def test_l2sp_equals_loop_over_the_weights(lam: float) -> None:
    target = network()
    regularizer = L2SP(L2SPOptions(lam=lam, beta=0.03), target)
    start = {n: p.detach().double().clone() for n, p in target.named_parameters()}
    with torch.no_grad():
        for p in target.parameters():
            p.add_(0.1 * torch.randn_like(p))
    loss = regularizer.strength(0.0) * regularizer.penalty(StepOutputs(reading()))
    loss.backward()
    expected = torch.zeros((), dtype=torch.float64)
    for name, p in target.named_parameters():
        w = p.detach().double()
        if not name.startswith("head"):
            expected += lam / 2 * (w - start[name]).square().sum()
            gradient = lam * (w - start[name])
        else:
            expected += 0.03 / 2 * w.square().sum()
            gradient = 0.03 * w
        torch.testing.assert_close(p.grad.double(), gradient, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(loss.detach().double(), expected, rtol=1e-5, atol=1e-8)
    assert regularizer.needs.source is None


def test_l2sp_gradient_at_zero_distance() -> None:
    """The gradient of the norm at zero distance is 0, not 0/0."""
    target = network()
    L2SP(L2SPOptions(), target).penalty(StepOutputs(reading())).backward()
    assert all(torch.isfinite(p.grad).all() for p in target.parameters() if p.grad is not None)


def test_decoupled_l2sp_moves_weights_after_the_step() -> None:
    target = network()
    regularizer = L2SP(L2SPOptions(lam=100.0, beta=0.5, decoupled=True), target)
    start = [p.detach().clone() for p in target.parameters()]
    with torch.no_grad():
        for p in target.parameters():
            p.add_(0.1)
    moved_to = [p.detach().clone() for p in target.parameters()]
    names = [n for n, _ in target.named_parameters()]
    parameters = list(target.parameters())
    split = len(parameters) // 2
    groups = [
        {"params": parameters[:split], "lr": 1e-3},
        {"params": parameters[split:], "lr": 2e-3},
    ]
    assert regularizer.strength(0.0) == 0
    regularizer.after_step(groups)
    for i, (name, p) in enumerate(zip(names, parameters, strict=True)):
        lr = 1e-3 if i < split else 2e-3
        w, w0 = moved_to[i], start[i]
        expected = w - lr * 100.0 * (w - w0)
        if name.startswith("head"):
            expected = w - lr * 0.5 * w
        torch.testing.assert_close(p.detach(), expected)


def reading(features: Tensor | None = None) -> TapOutputs:
    return TapOutputs(None, features, {}, {}, {})


@pytest.mark.parametrize(("b", "c", "k"), [(8, 24, 1), (24, 8, 1), (8, 24, 3), (6, 6, 5)])
def test_bss_equals_the_smallest_singular_values(b: int, c: int, k: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(b, c, requires_grad=True)
    value = BSS(BSSOptions(k=k), network()).penalty(StepOutputs(reading(features)))
    value.backward()
    exact = features.detach().double().requires_grad_()
    u, s, v = torch.linalg.svd(exact.detach(), full_matrices=False)
    expected = s[-k:].square().sum()
    # d sigma^2 / dF = 2 sigma u v^T
    gradient = 2 * (u[:, -k:] * s[-k:]) @ v[-k:]
    torch.testing.assert_close(value.detach().double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(features.grad.double(), gradient, rtol=1e-4, atol=1e-5)


def test_bss_of_near_duplicates() -> None:
    """Two nearly equal images: fp32 Gram matrices lose the smallest value."""
    torch.manual_seed(0)
    features = torch.randn(8, 192)
    features[1] = features[0] + 1e-4 * torch.randn(192)
    leaf = features.clone().requires_grad_()
    value = BSS(BSSOptions(), network()).penalty(StepOutputs(reading(leaf)))
    value.backward()
    u, s, v = torch.linalg.svd(features.double(), full_matrices=False)
    torch.testing.assert_close(value.detach().double(), s[-1] ** 2, rtol=1e-3, atol=0)
    gradient = 2 * s[-1] * u[:, -1:] @ v[-1:]
    torch.testing.assert_close(leaf.grad.double(), gradient, rtol=1e-2, atol=1e-8)


@pytest.mark.parametrize(("images", "k"), [(1, 1), (3, 3), (2, 9)])
def test_bss_is_zero_for_small_batches(images: int, k: int) -> None:
    """In a small last batch the smallest singular value would be the largest."""
    features = torch.randn(images, 24, requires_grad=True)
    value = BSS(BSSOptions(k=k), network()).penalty(StepOutputs(reading(features)))
    value.backward()
    assert value == 0
    assert (features.grad == 0).all()


def test_bss_uses_the_features_before_the_classifier() -> None:
    target = network()
    images = torch.randn(5, 3, 32, 32)
    value = take_step(BSS(BSSOptions(), target), images)
    features = target.forward_head(target.forward_features(images), pre_logits=True)
    smallest = torch.linalg.svdvals(features.double())[-1] ** 2
    torch.testing.assert_close(value.double(), smallest, rtol=1e-3, atol=1e-8)
