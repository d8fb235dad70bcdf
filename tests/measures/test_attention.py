"""Tests of the attention metrics against float64 loops over the unfused attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from gtacli import attention
from gtacli.measures.attention import (
    AttentionStatistics,
    object_attention,
    row_distances,
    row_entropy,
)
from gtacli.models.tap import Tap

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 64}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "rope": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "not-square": ("vit_tiny_patch16_224", {"img_size": (64, 96)}),
}


def make(family: str, seed: int = 0) -> nn.Module:
    arch, kwargs = FAMILIES[family]
    torch.manual_seed(seed)
    return timm.create_model(arch, **{**SMALL, **kwargs}).eval()


def images_of(family: str) -> Tensor:
    size = FAMILIES[family][1]["img_size"]
    shape = size if isinstance(size, tuple) else (size, size)
    return torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(5))


def unfused(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the CLS row (B, H, P+N) of every block after softmax, by timm's unfused path."""
    caught: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda m, i, o: caught.append(o[:, :, 0]))
    with torch.no_grad():
        model(images)
    return caught


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_metrics_equal_loops(family: str) -> None:
    images = images_of(family)
    model, other = make(family), make(family, 1)
    prefix = model.num_prefix_tokens
    taps, reference = attention(model, images, "all"), attention(other, images, "all")
    fractions = torch.rand(2, *taps[0].grid, generator=torch.Generator().manual_seed(3))
    rows, other_rows = unfused(model, images), unfused(other, images)
    for tap, ref, row, other_row in zip(taps, reference, rows, other_rows, strict=True):
        inside, entropy = object_attention(tap, fractions), row_entropy(tap)
        drift, kl = row_distances(tap, ref)
        for b in range(2):
            weights = fractions[b].flatten().tolist()
            for h in range(3):
                a = row[b, h].double().tolist()
                q = other_row[b, h].double().tolist()
                on, mass = 0.0, 0.0
                for share, weight in zip(a[prefix:], weights, strict=True):
                    on, mass = on + share * weight, mass + share
                assert inside[b, h].item() == pytest.approx(on / mass, rel=1e-4)
                expected = -sum(x * math.log(x) for x in a)
                assert entropy[b, h].item() == pytest.approx(expected, rel=1e-4)
                p_here = [x / mass for x in a[prefix:]]
                p_there = [x / sum(q[prefix:]) for x in q[prefix:]]
                nats = sum(t * math.log(t / s) for t, s in zip(p_there, p_here, strict=True))
                assert kl[b, h].item() == pytest.approx(nats, rel=1e-3, abs=1e-6)
                ours, theirs = (t.logits[b, h, 0, prefix:].tolist() for t in (tap, ref))
                squares = sum((x - y) ** 2 for x, y in zip(ours, theirs, strict=True))
                assert drift[b, h].item() == pytest.approx(squares, rel=1e-4)


def tap_of(row_BHT: Tensor, grid: tuple[int, int] = (2, 3), prefix: int = 2) -> Tap:
    return Tap(0, grid, prefix, 1.0, row=row_BHT[:, :, None].float())


FRACTIONS = torch.tensor([[[0.0, 0.5, 1.0], [0.25, 0.0, 0.0]]])


def test_uniform_attention_has_the_objects_fraction_of_the_area() -> None:
    tap = tap_of(torch.zeros(1, 2, 8))
    assert object_attention(tap, FRACTIONS)[0].tolist() == pytest.approx(
        [FRACTIONS.mean().item()] * 2
    )
    assert row_entropy(tap)[0].tolist() == pytest.approx([math.log(8)] * 2)


def test_attention_on_one_patch() -> None:
    row = torch.full((1, 1, 8), -200.0)
    row[..., 2 + 3] = 0.0  # the first patch of the second line
    tap = tap_of(row)
    assert object_attention(tap, FRACTIONS).item() == pytest.approx(0.25)
    assert row_entropy(tap).item() == 0.0


