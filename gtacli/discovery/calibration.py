"""Calibrate a back-end for a network: choose its block and tau without labels.

DINO's keys separate objects from the background in the last block at tau 0.2 (Wang et al., arXiv
2202.11539). Those of other weights do so in other blocks and at other tau; with DINO's settings all
of their patches may be connected. The program draws scenes whose objects it knows, and takes the
block and tau with the best masks (mean IoU). The scenes are the same for every network, so the
result depends on the weights and the image size only.

Every block and tau is tested on a few scenes and the best ones on all (successive halving). Blocks
that vote (`vote`) are tested with the best block on more scenes, since there are more of them.
`benchmarks/auto_layer.py` compares the result with photographs and their true masks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from gtacli.config.base import StrictModel
from gtacli.config.cached_choice import read_choice, write_choice
from gtacli.config.common import read_numbers
from gtacli.discovery.masks import mask_on
from gtacli.measures.segmentation import iou
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Tap, attention
from gtacli.runtime.cache import cache_dir
from gtacli.scenes.digest import drawing_digest
from gtacli.scenes.trials import draw_trial

log = logging.getLogger(__name__)

TAUS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FIRST, SCENES, VOTE_SCENES = 8, 24, 96
FINALISTS = 16
VOTERS, VOTE_FINALISTS = 5, 5  # the best single blocks, and their best pairs
BATCH = 4  # images whose keys of all blocks are in memory at a time
VERSION = 2  # of the procedure; part of the cache key

Setting = tuple[tuple[int, ...], float]
"""Blocks that vote, mostly one, and tau."""
MaskedImages = tuple[Tensor, Sequence[NDArray[np.bool_]]]
"""Normalized images (B, 3, h, w) and the true mask of each, of any size."""


class MaskMethod(NamedTuple):
    """The masks of a back-end as a function of what is chosen.

    Attributes:
        name: of the back-end.
        key: all else that the masks depend on.
        masks: of the taps (rows "all") of the blocks, and tau: (B, gh, gw) bool.
        taus: that are tried.
    """

    name: str
    key: tuple[object, ...]
    masks: Callable[[Sequence[Tap], float], Tensor]
    taus: Sequence[float] = TAUS


class Calibration(StrictModel):
    """Blocks and tau with their mean IoU on the drawn scenes."""

    blocks: Annotated[tuple[int, ...], BeforeValidator(read_numbers), Field(min_length=1)]
    tau: float = Field(gt=0, lt=1)
    iou: float = Field(ge=0, le=1)
    scenes: int = SCENES

    @property
    def layer(self) -> int:
        """Return the last block."""
        return self.blocks[-1]


def cached_calibration(
    model: LoadedModel,
    method: MaskMethod,
    layers: Sequence[int],
    taus: Sequence[float],
    vote: bool = False,
) -> Calibration:
    """Return the best of `layers` x `taus` for a model at its image size; the result is cached.

    Args:
        model: frozen, in eval mode; it stays on its device.
        layers: absolute block numbers.
        vote: also try pairs of blocks.
    """
    size = f"{model.image_size[0]}x{model.image_size[1]} px"
    file = cache_dir() / method.name / f"{_key(model, method, layers, taus, vote)}.json"
    best = read_calibration(file, layers, None if vote else taus)
    how = "cached"
    if best is None:
        log.info("%s: choosing layer and tau for %s at %s, once", method.name, model.spec, size)
        start = time.perf_counter()
        best = calibrate(model, method, layers, taus, vote)
        how = f"chosen in {time.perf_counter() - start:.0f} s"
        write_choice(file, best)
    log.info(
        "%s: layer %s, tau %g at %s (%s; mean IoU %.1f %% on %d drawn scenes)",
        *(method.name, " + ".join(map(str, best.blocks)), best.tau),
        *(size, how, 100 * best.iou, best.scenes),
    )
    return best


def together(
    model: LoadedModel, method: MaskMethod, blocks: Sequence[int], taus: Sequence[float]
) -> Calibration:
    """Return the best tau for given blocks that vote; not cached, it takes seconds."""
    settings: list[Setting] = [(tuple(blocks), tau) for tau in taus]
    scores = total_iou(model, settings, draw_scenes(model, range(SCENES)), method)
    voters, tau = _best(settings, scores, 1)[0]
    mean = float(scores[voters, tau]) / SCENES
    log.info("%s: tau %g for blocks %s", method.name, tau, " + ".join(map(str, voters)))
    return Calibration(blocks=voters, tau=tau, iou=mean)


def calibrate(
    model: LoadedModel,
    method: MaskMethod,
    layers: Sequence[int],
    taus: Sequence[float],
    vote: bool = False,
) -> Calibration:
    """Choose the best of `layers` x `taus`, with `vote` also of pairs; the first one of ties."""
    every: list[Setting] = [((layer,), tau) for layer in layers for tau in taus]
    first = total_iou(model, every, draw_scenes(model, range(FIRST)), method)
    best = _best(every, first, FINALISTS)
    more = total_iou(model, best, draw_scenes(model, range(FIRST, SCENES)), method)
    total = {setting: first[setting] + more[setting] for setting in best}
    single = _best(best, total, 1)[0]
    if vote and len(layers) > 1:
        return _with_votes(model, method, single, first, total)
    return Calibration(
        blocks=single[0], tau=single[1], iou=float(total[single]) / SCENES, scenes=SCENES
    )


def _with_votes(
    model: LoadedModel,
    method: MaskMethod,
    single: Setting,
    first: dict[Setting, float],
    total: dict[Setting, float],
) -> Calibration:
    """Choose the best of the best single block and pairs of good ones.

    Args:
        first: of all single blocks, on the first scenes.
        total: of the best ones, on more scenes; `single` is the best of them.
    """
    # Of each block the tau of its best setting, which is the last one that is written.
    own = dict(_best(list(first), first, len(first))[::-1])
    own |= dict(_best(list(total), total, len(total))[::-1])
    voters = list(dict.fromkeys(b for b, _ in _best(list(first), first, len(first))))[:VOTERS]
    pairs: list[Setting] = []
    for one, two in combinations(sorted({*voters, single[0]}), 2):
        taus = (own[one], own[two])
        pairs += [(one + two, round(t, 3)) for t in sorted({*taus, sum(taus) / 2})]
    scores = total_iou(model, pairs, draw_scenes(model, range(SCENES)), method)
    last = [single, *_best(pairs, scores, VOTE_FINALISTS)]
    scores[single] = total[single]
    more = total_iou(model, last, draw_scenes(model, range(SCENES, VOTE_SCENES)), method)
    whole = {setting: scores[setting] + more[setting] for setting in last}
    blocks, tau = _best(last, whole, 1)[0]
    mean = float(whole[blocks, tau]) / VOTE_SCENES
    return Calibration(blocks=blocks, tau=tau, iou=mean, scenes=VOTE_SCENES)


def _best(settings: Sequence[Setting], scores: dict[Setting, float], count: int) -> list[Setting]:
    return sorted(settings, key=scores.__getitem__, reverse=True)[:count]


@torch.no_grad()
def total_iou(
    model: LoadedModel,
    settings: Sequence[Setting],
    batches: Iterable[MaskedImages],
    method: MaskMethod,
) -> dict[Setting, float]:
    """Sum the IoU of the method's masks with the true ones over the images, by setting."""
    sums = dict.fromkeys(settings, 0.0)
    layers = sorted({layer for blocks, _ in settings for layer in blocks})
    for images, truths in batches:
        taps = {tap.layer: tap for tap in attention(model.model, images, layers, rows="all")}
        for blocks, tau in settings:
            masks = method.masks([taps[layer] for layer in blocks], tau).cpu().numpy()
            sums[blocks, tau] += sum(
                iou(mask_on((truth.shape[0], truth.shape[1]), mask), truth)
                for mask, truth in zip(masks, truths, strict=True)
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
    model: LoadedModel,
    method: MaskMethod,
    layers: Sequence[int],
    taus: Sequence[float],
    vote: bool,
) -> str:
    """Return the cache key."""
    parts = (
        *(VERSION, drawing_digest(), fingerprint(model.model)),
        *(model.image_size, model.mean, model.std, list(layers), list(taus), vote),
        *(method.name, method.key),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_calibration(
    file: Path, layers: Sequence[int], taus: Sequence[float] | None
) -> Calibration | None:
    """Return a cached calibration; None if there is none, or not one of `layers` and `taus`.

    Args:
        taus: None: any.
    """
    found = read_choice(file, Calibration)
    if found is None or not {*found.blocks} <= {*layers}:
        return None
    return found if taus is None or found.tau in taus else None
