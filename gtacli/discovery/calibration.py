"""Calibrate TokenCut for a network: choose the block and tau without labels.

DINO's keys separate objects from the background in the last block at tau 0.2 (Wang et al., arXiv
2202.11539). Those of other weights do so in other blocks and at other tau; with DINO's settings all
of their patches may be connected. The program draws scenes whose objects it knows, and takes the
block and tau with the best cuts (mean IoU). The scenes are the same for every network, so the
result depends on the weights and the image size only.

Every block and tau is tested on a few scenes and the best ones on all (successive halving).
`benchmarks/auto_layer.py` compares the result with photographs and their true masks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from gtacli.config.base import StrictModel
from gtacli.discovery.bipartition import Side
from gtacli.discovery.masks import mask_on
from gtacli.discovery.ncut import normalized_cut
from gtacli.measures.segmentation import iou
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import attention
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.cache import cache_dir
from gtacli.runtime.strict_json import read_json, reason_of
from gtacli.scenes.digest import drawing_digest
from gtacli.scenes.trials import draw_trial

log = logging.getLogger(__name__)

TAUS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FIRST, SCENES = 8, 24
FINALISTS = 16
BATCH = 4  # images whose keys of all blocks are in memory at a time
VERSION = 1  # of the procedure; part of the cache key

LayerTau = tuple[int, float]
MaskedImages = tuple[Tensor, Sequence[NDArray[np.bool_]]]
"""Normalized images (B, 3, h, w) and the true mask of each, of any size."""


class Calibration(StrictModel):
    """A block and tau with their mean IoU on the drawn scenes."""

    layer: int
    tau: float
    iou: float = Field(ge=0, le=1)


def cached_calibration(
    model: LoadedModel,
    layers: Sequence[int],
    taus: Sequence[float],
    eps: float,
    side: Side = "seed",
) -> Calibration:
    """Return the best of `layers` x `taus` for a model at its image size; the result is cached.

    Args:
        model: frozen, in eval mode; it stays on its device.
        layers: absolute block numbers.
        eps, side: as in `normalized_cut`.
    """
    size = f"{model.image_size[0]}x{model.image_size[1]} px"
    file = cache_dir() / "tokencut" / f"{_key(model, layers, taus, eps, side)}.json"
    best = _read(file, layers, taus)
    how = "cached"
    if best is None:
        log.info("tokencut: choosing layer and tau for %s at %s, once", model.spec, size)
        start = time.perf_counter()
        best = calibrate(model, layers, taus, eps, side)
        how = f"chosen in {time.perf_counter() - start:.0f} s"
        _write(file, best)
    log.info(
        "tokencut: layer %d, tau %g at %s (%s; mean IoU %.1f %% on %d drawn scenes)",
        *(best.layer, best.tau, size, how, 100 * best.iou, SCENES),
    )
    return best


def calibrate(
    model: LoadedModel,
    layers: Sequence[int],
    taus: Sequence[float],
    eps: float,
    side: Side = "seed",
) -> Calibration:
    """Choose the best of `layers` x `taus`; the first one of ties."""
    pairs = [(layer, tau) for layer in layers for tau in taus]
    first = total_iou(model, pairs, draw_scenes(model, range(FIRST)), eps, side)
    best = sorted(pairs, key=first.__getitem__, reverse=True)[:FINALISTS]
    more = total_iou(model, best, draw_scenes(model, range(FIRST, SCENES)), eps, side)
    layer, tau = max(best, key=lambda pair: first[pair] + more[pair])
    mean = float(first[layer, tau] + more[layer, tau]) / SCENES
    return Calibration(layer=layer, tau=tau, iou=mean)


@torch.no_grad()
def total_iou(
    model: LoadedModel,
    pairs: Sequence[LayerTau],
    batches: Iterable[MaskedImages],
    eps: float,
    side: Side = "seed",
) -> dict[LayerTau, float]:
    """Sum the IoU of TokenCut's object with the true mask over the images, by layer and tau."""
    sums = dict.fromkeys(pairs, 0.0)
    layers = sorted({layer for layer, _ in pairs})
    for images, truths in batches:
        for tap in attention(model.model, images, layers, rows="all"):
            keys = tap.patch_keys()
            for layer, tau in pairs:
                if layer == tap.layer:
                    masks = normalized_cut(keys, tap.grid, tau, eps, side=side).mask.cpu()
                    sums[layer, tau] += sum(
                        iou(mask_on((truth.shape[0], truth.shape[1]), mask), truth)
                        for mask, truth in zip(masks.numpy(), truths, strict=True)
                    )
    return sums


def draw_scenes(model: LoadedModel, scenes: Sequence[int]) -> Iterator[MaskedImages]:
    """Draw scenes, stretched to the model's input size and normalized, with their masks."""
    device = next(model.model.parameters()).device
    as_input = model.view(device)
    for start in range(0, len(scenes), BATCH):
        trials = [draw_trial(k, max(model.image_size)) for k in scenes[start : start + BATCH]]
        pixels = torch.from_numpy(np.stack([image for image, _ in trials])).permute(0, 3, 1, 2)
        yield as_input(pixels.to(device)), [mask for _, mask in trials]


def _key(
    model: LoadedModel, layers: Sequence[int], taus: Sequence[float], eps: float, side: Side
) -> str:
    """Return the cache key."""
    parts = (
        *(VERSION, drawing_digest(), fingerprint(model.model)),
        *(model.image_size, model.mean, model.std, list(layers), list(taus), eps, side),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read(file: Path, layers: Sequence[int], taus: Sequence[float]) -> Calibration | None:
    """Return the cached choice; None if there is none, or none of these layers and taus."""
    try:
        found = Calibration.model_validate(read_json(file))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = "its values are not those of a choice"
        if not isinstance(error, ValidationError):
            reason = reason_of(error)
        log.warning("%s is damaged (%s): layer and tau are chosen again", file, reason)
        return None
    return found if found.layer in layers and found.tau in taus else None


def _write(file: Path, calibration: Calibration) -> None:
    text = calibration.model_dump_json()
    try:
        replace_atomic(file, lambda draft: draft.write_text(text, encoding="utf-8"))
    except OSError as error:
        log.warning("cannot write %s (%s): layer and tau are chosen again next time", file, error)
