"""Tests of the plug-in gta-gram against a float64 reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gta_gram.distance import by_channels, by_tokens, gram_distance
from gta_gram.options import GramOptions
from gta_gram.regularizer import Gram
from gtacli.errors import UsageError
from gtacli.testing.inputs import drawn_images, tiny_vit
from gtacli.testing.step import Step


def reference(x: Any, y: Any) -> float:
    """Return the formula in float64, pair by pair of patches."""
    means = []
    for one, other in zip(x.double().numpy(), y.double().numpy(), strict=True):
        one = one / np.linalg.norm(one, axis=1, keepdims=True)
        other = other / np.linalg.norm(other, axis=1, keepdims=True)
        means.append(((one @ one.T - other @ other.T) ** 2).mean())
    return float(np.mean(means))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 16, 24), (3, 90, 12), (1, 36, 12)])
@pytest.mark.parametrize("step", [1.0, 1e-2, 1e-4])
def test_both_ways_against_float64(shape: tuple[int, int, int], step: float) -> None:
    """Near the source, too, where the textbook's expansion loses every digit."""
    y = draw(*shape)
    x = y + step * draw(*shape, seed=1)
    expected = reference(x, y)
    a, b = (torch.nn.functional.normalize(t, dim=-1) for t in (x, y))
    for value in (gram_distance(x, y), by_tokens(a - b, a + b), by_channels(a - b, a + b)):
        assert value.item() == pytest.approx(expected, rel=2e-3, abs=1e-13)


def test_gradients_of_both_ways() -> None:
    y = draw(2, 40, 12)
    grads = []
    for way in (by_tokens, by_channels):
        x = (y + 0.1 * draw(2, 40, 12, seed=1)).requires_grad_()
        way(x - y, x + y).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-8)


def test_a_rotation_is_free_and_equal_tokens_have_a_zero_gradient() -> None:
    y = draw(1, 60, 12)
    rotation = torch.linalg.qr(draw(12, 12, seed=1)).Q
    assert gram_distance(y @ rotation, y).item() < 1e-8
    x = y.clone().requires_grad_()
    gram_distance(x, y).backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_widths_may_differ() -> None:
    x, y = draw(2, 16, 24), draw(2, 16, 8, seed=1)
    assert gram_distance(x, y).item() == pytest.approx(reference(x, y), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"reg_tokens": 3}, {"img_size": (64, 96)}])
@pytest.mark.parametrize("layer", [-1, 0])
def test_value_of_networks(changes: dict[str, Any], layer: int) -> None:
    """The patch tokens are those of timm's own forward pass, after the final norm."""
    target, source = tiny_vit(0, **changes), tiny_vit(1, **changes, num_classes=0)
    images = drawn_images(2, changes.get("img_size", (32, 32)))
    step = Step(Gram, {"layer": layer}, target, source)
    x, y = (
        model.eval().forward_intermediates(
            images, indices=[layer % 3], norm=True, output_fmt="NLC", intermediates_only=True
        )[0]
        for model in (target, source)
    )
    with torch.no_grad():
        assert step.penalty(images).item() == pytest.approx(
            reference(x.detach(), y.detach()), rel=1e-4
        )


def test_needs() -> None:
    part = Gram(GramOptions(layer=-1), tiny_vit(0), tiny_vit(1, embed_dim=12, depth=2))
    assert part.needs.target.hidden == (2,)
    assert part.needs.source is not None
    assert (part.needs.source.hidden, part.needs.source.output) == ((1,), False)
    assert part.strength(0.5) == 2


def test_errors() -> None:
    with pytest.raises(UsageError, match=r"source: gram needs the same patches .* 4x4 .* 8x8$"):
        Gram(GramOptions(), tiny_vit(0), tiny_vit(1, patch_size=4))
    with pytest.raises(UsageError, match="there is no block 7"):
        Gram(GramOptions(layer=7), tiny_vit(0), tiny_vit(1))
