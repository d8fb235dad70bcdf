"""What the networks look at in the report's images: attention, as few bytes as the page can hold.

Of each network and image: the CLS token's attention in every block and head, and every patch's
(mean over the heads) in the last block, of the first images in all blocks. Softmax over the full
row, patch columns, as `gtacli.Tap.maps`. Grids of more than SIDE patches a side are resampled to
that.

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
from gtacli.images.packed import Packed
from gtacli.models.frozen import pack
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Request, Tap, TappedViT, absolute_layers, require_cls
from gtacli.runtime.devices import Compute

SIDE = 14


@dataclass(frozen=True)
class Look:
    """One network's attention and answers.

    Attributes:
        grid: (gh, gw) of the maps.
        maps: float16 (I, L, H, gh, gw), the CLS token's row.
        rows: float16 (I, N, N), the patches' rows in the last block, mean over heads.
        deep: float16 (first images, L, N, N), the same in every block.
        answers: of each image the class's number and its probability; empty without classifier.
    """

    grid: tuple[int, int]
    maps: NDArray[np.float16]
    rows: NDArray[np.float16]
    deep: NDArray[np.float16]
    answers: list[tuple[int, float]]


def transform_of(model: LoadedModel) -> EvalTransform:
    """The part of an image that evaluation sees."""
    return EvalTransform(model.image_size, model.crop_pct, model.interpolation)


def see(image: Path | Packed, view: EvalTransform) -> Tensor:
    """uint8 (3, h, w), as evaluation sees an image. Raises ImageError."""
    pixels = load(image, view.load_size, view.interpolation)
    return view(torch.from_numpy(pixels).permute(2, 0, 1))


def look(
    model: LoadedModel,
    views: Sequence[Tensor],
    compute: Compute,
    classes: int,
    deep_cells: float = 0,
    batch_size: int = 8,
) -> Look:
    """Attention and answers on images of `transform_of`.

    Args:
        views: uint8 (3, *image_size) each, at least one.
        classes: that the classifier must have for its answers to count; 0: none are wanted.
        deep_cells: how many values `deep` may have; of as many images as that allows.

    Raises UsageError for a network without a CLS token.
    """
    require_cls(model.model, "attention", "its maps would have no row to show")
    network, as_input = readied(model, compute), model.view(compute.device)
    wanted = bool(classes) and getattr(network, "num_classes", 0) == classes
    layers = absolute_layers("all", len(cast(nn.ModuleList, network.blocks)))
    tapped = TappedViT(network, Request(layers, "all", output=wanted))
    grid = (min(model.grid[0], SIDE), min(model.grid[1], SIDE))
    patches = grid[0] * grid[1]
    wanted_deep = min(len(views), int(deep_cells / (len(layers) * patches**2)))
    answers: list[tuple[int, float]] = []
    maps, rows = [], []
    deep = [np.empty((0, len(layers), patches, patches), np.float16)]
    for start in range(0, len(views), batch_size):
        images = as_input(torch.stack([*views[start : start + batch_size]]).to(compute.device))
        with torch.inference_mode(), compute.autocast():
            reading = tapped.read(tapped(images), images.shape)
            taps = [*reading.taps.values()]
            cls = [_pooled(tap.cls().maps(), grid) for tap in taps]
            maps.append(_half(torch.stack(cls, 1)))
            rows.append(_half(_rows(taps[-1], grid)))
            if start < wanted_deep:
                every = torch.stack([_rows(tap, grid) for tap in taps], 1)
                deep.append(_half(every[: wanted_deep - start]))
            if wanted:
                assert reading.logits is not None
                best = reading.logits.float().softmax(-1).max(-1)
                answers += zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Look(grid, np.concatenate(maps), np.concatenate(rows), np.concatenate(deep), answers)


def readied(model: LoadedModel, compute: Compute) -> nn.Module:
    """Its network on the device, as fast as it gets there; it can only run from now on."""
    network = model.model.to(compute.device).eval().requires_grad_(False)
    return pack(network) if compute.dtype == torch.float32 else network


def _rows(tap: Tap, grid: tuple[int, int]) -> Tensor:
    """(B, N, N): mean over heads, patch queries; queries on a finer grid are averaged too."""
    maps_BHRhw = tap.maps()
    own = maps_BHRhw.shape[-2:]
    rows = maps_BHRhw[:, :, tap.num_prefix_tokens :].float().mean(1)  # (B, n, h, w)
    rows = _pooled(rows, grid).flatten(2)  # (B, n, N)
    if own != grid:
        queries = rows.transpose(1, 2).unflatten(2, own)  # (B, N, h, w)
        rows = F.interpolate(queries, grid, mode="bilinear", antialias=True).flatten(2).mT
    return rows


def _pooled(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """(..., h, w) -> (..., gh, gw), each still the share of the attention in a cell."""
    own = maps.shape[-2:]
    if tuple(own) == grid:
        return maps.float()
    flat = maps.float().reshape(-1, 1, *own)
    cells = F.interpolate(flat, grid, mode="bilinear", antialias=True)
    return cells.reshape(*maps.shape[:-2], *grid) * (own[0] * own[1] / (grid[0] * grid[1]))


def _half(values: Tensor) -> NDArray[np.float16]:
    return values.half().cpu().numpy()
