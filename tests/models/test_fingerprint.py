"""Tests that a fingerprint depends on all tensors and modules, and on nothing else."""

import copy
from functools import partial

import pytest
import timm
import torch

from gtacli.models.fingerprint import fingerprint


def a_model():
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", depth=1, embed_dim=12, num_heads=3, img_size=32
    )


def test_equal_networks_have_equal_fingerprints():
    assert fingerprint(a_model()) == fingerprint(
        copy.deepcopy(a_model()).eval().requires_grad_(False)
    )


def test_changed_weight_changes_fingerprint():
    one, other = a_model(), a_model()
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight[0, 0] += 1e-6
    assert fingerprint(one) != fingerprint(other)


def test_precision_changes_fingerprint():
    assert fingerprint(a_model()) != fingerprint(a_model().bfloat16())


def test_equal_bytes_of_another_shape_differ():
    one, other = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
    with torch.no_grad():
        for layer in (one, other):
            layer.weight.fill_(1)
    one.bias = other.bias = None
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize(
    "change",
    [
        {"act_layer": "quick_gelu"},
        {"num_heads": 4},
        {"norm_layer": partial(torch.nn.LayerNorm, eps=1e-3)},
    ],
    ids=["activation", "heads", "epsilon"],
)
def test_equal_weights_in_another_network_differ(change):
    """For example CLIP's weights with the exact GELU: no tensor shows the difference."""
    shape = {"depth": 1, "embed_dim": 12, "num_heads": 3, "img_size": 32}
    one, other = (
        timm.create_model("vit_tiny_patch16_224", **{**shape, **given}).eval()
        for given in ({}, change)
    )
    with torch.no_grad():
        for part in one.parameters():
            part.copy_(torch.randn(part.shape) / 4)
    other.load_state_dict(one.state_dict())
    images = torch.rand(1, 3, 32, 32) / 50  # small, so that the norm's epsilon has an effect
    assert not torch.equal(one(images), other(images))
    assert fingerprint(one) != fingerprint(other)
