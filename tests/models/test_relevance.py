"""Tests of what AttnLRP and the transformer attribution share: any ViT, and no side effects."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gtacli.errors import UsageError
from gtacli.models.attnlrp import attnlrp
from gtacli.models.chefer import chefer
from gtacli.models.class_scores import check_classifier
from gtacli.models.registers import Registers, add_registers

from .test_tap import FAMILIES, make

BOTH = pytest.mark.parametrize("relevance", [attnlrp, chefer])


@BOTH
@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_has_the_same_map_in_any_batch(family: str, relevance: Any) -> None:
    model, images = make(family)
    model.double()  # chefer's divisions by sums near zero magnify rounding in fp32
    images = images.double()
    together = relevance(model, images)
    alone = relevance(model, images[1:])
    assert together.isfinite().all()
    assert together.flatten(1).std(1).min() > 0
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-9)
    classes = model(images).argmax(1).tolist()
    torch.testing.assert_close(relevance(model, images[:1], classes[0])[0], together[0])
    assert not torch.equal(relevance(model, images[:1], (classes[0] + 1) % 5)[0], together[0])


@BOTH
def test_nothing_is_left_behind(relevance: Any) -> None:
    model, images = make("layer-scale")
    before = model(images)
    with torch.inference_mode():
        relevance(model, images)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(model(images), before)


@BOTH
def test_the_models_settings_change_nothing(relevance: Any) -> None:
    model, images = make("plain")
    model.double()
    images = images.double()
    expected = relevance(model, images)
    for block in model.blocks:
        block.attn.fused_attn = False
    model.set_grad_checkpointing()  # type: ignore[operator]
    torch.testing.assert_close(relevance(model, images), expected)


@BOTH
def test_patches_keep_their_places_beside_test_time_registers(relevance: Any) -> None:
    model, images = make("plain")
    model.double()
    images = images.double()
    expected = relevance(model, images)
    add_registers(model, Registers({1: (0, 1)}, 2))
    got = relevance(model, images)
    assert got.shape == expected.shape
    assert got.isfinite().all()
    assert torch.corrcoef(torch.stack((got.flatten(), expected.flatten())))[0, 1] > 0.5


@BOTH
def test_autocast_does_not_reach_the_relevance(relevance: Any) -> None:
    model, images = make("plain")
    expected = relevance(model, images)
    with torch.autocast("cpu", torch.bfloat16):
        got = relevance(model, images)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected)


def test_a_model_without_such_a_class_is_refused() -> None:
    model, _ = make("plain")
    with pytest.raises(UsageError, match="no class 5; this model has 5"):
        check_classifier(model, 5, "attnlrp")
    model.reset_classifier(0)  # type: ignore[operator]
    with pytest.raises(UsageError, match="attnlrp needs a classifier"):
        check_classifier(model, "predicted", "attnlrp")