def test_attention_on_the_cls_token_alone() -> None:
    """The small rest on patches still has a location."""
    row = torch.zeros(1, 1, 8)
    row[..., 0] = 1000.0
    assert object_attention(tap_of(row), FRACTIONS).item() == pytest.approx(FRACTIONS.mean().item())
    assert row_entropy(tap_of(row)).item() == 0.0


def test_the_distance_from_itself_is_zero() -> None:
    tap = tap_of(torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)) * 20)
    drift, kl = row_distances(tap, tap)
    assert drift.abs().max() == 0
    assert kl.abs().max() == 0


def test_prefix_columns_and_shifts_of_a_row() -> None:
    """Prefix columns count for neither distance; a shift of the row only for the drift."""
    row = torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(0))
    other = row.clone()
    other[..., :2] += 5
    assert [d.item() for d in row_distances(tap_of(row), tap_of(other))] == [0, 0]
    drift, kl = row_distances(tap_of(row), tap_of(row + 2))
    assert drift.item() == pytest.approx(6 * 4)
    assert kl.item() == pytest.approx(0, abs=1e-6)


def test_models_with_different_numbers_of_heads_are_compared_by_the_mean() -> None:
    row = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    drift, kl = row_distances(tap_of(row), tap_of(row.mean(1, keepdim=True)))
    assert drift.shape == kl.shape == (2, 1)
    assert drift.abs().max() < 1e-10


def random_batch(count: int, seed: int) -> tuple[list[Tap], list[Tap], Tensor]:
    rng = torch.Generator().manual_seed(seed)
    taps, reference = (
        [tap_of(torch.randn(count, 3, 8, generator=rng)) for _ in range(2)] for _ in range(2)
    )
    fractions = torch.rand(count, 2, 3, generator=rng)
    fractions[::3] = 0
    return taps, reference, fractions


def cut(taps: list[Tap], part: slice) -> list[Tap]:
    return [tap_of(tap.logits[part, :, 0]) for tap in taps]


def test_means_do_not_depend_on_batches() -> None:
    taps, reference, fractions = random_batch(7, 0)
    parts = ([slice(0, 7)], [slice(0, 1), slice(1, 5), slice(5, 7)])
    means = []
    for cuts in parts:
        sums = AttentionStatistics(2, 3, 3, torch.device("cpu"))
        for part in cuts:
            sums.add(cut(taps, part), fractions[part], cut(reference, part))
        means.append(sums.means())
    for name in ("inside", "entropy", "drift", "kl"):
        assert np.shape(means[0][name]) == (2, 3)
        assert np.allclose(means[0][name], means[1][name], rtol=1e-9)
    assert means[0]["n_images"] == 7
    assert means[0]["n_inside"] == 4  # images 0, 3 and 6 have no object
    objects = fractions[[1, 2, 4, 5]]
    assert means[0]["area"] == pytest.approx(objects.mean().item(), rel=1e-6)
    expected = object_attention(taps[1], fractions)[[1, 2, 4, 5]].mean(0)
    assert means[0]["inside"][1] == pytest.approx(expected.tolist(), rel=1e-6)
    assert means[0]["drift"][0] == pytest.approx(
        row_distances(taps[0], reference[0])[0].mean(0).tolist(), rel=1e-6
    )


def test_metrics_without_images_are_none() -> None:
    taps, _, fractions = random_batch(2, 1)
    sums = AttentionStatistics(2, 3, 0, torch.device("cpu"))
    nothing = sums.means()
    assert [nothing[k] for k in ("n_images", "area", "inside", "entropy")] == [0, None, None, None]
    sums.add(taps, torch.zeros_like(fractions))
    means = sums.means()
    assert [means[k] for k in ("inside", "drift", "kl", "n_inside")] == [None, None, None, 0]
    assert np.shape(means["entropy"]) == (2, 3)
