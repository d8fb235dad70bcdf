"""Promises of a discovery back-end, checked on tiny networks and drawn images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions
from gtacli.discovery.base import ObjectMaps
from gtacli.models.packed_linear import pack
from gtacli.testing.inputs import (
    OTHER_NETWORKS,
    devices,
    drawn_images,
    half_precision,
    loaded,
    tiny_vit,
)
from gtacli.testing.options import Promises, build_options, option_promises
from gtacli.testing.promises import NotApplicable, clear_error, require, works_or_says
from gtacli.testing.state import unchanged_network, unchanged_process

WIDE = (32, 48)
"""Size of images that are not square."""


def discovery_promises(part: Any, given: Mapping[str, Any]) -> Promises:
    """Return the promises of a back-end's class with some options."""

    def on(promise: Callable[[Any, Mapping[str, Any]], None]) -> Callable[[], None]:
        return partial(promise, part, given)

    return {
        **option_promises(part, given, DiscoveryOptions),
        "its maps lie in [0, 1] on the patch grid, in fp32": on(_maps),
        "its masks and boxes fit its maps": on(_masks),
        "an image without an object gives finite maps": on(_blank),
        "equal images give equal maps, alone or in a batch": on(_deterministic),
        "several threads may call it at once": on(_threads),
        "it works in inference mode and in bfloat16 autocast": on(_modes),
        "without gradients it runs on fused kernels": on(_packed),
        "it leaves the model as it is, without hooks": on(_model_alone),
        "it leaves the state of the process as it is": on(_process_alone),
        "a block that the model does not have is an error in words": on(_no_such_block),
        "it supports other networks or refuses them in words": on(_other_networks),
        "its maps have a version": on(_version),
    }


def backend(
    part: Any,
    given: Mapping[str, Any],
    model: nn.Module | None = None,
    size: tuple[int, int] = (32, 32),
) -> Any:
    """Return a back-end for a tiny network, made as `gta discover` makes it."""
    network = (model or tiny_vit()).eval().requires_grad_(False)
    options = build_options(part, given, DiscoveryOptions)
    return part(part.resolve(options, loaded(network, size)), network)


def require_maps(found: object, images: Tensor, grid: tuple[int, int]) -> ObjectMaps:
    """Require maps as the contract has them."""
    require(isinstance(found, ObjectMaps), f"find() returns {type(found).__name__}, no ObjectMaps")
    assert isinstance(found, ObjectMaps)
    shape, wanted = tuple(found.maps.shape), (len(images), *grid)
    require(shape == wanted, f"maps have the shape {shape}, not {wanted} (images, patch grid)")
    require(found.maps.dtype == torch.float32, f"maps are {found.maps.dtype}, not float32")
    where, ours = found.maps.device.type, images.device.type
    require(where == ours, f"maps are on {where}, the images on {ours}")
    require(found.maps.isfinite().all(), "maps are not finite")
    low, high = float(found.maps.min()), float(found.maps.max())
    require(low >= 0 and high <= 1, f"maps are in [{low:.3g}, {high:.3g}], not in [0, 1]")
    require(not found.maps.requires_grad, "maps have a gradient: compute them without")
    return found


def _maps(part: Any, given: Mapping[str, Any]) -> None:
    for device in devices():
        images = drawn_images().to(device)
        found = backend(part, given, tiny_vit().to(device)).find(images)
        require_maps(found, images, (4, 4))
    images = drawn_images(2, WIDE)
    found = backend(part, given, tiny_vit(img_size=WIDE), WIDE).find(images)
    require_maps(found, images, (4, 6))


