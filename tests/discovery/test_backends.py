"""Tests of the back-ends against their published code, run on the same weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from gtacli.config.base import build
from gtacli.discovery import Discovery, normalized_cut
from gtacli.discovery.base import unit_range
from gtacli.errors import UsageError
from gtacli.measures.attention import mass_mask
from gtacli.registry import DISCOVERY

SMALL = {"embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5}


def make(arch: str = "vit_tiny_patch16_224", **kwargs: Any) -> nn.Module:
    """Create a small ViT with weights drawn in the order of their names."""
    model = timm.create_model(arch, **{**SMALL, **kwargs}).eval()
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for name in sorted(state):
        scale = 0.5 if state[name].ndim == 1 else 0.3
        state[name] = torch.randn(state[name].shape, generator=generator) * scale
    model.load_state_dict(state)
    return model.requires_grad_(False)


def backend(name: str, model: nn.Module, **options: Any) -> Discovery[Any]:
    part = DISCOVERY.load(name)
    plain: dict[str, Any] = {}
    if name in ("tokencut", "found", "lost"):
        plain = {"layer": -1, "tau": 0.2}
    if name == "object-dino":
        plain = {"heads": ("1.0", "2.1"), "tau": 0.2, "side": "seed"}
    if name == "tokencut":
        plain |= {"side": "seed", "vote": ()}
    return part(build(part.Options, plain | options, f"discovery.{name}"), model)


def images(h: int, w: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, h, w, generator=torch.Generator().manual_seed(1))


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 64}),
    "distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 64}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 56}),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 64}),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 56}),
    "no-cls": ("vit_medium_patch16_gap_256", {"img_size": 64}),
    "not-square": ("vit_tiny_patch16_224", {"img_size": (64, 96)}),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["tokencut", "dino", "gradcam", "found", "lost", "object-dino"])
def test_maps_on_the_grid_of_every_family(name: str, family: str) -> None:
    arch, kwargs = FAMILIES[family]
    size = kwargs["img_size"]
    model = make(arch, **kwargs)
    if name in ("dino", "found") and family == "no-cls":
        with pytest.raises(UsageError, match="backend: this model has no CLS token"):
            backend(name, model)
        return
    found = backend(name, model).find(images(*(size if isinstance(size, tuple) else (size, size))))
    assert found.maps.shape == (2, 4, 6 if family == "not-square" else 4)
    assert found.maps.dtype == torch.float32
    assert not found.maps.requires_grad
    assert found.maps.amin((1, 2)).tolist() == [0, 0]
    assert set(found.maps.amax((1, 2)).tolist()) <= {0, 1}  # 0: no cut, or no evidence
    if name != "gradcam":
        assert found.masks is not None
        assert found.masks.shape == found.maps.shape
        assert found.masks.dtype == torch.bool
    if name == "tokencut":
        assert found.boxes is not None
        assert found.boxes.shape == (2, 4)


def test_tokencut_cuts_the_keys_without_prefix_tokens() -> None:
    model = make("vit_small_patch14_reg4_dinov2", img_size=56)
    batch = images(56, 56)
    caught: list[Tensor] = []
    hook = model.blocks[1].attn.qkv.register_forward_hook(lambda m, i, o: caught.append(o))
    model(batch)
    hook.remove()
    keys = caught[0][:, 5:, 24:48]  # CLS and four registers; q, k, v side by side
    expected = normalized_cut(keys, (4, 4), 0.1)
    found = backend("tokencut", model, layer=1, tau=0.1).find(batch)
    torch.testing.assert_close(found.maps, expected.map, atol=1e-4, rtol=0)
    assert torch.equal(found.masks, expected.mask)
    assert torch.equal(found.boxes, expected.box)


# facebookresearch/dino: VisionTransformer with these weights, get_last_selfattention, and the
# threshold of visualize_attention.py at 0.6; images by heads, rows of 6 patches.
OFFICIAL_MASKS = """
110000000110010100111001100000100010 010001010010100111101100101111011011
011000100110010100001010110010100000 000110010001010101001010000000101100
011011010100001000110111100101001111 001100011010111011000000100111000100
"""


def test_head_masks_equal_dinos_code() -> None:
    model = make(img_size=48, patch_size=8)
    found = backend("dino", model).find(images(48, 48))
    expected = [[int(cell) for cell in head] for head in OFFICIAL_MASKS.split()]
    assert found.head_masks is not None
    assert found.head_masks.view(6, 36).int().tolist() == expected


@pytest.mark.parametrize("heads", ["max", "mean", "best"])
def test_dino_reduces_heads_to_one_map(heads: str) -> None:
    model = make(img_size=48, patch_size=8)
    batch = images(48, 48)
    (caught,) = [b.attn for b in model.blocks[-1:]]
    caught.fused_attn = False
    seen: list[Tensor] = []
    hook = caught.attn_drop.register_forward_hook(lambda m, i, o: seen.append(o))
    model(batch)
    hook.remove()
    caught.fused_attn = True
    rows = seen[0][:, :, 0, 1:].unflatten(-1, (6, 6))
    found = backend("dino", model, heads=heads, mass=0.5).find(batch)
    masks = mass_mask(rows, 0.5)
    if heads == "best":
        chosen = []
        for image in masks.numpy():
            iou = [[(a & b).sum() / (a | b).sum() for b in image] for a in image]
            chosen.append(int(np.mean(iou, 1).argmax()))
        expected = rows[[0, 1], chosen]
        assert torch.equal(found.masks, masks[[0, 1], chosen])
    else:
        expected = rows.amax(1) if heads == "max" else rows.mean(1)
        assert torch.equal(found.masks, mass_mask(expected, 0.5))
    torch.testing.assert_close(found.maps, unit_range(expected), atol=1e-5, rtol=0)


def test_mask_is_the_smallest_with_its_mass() -> None:
    attention = torch.rand(20, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    mask = mass_mask(attention, 0.6)
    share = (attention * mask).sum((-2, -1)) / attention.sum((-2, -1))
    least = attention.masked_fill(~mask, 2).amin((-2, -1)) / attention.sum((-2, -1))
    assert (share >= 0.6 - 1e-6).all()
    assert (share - least < 0.6).all()


# The grad-cam package's get_cam_image with target_layers=[model.blocks[layer].norm1], its ReLU and
# scale_cam_image; two images of 4 x 6 patches.
PACKAGE_MAPS: dict[tuple[int, object], str] = {
    (-1, 3): """
        0.7996 0.2920 0.2246 0.2762 0.5580 0.9735 1.0000 0.0000 0.0000 0.5770 0.9014 0.0000
        0.5501 0.7783 0.0000 0.1627 0.1850 0.5616 0.3392 0.0000 0.3332 0.2990 0.6452 0.9456
        0.0470 0.3667 0.0392 0.4604 0.1263 0.3499 0.5943 0.1530 0.9228 0.7288 0.1740 0.0402
        0.3774 0.0000 0.1775 0.3416 0.4193 0.0357 0.4353 0.1381 0.6799 0.0000 1.0000 0.0781
    """,
    (-2, "predicted"): """
        0.5479 0.4909 0.0000 0.2799 0.2051 0.4090 0.1104 0.0827 0.0914 0.2385 0.6745 0.0000
        0.0183 0.1614 0.2743 0.0660 0.0524 0.4686 0.1100 0.1902 0.3953 0.7059 0.1820 1.0000
        0.3358 0.6107 0.2945 0.1964 0.2791 0.2569 0.0000 0.2261 0.3504 0.5861 0.3745 0.1530
        0.0000 0.2458 1.0000 0.0000 0.3383 0.3764 0.6429 0.4892 0.2624 0.3857 0.6233 0.7086
    """,
}


@pytest.mark.parametrize(("layer", "wanted"), PACKAGE_MAPS)
def test_gradcam_equals_recorded_package_output(layer: int, wanted: object) -> None:
    model = make(img_size=(32, 48), patch_size=8)
    found = backend("gradcam", model, layer=layer, target_class=wanted).find(images(32, 48))
    expected = torch.tensor([float(x) for x in PACKAGE_MAPS[layer, wanted].split()]).view(2, 4, 6)
    torch.testing.assert_close(found.maps, expected, atol=2e-4, rtol=0)


def test_gradcam_equals_package() -> None:
    package = pytest.importorskip("pytorch_grad_cam")
    model = make("vit_tiny_patch16_224", img_size=(32, 48), patch_size=8).requires_grad_(True)
    found = backend("gradcam", model).find(images(32, 48, 4))

    def to_image(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].unflatten(1, (4, 6)).permute(0, 3, 1, 2)

    with package.GradCAM(model, [model.blocks[-1].norm1], to_image) as cam:
        cam(images(32, 48, 4), None)  # its map is resized; compared before that
        (a,), (g,) = cam.activations_and_grads.activations, cam.activations_and_grads.gradients
        raw = cam.get_cam_image(None, None, None, a.numpy(), g.numpy(), False)
    expected = unit_range(torch.from_numpy(raw).relu())
    torch.testing.assert_close(found.maps, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradcam_does_not_change_the_model(trainable: bool, mode: Any) -> None:
    model = make(img_size=32, patch_size=8).requires_grad_(trainable)
    for p in model.parameters():
        p.grad = torch.full_like(p, 3.0) if trainable else None
    with mode():
        batch = images(32, 32)
        found = backend("gradcam", model).find(batch)
    assert found.maps.max() == 1
    assert not batch.requires_grad
    for p in model.parameters():
        assert p.requires_grad == trainable
        assert p.grad is None if not trainable else bool((p.grad == 3).all())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert not module._forward_pre_hooks


def test_gradcam_does_not_depend_on_the_batch() -> None:
    model = make(img_size=(32, 48), patch_size=8)
    part = backend("gradcam", model, layer=0)
    batch = images(32, 48, 3)
    alone = torch.cat([part.find(image[None]).maps for image in batch])
    torch.testing.assert_close(part.find(batch).maps, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "kwargs", "message"),
    [
        ("gradcam", {}, {"num_classes": 0}, "backend: gradcam needs a classifier"),
        ("gradcam", {"target_class": 5}, {}, "there is no class 5; this model has 5"),
        ("gradcam", {"layer": 3}, {}, "there is no block 3; this model has 3"),
        ("tokencut", {"layer": -4}, {}, "there is no block -4"),
        ("dino", {"layer": 7}, {}, "there is no block 7"),
        ("tokencut", {"tau": "much"}, {}, r"discovery.tokencut.tau: must be a number"),
        ("dino", {"heads": "median"}, {}, "heads: must be one of max, mean, best"),
        ("dino", {"mass": 1.5}, {}, "mass: must be less than 1"),
    ],
)
def test_invalid_options_are_rejected_at_construction(
    name: str, options: dict[str, Any], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        backend(name, make(img_size=32, **kwargs), **options)


@pytest.mark.parametrize("name", ["tokencut", "dino", "gradcam"])
def test_unsupported_model_is_named(name: str) -> None:
    with pytest.raises(UsageError, match="model: ResNet is not a ViT"):
        backend(name, timm.create_model("resnet10t"))


def test_gradcam_rejects_post_norm_blocks() -> None:
    from timm.models.vision_transformer import ResPostBlock

    model = make(img_size=32, block_fn=ResPostBlock)
    with pytest.raises(UsageError, match="ResPostBlock has no normalized input"):
        backend("gradcam", model).find(images(32, 32))


def test_constant_maps_become_zero() -> None:
    maps = torch.stack((torch.full((2, 3), 4.0), torch.arange(6.0).view(2, 3)))
    assert unit_range(maps).amax((1, 2)).tolist() == [0, 1]
    assert not unit_range(maps)[0].any()
