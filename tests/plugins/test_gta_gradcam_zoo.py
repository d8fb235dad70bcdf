"""Tests of the plug-in gta-gradcam-zoo: parity with the package grad-cam on timm's networks."""

from __future__ import annotations

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from gta_gradcam_zoo.kind import CLASSES, ClassActivation
from gta_gradcam_zoo.options import ClassActivationOptions
from gtacli.config.parts import GradCAMOptions
from gtacli.discovery.gradcam import GradCAM
from gtacli.errors import UsageError
from gtacli.testing import checks
from gtacli.testing.inputs import drawn_images, loaded, tiny_vit
from gtacli.testing.promises import NotApplicable

package = pytest.importorskip("pytorch_grad_cam")


def compute(network: Any, images: Any, **options: Any) -> Any:
    size = (images.shape[-2], images.shape[-1])
    frozen = copy.deepcopy(network).requires_grad_(False)
    kind = ClassActivation(ClassActivationOptions(**options), loaded(frozen, size))
    with torch.no_grad():
        (found,) = kind(images)
    return found.maps


def direct(
    network: Any, images: Any, method: str, layer: int = -1, target: int | None = None
) -> Any:
    """Return the maps (B, h, w) as the package's own documentation computes them for ViTs."""
    grid = network.patch_embed.grid_size

    def reshape(tokens: Any) -> Any:
        kept = tokens[:, network.num_prefix_tokens :]
        return kept.reshape(len(tokens), *grid, -1).transpose(2, 3).transpose(1, 2)

    more = {"ablation_layer": package.AblationLayerVit()} if method == "ablationcam" else {}
    made = getattr(package, CLASSES[method])(
        network, [network.blocks[layer].norm1], reshape_transform=reshape, **more
    )
    picker = package.utils.model_targets.ClassifierOutputTarget
    targets = None if target is None else [picker(target)] * len(images)
    return made(images, targets=targets)


@pytest.mark.parametrize("method", CLASSES)
@pytest.mark.parametrize(
    ("changes", "layer", "target"),
    [({}, -1, None), ({"img_size": (32, 48), "reg_tokens": 2}, 1, 2)],
    ids=["plain", "registers"],
)
def test_parity(method: str, changes: dict[str, Any], layer: int, target: int | None) -> None:
    network = tiny_vit(**changes)
    size = changes.get("img_size", (32, 32))
    images = drawn_images(3, size)
    found = compute(
        network, images, method=method, layer=layer,
        target_class="predicted" if target is None else target,
    ).numpy()  # fmt: skip
    expected = direct(network, images, method, layer, target)
    scale = package.utils.image.scale_cam_image
    resized = scale(scale(found, (size[1], size[0])))
    np.testing.assert_allclose(resized, expected, atol=2e-4)
    assert found.min() >= 0
    assert found.max() <= 1


def test_gradcam_is_that_of_gtacli() -> None:
    network, images = tiny_vit(), drawn_images()
    own = GradCAM(GradCAMOptions(), copy.deepcopy(network).requires_grad_(False)).find(images).maps
    found = compute(network, images, method="gradcam")
    for one, other in zip(own, found, strict=True):
        if one.any():
            torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", CLASSES)
def test_conformance(method: str) -> None:
    for check in checks(ClassActivation, {"method": method}):
        try:
            check()
        except NotApplicable:
            continue


@pytest.mark.parametrize("method", CLASSES)
def test_nothing_is_left(method: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No hook, gradient or mode of the network, and no progress bar."""
    network = tiny_vit().requires_grad_(False)
    network.train()
    kind = ClassActivation(ClassActivationOptions(method=method), loaded(network))  # type: ignore[arg-type]
    modules = [*network.modules()]
    with torch.no_grad():
        kind(drawn_images(2))
    assert [*network.modules()] == modules
    assert all(not m._forward_hooks and not m._backward_hooks and m.training for m in modules)
    assert all(p.grad is None for p in network.parameters())
    assert capfd.readouterr() == ("", "")
    assert "tqdm" in package.score_cam.__dict__
    assert package.score_cam.tqdm is sys.modules["tqdm"]


@pytest.mark.parametrize("method", ["gradcam++", "scorecam", "ablationcam"])
def test_methods_in_several_threads(method: str) -> None:
    network = tiny_vit().requires_grad_(False)
    kind = ClassActivation(ClassActivationOptions(method=method), loaded(network))  # type: ignore[arg-type]
    batches = [drawn_images(2, seed=seed) for seed in range(6)]
    expected = [kind(images)[0].maps for images in batches]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda images: kind(images)[0].maps, batches))
    torch.testing.assert_close(found, expected)


def test_wrong_options() -> None:
    with pytest.raises(UsageError, match="there is no class 9; this model has 4"):
        compute(tiny_vit(), drawn_images(1), target_class=9)
    with pytest.raises(UsageError, match="cam needs a classifier"):
        compute(tiny_vit(num_classes=0), drawn_images(1))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UsageError, match=r"cam needs the package grad-cam .*pip install grad-cam"):
        compute(tiny_vit(), drawn_images(1))
