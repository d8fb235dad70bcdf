"""Promises of a kind of attention maps, checked on tiny networks and drawn images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from gtacli.config.parts import MapOptions
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


def map_promises(part: Any, given: Mapping[str, Any]) -> Promises:
    """Return the promises of the class of a kind of maps with some options."""

    def on(promise: Callable[[Any, Mapping[str, Any]], None]) -> Callable[[], None]:
        return partial(promise, part, given)

    return {
        **option_promises(part, given, MapOptions),
        "its maps are finite on the patch grid, in fp32 on the CPU": on(_maps),
        "it has masks where they are asked for": on(_masks),
        "equal images give equal maps, alone or in a batch": on(_deterministic),
        "several threads may call it at once": on(_threads),
        "it works in inference mode and in bfloat16 autocast": on(_modes),
        "without gradients it runs on fused kernels": on(_packed),
        "it leaves the model as it is, without hooks": on(_model_alone),
        "it leaves the state of the process as it is": on(_process_alone),
        "a block that the model does not have is an error in words": on(_no_such_block),
        "it supports other networks or refuses them in words": on(_other_networks),
    }


def method(
    part: Any,
    given: Mapping[str, Any],
    model: nn.Module | None = None,
    size: tuple[int, int] = (32, 32),
    **how: Any,
) -> Any:
    """Return the kind's method for a tiny network, made as `gta attention-map` makes it."""
    network = (model or tiny_vit()).eval().requires_grad_(False)
    return part(build_options(part, given, MapOptions), loaded(network, size), **how)


def require_maps(found: Any, count: int, grid: tuple[int, int]) -> list[Tensor]:
    """Require maps of `count` images as the contract has them; return them."""
    require(isinstance(found, list) and found, f"it returns {type(found).__name__}, no list")
    maps = []
    for one in found:
        require(hasattr(one, "select"), f"the list holds {type(one).__name__}, no AttentionMap")
        shape = tuple(one.maps.shape)
        fits = (shape[0], *shape[-2:]) == (count, *grid) and one.maps.ndim in (3, 4)
        require(fits, f"maps have the shape {shape} for {count} images of {grid} patches")
        require(one.maps.dtype == torch.float32, f"maps are {one.maps.dtype}, not float32")
        require(one.maps.device.type == "cpu", f"maps are on {one.maps.device.type}, not the CPU")
        require(one.maps.isfinite().all(), "maps are not finite")
        require(not one.maps.requires_grad, "maps have a gradient: detach them")
        require(isinstance(one.layer, int) and one.layer >= 0, f"layer is {one.layer!r}")
        maps.append(one.maps)
    return maps


def _maps(part: Any, given: Mapping[str, Any]) -> None:
    for device in devices():
        made = method(part, given, tiny_vit().to(device))
        with torch.no_grad():  # as it is called
            maps = require_maps(made(drawn_images().to(device)), 4, (4, 4))
        low = min(float(one.min()) for one in maps)
        require(low >= 0, f"a map for a picture has {low:.3g}: negative values are for arrays")
    for raw in (False, True):
        made = method(part, given, tiny_vit(img_size=WIDE), WIDE, raw=raw)
        with torch.no_grad():
            require_maps(made(drawn_images(2, WIDE)), 2, (4, 6))


def _masks(part: Any, given: Mapping[str, Any]) -> None:
    with torch.no_grad():
        plain = method(part, given)(drawn_images())
        masked = method(part, given, mass=0.6)(drawn_images())
    require(all(one.masks is None for one in plain), "it has masks without a mass")
    for one in masked:
        good = one.masks is not None and one.masks.dtype == torch.bool
        require(good and one.masks.shape == one.maps.shape, "masks are not bool as large as maps")


def _deterministic(part: Any, given: Mapping[str, Any]) -> None:
    images, model = drawn_images(), tiny_vit()
    with torch.no_grad():
        first = require_maps(method(part, given, model)(images), 4, (4, 4))
        again = require_maps(method(part, given, model)(images), 4, (4, 4))
        alone = require_maps(method(part, given, model)(images[:1]), 1, (4, 4))
    same = all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    require(same, "equal images give different maps")
    apart = max(_apart(a[:1], b) for a, b in zip(first, alone, strict=True))
    require(apart < 1e-3, f"a map differs by {apart:.2g} of its largest value alone and in a batch")


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max().clamp_min(1e-12))


def _threads(part: Any, given: Mapping[str, Any]) -> None:
    made = method(part, given)
    batches = [drawn_images(2, seed=seed) for seed in range(6)]

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return require_maps(made(images), 2, (4, 4))

    wanted = [run(images) for images in batches]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(run, batches))
    pairs = zip(chain(*wanted), chain(*found), strict=True)
    same = max(_apart(a, b) for a, b in pairs) < 1e-3
    require(same, "maps from several threads differ: keep the state of a batch out of self")


def _modes(part: Any, given: Mapping[str, Any]) -> None:
    for device in devices():
        images = drawn_images().to(device)
        made = method(part, given, tiny_vit().to(device))
        with torch.inference_mode():
            require_maps(made(images), 4, (4, 4))
        with torch.no_grad(), half_precision(device):
            require_maps(made(images), 4, (4, 4))


def _packed(part: Any, given: Mapping[str, Any]) -> None:
    if part.needs_gradients:
        raise NotApplicable("it computes gradients")
    packed, images = pack(tiny_vit().requires_grad_(False)), drawn_images()
    with torch.no_grad():
        plain = require_maps(method(part, given)(images), 4, (4, 4))
        fused = require_maps(method(part, given, packed)(images), 4, (4, 4))
    apart = max(_apart(a, b) for a, b in zip(plain, fused, strict=True))
    require(apart < 1e-2, f"on fused kernels a map differs by {apart:.2g} of its largest value")


def _model_alone(part: Any, given: Mapping[str, Any]) -> None:
    model = tiny_vit().requires_grad_(False)
    with torch.no_grad(), unchanged_network(model, "computing maps"):
        method(part, given, model)(drawn_images())


def _process_alone(part: Any, given: Mapping[str, Any]) -> None:
    with torch.no_grad():
        method(part, given)(drawn_images())  # imports what it needs
    made, images = method(part, given), drawn_images()
    with unchanged_process("computing maps"), torch.no_grad():
        made(images)


def _no_such_block(part: Any, given: Mapping[str, Any]) -> None:
    if "layer" not in part.Options.model_fields:
        raise NotApplicable("it has no option layer")
    with clear_error("layer=99", ["99"]):
        method(part, {**given, "layer": 99})(drawn_images())


def _other_networks(part: Any, given: Mapping[str, Any]) -> None:
    for name, changes in {**OTHER_NETWORKS, "a ViT without classes": {"num_classes": 0}}.items():
        size = changes.get("img_size", (32, 32))
        refused = False
        with works_or_says(name), torch.no_grad():
            refused = True
            made = method(part, given, tiny_vit(**changes), size)
            refused = False
            require_maps(made(drawn_images(2, size)), 2, (size[0] // 8, size[1] // 8))
        if name == "a ViT without a CLS token":
            require(not refused or part.needs_cls, f"it refuses {name}, but needs_cls is False")