def _masks(part: Any, given: Mapping[str, Any]) -> None:
    found = backend(part, given, tiny_vit(img_size=WIDE), WIDE).find(drawn_images(3, WIDE))
    for name in ("masks", "head_masks", "objects"):
        mask = getattr(found, name)
        if mask is not None:
            require(mask.dtype == torch.bool, f"{name} are {mask.dtype}, not bool")
            shape = tuple(mask.shape)
            fits = (shape[0], *shape[-2:]) == (3, 4, 6) and mask.ndim == 3 + (name != "masks")
            require(fits, f"{name} have the shape {shape} for 3 images of 4 x 6 patches")
    if found.objects is not None:
        require((found.objects.sum(1) <= 1).all(), "objects overlap")
        same = found.masks is None or torch.equal(found.objects[:, 0], found.masks)
        require(same, "the first of objects is not masks")
    if found.boxes is not None:
        boxes = found.boxes
        good = tuple(boxes.shape) == (3, 4) and boxes.dtype == torch.int64
        require(good, f"boxes are {boxes.dtype} {tuple(boxes.shape)}, not int64 (3, 4)")
        low, high = boxes[:, :2], boxes[:, 2:]
        inside = (low >= 0).all() and (high <= torch.tensor([6, 4])).all() and (low <= high).all()
        require(inside, f"boxes are not [x0, y0, x1, y1) in patches: {boxes.tolist()}")


def _blank(part: Any, given: Mapping[str, Any]) -> None:
    images = torch.zeros(2, 3, 32, 32)
    require_maps(backend(part, given).find(images), images, (4, 4))


def _deterministic(part: Any, given: Mapping[str, Any]) -> None:
    images, model = drawn_images(), tiny_vit()
    first = backend(part, given, model).find(images).maps
    again = backend(part, given, model).find(images).maps
    require(torch.equal(first, again), "equal images give different maps")
    alone = backend(part, given, model).find(images[:1]).maps
    apart = float((alone - first[:1]).abs().max())
    require(apart < 1e-2, f"a map differs by {apart:.2g} alone and in a batch")


def _threads(part: Any, given: Mapping[str, Any]) -> None:
    finder = backend(part, given)
    batches = [drawn_images(2, seed=seed) for seed in range(6)]
    wanted = [finder.find(images).maps for images in batches]
    with ThreadPoolExecutor(3) as pool:
        found = [one.maps for one in pool.map(finder.find, batches)]
    same = all(torch.allclose(a, b, atol=1e-4) for a, b in zip(wanted, found, strict=True))
    require(same, "maps from several threads differ: keep the state of a batch out of self")


def _modes(part: Any, given: Mapping[str, Any]) -> None:
    for device in devices():
        images = drawn_images().to(device)
        finder = backend(part, given, tiny_vit().to(device))
        with torch.inference_mode():
            require_maps(finder.find(images), images, (4, 4))
        with half_precision(device):
            require_maps(finder.find(images), images, (4, 4))


def _packed(part: Any, given: Mapping[str, Any]) -> None:
    if part.needs_gradients:
        raise NotApplicable("it computes gradients")
    plain = backend(part, given).find(drawn_images()).maps
    fused = backend(part, given, pack(tiny_vit().requires_grad_(False))).find(drawn_images()).maps
    apart = float((plain - fused).abs().max())
    require(apart < 1e-2, f"on fused kernels a map differs by {apart:.2g}")


def _model_alone(part: Any, given: Mapping[str, Any]) -> None:
    model = tiny_vit().requires_grad_(False)
    with unchanged_network(model, "finding objects"):
        backend(part, given, model).find(drawn_images())


def _process_alone(part: Any, given: Mapping[str, Any]) -> None:
    model = tiny_vit()
    backend(part, given, model).find(drawn_images())  # imports what it needs
    images = drawn_images()
    with unchanged_process("finding objects"):
        backend(part, given, model).find(images)


def _no_such_block(part: Any, given: Mapping[str, Any]) -> None:
    if "layer" not in part.Options.model_fields:
        raise NotApplicable("it has no option layer")
    with clear_error("layer=99", ["99"]):
        backend(part, {**given, "layer": 99}).find(drawn_images())


def _other_networks(part: Any, given: Mapping[str, Any]) -> None:
    for name, changes in {**OTHER_NETWORKS, "a ViT without classes": {"num_classes": 0}}.items():
        size = changes.get("img_size", (32, 32))
        images = drawn_images(2, size)
        with works_or_says(name):
            finder = backend(part, given, tiny_vit(**changes), size)
            require_maps(finder.find(images), images, (size[0] // 8, size[1] // 8))


def _version(part: Any, given: Mapping[str, Any]) -> None:
    good = isinstance(part.version, int) and part.version >= 1
    require(good, f"version is {part.version!r}: a number, raised with every change of the maps")
