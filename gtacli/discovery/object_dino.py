"""Object-DINO (arXiv 2603.26127): TokenCut of the keys of heads that attend to objects.

The heads of all blocks are clustered once for a network (`head_clusters`); the cluster with most
heads of the block `layer`, the last one, is cut. The formulas are the paper's, not its code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from gtacli.config.base import StrictModel
from gtacli.config.cached_choice import read_choice, write_choice
from gtacli.config.common import read_words
from gtacli.config.parts import DiscoveryOptions, ObjectDinoOptions
from gtacli.discovery.base import Discovery, ObjectMaps
from gtacli.discovery.bipartition import Side
from gtacli.discovery.head_clusters import Head, cluster_heads, cluster_of
from gtacli.discovery.ncut import normalized_cut
from gtacli.discovery.tokencut import is_dino
from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.fingerprint import fingerprint
from gtacli.models.tap import Tap, absolute_layers, attention
from gtacli.runtime.cache import cache_dir
from gtacli.scenes.digest import drawing_digest

if TYPE_CHECKING:
    from gtacli.models.loading import LoadedModel

log = logging.getLogger(__name__)

PAPER = {"tau": 0.2, "side": "seed"}  # for DINO's weights
SCENES = 16  # drawn scenes on which heads are clustered
VERSION = 1  # of the procedure; part of the cache key


class HeadChoice(StrictModel):
    """Heads and tau that were chosen for a network."""

    heads: Annotated[tuple[str, ...], BeforeValidator(read_words)]
    tau: float | None = None


class ObjectDino(Discovery[ObjectDinoOptions]):
    """The normalized cut of the keys of one cluster of heads, for any supported ViT.

    Raises UsageError for an unsupported model (option "model"), a head that it does not have
    (option "heads"), or options that are still "auto".
    """

    Options: ClassVar[type[DiscoveryOptions]] = ObjectDinoOptions
    needs_gradients: ClassVar[bool] = False

    def __init__(self, options: ObjectDinoOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        if options.tau == "auto" or options.side == "auto" or not options.heads:
            raise UsageError("options of object-dino are auto; make_backend chooses them")
        absolute_layers((options.layer,), len(cast(Any, model).blocks))
        self.heads = _parse(options.heads, model)
        self.tau, self.side = options.tau, options.side

    @classmethod
    def resolve(cls, options: ObjectDinoOptions, model: LoadedModel) -> ObjectDinoOptions:
        """Choose the heads; tau and side as published for DINO's weights, else tau on scenes."""
        timm_blocks.check(model.model)
        auto = [name for name in PAPER if getattr(options, name) == "auto"]
        if is_dino(model):
            options = options.model_copy(update={name: PAPER[name] for name in auto})
        elif "side" in auto:
            options = options.model_copy(update={"side": "center"})
        if options.heads and options.tau != "auto":
            return options
        choice = _cached_choice(options, model)
        tau = choice.tau if options.tau == "auto" else options.tau
        return options.model_copy(update={"heads": choice.heads, "tau": tau})

    @torch.no_grad()
    def find(self, images: Tensor) -> ObjectMaps:
        layers = sorted({layer for layer, _ in self.heads})
        taps = attention(self.model, images, layers, rows="all")
        keys = head_keys(taps, self.heads)
        cut = normalized_cut(keys, taps[0].grid, self.tau, self.options.eps, side=self.side)
        return ObjectMaps(cut.map, cut.mask, cut.box)


def head_keys(taps: Sequence[Tap], heads: Sequence[Head]) -> Tensor:
    """Return the patches' keys (B, N, C) of some heads, side by side."""
    by_layer = {tap.layer: tap for tap in taps}
    parts = []
    for layer, head in heads:
        tap = by_layer[layer]
        parts.append(tap.q_k[1][:, head, tap.num_prefix_tokens :])
    return torch.cat(parts, dim=-1)


def _parse(names: Sequence[str], model: nn.Module) -> list[Head]:
    """Return the heads; raise UsageError for a name that is none."""
    blocks = cast(Any, model).blocks
    heads = []
    for name in names:
        layer, _, head = name.partition(".")
        known = layer.isdecimal() and head.isdecimal() and int(layer) < len(blocks)
        if not known or int(head) >= int(blocks[int(layer)].attn.num_heads):
            raise UsageError(
                f"{name!r} is no head of this model; write BLOCK.HEAD, from 0.0 to "
                f"{len(blocks) - 1}.{int(blocks[-1].attn.num_heads) - 1}",
                option="heads",
            )
        heads.append((int(layer), int(head)))
    return heads


def _cached_choice(options: ObjectDinoOptions, model: LoadedModel) -> HeadChoice:
    from gtacli.discovery.calibration import TAUS, draw_scenes

    parts = (
        *(VERSION, drawing_digest(), fingerprint(model.model), model.image_size),
        *(model.mean, model.std, options.model_dump(mode="json"), SCENES, list(TAUS)),
    )
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    file = cache_dir() / "object-dino" / f"{key}.json"
    choice = read_choice(file, HeadChoice)
    if choice is None:
        log.info("object-dino: choosing heads for %s, once", model.spec)
        names = options.heads
        if not names:
            batches = (images for images, _ in draw_scenes(model, range(SCENES)))
            (block,) = absolute_layers((options.layer,), len(cast(Any, model.model).blocks))
            heads = cluster_of(cluster_heads(model.model, batches, options.clusters), block)
            names = tuple(f"{layer}.{head}" for layer, head in heads)
        tau = _best_tau(options, model, names) if options.tau == "auto" else None
        choice = HeadChoice(heads=names, tau=tau)
        write_choice(file, choice)
    log.info("object-dino: heads %s", ", ".join(choice.heads))
    return choice


def _best_tau(options: ObjectDinoOptions, model: LoadedModel, names: Sequence[str]) -> float:
    from gtacli.discovery.calibration import TAUS, MaskMethod, together

    heads, side = _parse(names, model.model), cast(Side, options.side)

    def masks(taps: Sequence[Tap], tau: float) -> Tensor:
        keys = head_keys(taps, heads)
        return normalized_cut(keys, taps[0].grid, tau, options.eps, side=side).mask

    method = MaskMethod("object-dino", (), masks)
    layers = sorted({layer for layer, _ in heads})
    return together(model, method, layers, TAUS).tau
