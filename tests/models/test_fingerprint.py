"""A fingerprint changes with any tensor, and with nothing else."""

import copy

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


def test_one_changed_weight_shows():
    one, other = a_model(), a_model()
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight[0, 0] += 1e-6
    assert fingerprint(one) != fingerprint(other)


def test_the_precision_counts():
    assert fingerprint(a_model()) != fingerprint(a_model().bfloat16())


def test_equal_bytes_of_another_shape_differ():
    one, other = torch.nn.Linear(4, 2), torch.nn.Linear(2, 4)
    with torch.no_grad():
        for layer in (one, other):
            layer.weight.fill_(1)
    one.bias = other.bias = None
    assert fingerprint(one) != fingerprint(other)
