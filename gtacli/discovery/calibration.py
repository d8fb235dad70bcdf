"""Which block's keys TokenCut cuts, and at which tau: chosen for each network, without a label.

DINO's keys tell objects from ground in the last block at tau 0.2 (Wang et al., arXiv 2202.11539).
Those of other weights do it elsewhere, and may join everything to everything where DINO's do not.
The program draws scenes, so it knows where their creatures are, and takes the pair whose cuts find
them best (mean IoU). The scenes are the same for every network: the choice is a function of the
weights and the image size, whatever is to be segmented.

Every pair is tried on a few scenes and the best of them on all (successive halving). Measured
against photographs with true masks by `benchmarks/auto_layer.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtacli.discovery.masks import mask_on
from gtacli.discovery.ncut import normalized_cut
from gtacli.measures.segmentation import iou
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import attention
from gtacli.runtime.atomic import replace_atomic
from gtacli.runtime.cache import cache_dir
from gtacli.scenes.digest import drawing_digest
from gtacli.scenes.trials import draw_trial

log = logging.getLogger(__name__)

TAUS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FIRST, SCENES = 8, 24
FINALISTS = 16
BATCH = 4  # keys of all blocks of this many images are in memory at a time
VERSION = 1  # of the procedure; a choice of another is made anew

Pair = tuple[int, float]
Batch = tuple[Tensor, Sequence[NDArray[np.bool_]]]
"""Normalised images (B, 3, h, w) and the true mask of each, of any size."""


@dataclass(frozen=True)
class Choice:
    """Block and tau, and the mean IoU with the drawn creatures."""

    layer: int
    tau: float
    iou: float


def chosen(model: LoadedModel, layers: Sequence[int], taus: Sequence[float], eps: float) -> Choice:
    """The best of `layers` x `taus` for a model at its image size, from the user's cache or now.

    Args:
        model: frozen, in eval mode; used on the device where it is.
        layers: absolute block numbers.
        eps: as in `normalized_cut`.
    """
    size = f"{model.image_size[0]}x{model.image_size[1]} px"
    file = cache_dir() / "tokencut" / f"{_key(model, layers, taus, eps)}.json"
    choice = _read(file)
    how = "as chosen before"
    if choice is None:
        log.info("tokencut: choosing layer and tau for %s at %s, once", model.spec, size)
        start = time.perf_counter()
        choice = choose(model, layers, taus, eps)
        how = f"chosen in {time.perf_counter() - start:.0f} s"
        _keep(file, choice)
    log.info(
        "tokencut: layer %d, tau %g at %s (%s; mean IoU %.1f %% on %d drawn scenes)",
        *(choice.layer, choice.tau, size, how, 100 * choice.iou, SCENES),
    )
    return choice


def choose(model: LoadedModel, layers: Sequence[int], taus: Sequence[float], eps: float) -> Choice:
    """The same without a cache; of equal pairs the first."""
    pairs = [(layer, tau) for layer in layers for tau in taus]
    first = found_in(model, pairs, drawn(model, range(FIRST)), eps)
    best = sorted(pairs, key=first.__getitem__, reverse=True)[:FINALISTS]
    more = found_in(model, best, drawn(model, range(FIRST, SCENES)), eps)
    layer, tau = max(best, key=lambda pair: first[pair] + more[pair])
    return Choice(layer, tau, float(first[layer, tau] + more[layer, tau]) / SCENES)


@torch.no_grad()
def found_in(
    model: LoadedModel, pairs: Sequence[Pair], batches: Iterable[Batch], eps: float
) -> dict[Pair, float]:
    """Sum over images of the IoU between the object of each layer and tau and the true one."""
    sums = dict.fromkeys(pairs, 0.0)
    layers = sorted({layer for layer, _ in pairs})
    for images, truths in batches:
        for tap in attention(model.model, images, layers, rows="all"):
            keys = tap.patch_keys()
            for layer, tau in pairs:
                if layer == tap.layer:
                    masks = normalized_cut(keys, tap.grid, tau, eps).mask.cpu().numpy()
                    sums[layer, tau] += sum(
                        iou(mask_on((truth.shape[0], truth.shape[1]), mask), truth)
                        for mask, truth in zip(masks, truths, strict=True)
                    )
    return sums


def drawn(model: LoadedModel, scenes: Sequence[int]) -> Iterator[Batch]:
    """Scenes as the model wants them, stretched to its size, and their masks as they were drawn."""
    device = next(model.model.parameters()).device
    as_input = model.view(device)
    for start in range(0, len(scenes), BATCH):
        trials = [draw_trial(k, max(model.image_size)) for k in scenes[start : start + BATCH]]
        pixels = torch.from_numpy(np.stack([image for image, _ in trials])).permute(0, 3, 1, 2)
        yield as_input(pixels.to(device)), [mask for _, mask in trials]


def _key(model: LoadedModel, layers: Sequence[int], taus: Sequence[float], eps: float) -> str:
    """Of all that the choice depends on."""
    parts = (
        *(VERSION, drawing_digest(), fingerprint(model.model)),
        *(model.image_size, model.mean, model.std, list(layers), list(taus), eps),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _read(file: Path) -> Choice | None:
    try:
        return Choice(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or a damaged one
        return None


def _keep(file: Path, choice: Choice) -> None:
    text = json.dumps(asdict(choice))
    try:
        replace_atomic(file, lambda draft: draft.write_text(text, encoding="utf-8"))
    except OSError as error:
        log.warning("%s cannot be written (%s): the choice is made again next time", file, error)
