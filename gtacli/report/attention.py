"""Attention maps of a model on the report's images, in as few bytes as the page can hold.

For each model and image: the CLS token's attention in every block and head, and the attention of
every patch (mean over heads) in the last block; for the first images in all blocks. The softmax
runs over the full row and the maps are its patch columns, as in `gtacli.Tap.maps`. Grids of more
than SIDE patches per side are resampled to SIDE.

Shapes: I images, L blocks, H heads, gh x gw patches, N = gh * gw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.data.augment.transforms import EvalTransform
from gtacli.images.decode import load
from gtacli.images.packed import PackedImage
from gtacli.models.loading import LoadedModel
from gtacli.models.packed_linear import pack
from gtacli.models.tap import Request, Tap, TappedViT, absolute_layers, require_cls
from gtacli.runtime.devices import Compute

SIDE = 14


@dataclass(frozen=True)
class ModelMaps:
    """The attention maps and predictions of one model.

    Attributes:
        grid: (gh, gw) of the maps.
        maps: float16 (I, L, H, gh, gw), attention of the CLS token.
        rows: float16 (I, N, N), attention of the patches in the last block, mean over heads.
        deep: float16 (first images, L, N, N), the same in every block.
        predictions: class index and probability per image; empty without a classifier.
    """

    grid: tuple[int, int]
    maps: NDArray[np.float16]
    rows: NDArray[np.float16]
    deep: NDArray[np.float16]
    predictions: list[tuple[int, float]]


def eval_transform(model: LoadedModel) -> EvalTransform:
    """Return the resize and center crop that evaluation uses for a model."""
    return EvalTransform(model.image_size, model.crop_pct, model.interpolation)


def load_view(image: Path | PackedImage, transform: EvalTransform) -> Tensor:
    """Load an image and apply the transform: uint8 (3, h, w). Raises ImageError."""
    pixels = load(image, transform.load_size, transform.interpolation)
    return transform(torch.from_numpy(pixels).permute(2, 0, 1))


def compute_maps(
    model: LoadedModel,
    views: Sequence[Tensor],
    compute: Compute,
    classes: int,
    deep_values: float = 0,
    batch_size: int = 8,
) -> ModelMaps:
    """Compute a model's attention maps and predictions.

    Args:
        views: at least one uint8 (3, *image_size), made by `eval_transform`.
        classes: number of classes that a classifier must have for its predictions to be returned;
            0: return none.
        deep_values: maximum number of values in `deep`, which limits its number of images.

    Raises UsageError for a model without a CLS token.
    """
    require_cls(model.model, "model", "its attention cannot be shown")
    network, as_input = prepare_network(model, compute), model.view(compute.device)
    predict = bool(classes) and getattr(network, "num_classes", 0) == classes
    layers = absolute_layers("all", len(cast(nn.ModuleList, network.blocks)))
    tapped = TappedViT(network, Request(layers, "all", output=predict))
    grid = (min(model.grid[0], SIDE), min(model.grid[1], SIDE))
    patches = grid[0] * grid[1]
    deep_images = min(len(views), int(deep_values / (len(layers) * patches**2)))
    predictions: list[tuple[int, float]] = []
    maps, rows = [], []
    deep = [np.empty((0, len(layers), patches, patches), np.float16)]
    for start in range(0, len(views), batch_size):
        images = as_input(torch.stack([*views[start : start + batch_size]]).to(compute.device))
        with torch.inference_mode(), compute.autocast():
            reading = tapped.unpack(tapped(images), images.shape)
            taps = [*reading.taps.values()]
            cls = [_resample(tap.cls().maps(), grid) for tap in taps]
            maps.append(_to_half(torch.stack(cls, 1)))
            rows.append(_to_half(_patch_rows(taps[-1], grid)))
            if start < deep_images:
                every = torch.stack([_patch_rows(tap, grid) for tap in taps], 1)
                deep.append(_to_half(every[: deep_images - start]))
            if predict:
                assert reading.logits is not None
                best = model.probabilities(reading.logits.float()).max(-1)
                predictions += zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return ModelMaps(
        grid, np.concatenate(maps), np.concatenate(rows), np.concatenate(deep), predictions
    )


def prepare_network(model: LoadedModel, compute: Compute) -> nn.Module:
    """Move a model's network to the device and optimize it for inference, in place."""
    network = model.model.to(compute.device).eval().requires_grad_(False)
    return pack(network, compute.dtype)


def _patch_rows(tap: Tap, grid: tuple[int, int]) -> Tensor:
    """Return the patches' attention (B, N, N), mean over heads.

    Queries on a finer grid are averaged, too.
    """
    maps_BHRhw = tap.maps()
    own = maps_BHRhw.shape[-2:]
    rows = maps_BHRhw[:, :, tap.num_prefix_tokens :].float().mean(1)  # (B, n, h, w)
    rows = _resample(rows, grid).flatten(2)  # (B, n, N)
    if own != grid:
        queries = rows.transpose(1, 2).unflatten(2, own)  # (B, N, h, w)
        rows = F.interpolate(queries, grid, mode="bilinear", antialias=True).flatten(2).mT
    return rows


def _resample(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample maps (..., h, w) to (..., gh, gw); their sum stays the same."""
    own = maps.shape[-2:]
    if tuple(own) == grid:
        return maps.float()
    flat = maps.float().reshape(-1, 1, *own)
    cells = F.interpolate(flat, grid, mode="bilinear", antialias=True)
    return cells.reshape(*maps.shape[:-2], *grid) * (own[0] * own[1] / (grid[0] * grid[1]))


def _to_half(values: Tensor) -> NDArray[np.float16]:
    return values.half().cpu().numpy()
