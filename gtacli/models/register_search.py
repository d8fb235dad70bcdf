"""Find the register neurons of a network, without labels, from drawn scenes.

A patch is an outlier where the norm of its token is more than three times the median of its image.
(Of an AugReg ViT-Tiny the largest is 1.3 to 2.6 times the median before the onset of outliers, and
30 to 46 times after it.) A network has outliers if a tenth of the scenes have one after some block.
Their block is the one with the largest ratio of maximum to median; their onset is the first block
in which at least half as many scenes have some. Register neurons are searched up to the onset, and
ranked as published: by their mean absolute activation at outliers (arXiv 2506.08010).

The paper chooses the number of neurons by hand and appends one token. Here both numbers are chosen:
among those that leave outliers in at most a twentieth of the scenes, the ones that change the
features least (largest mean cosine with those of the network as it is), and few neurons where more
gain little. One token in place of four outliers gets less attention than they had, which changes
what CLS reads.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from gtacli.config.base import StrictModel
from gtacli.config.cached_choice import read_choice, write_choice
from gtacli.errors import UsageError, errors_about
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.models.registers import (
    Registers,
    add_registers,
    recorded_neurons,
    remove_registers,
)
from gtacli.models.tap import Request, TappedViT
from gtacli.runtime.cache import cache_dir
from gtacli.scenes.digest import drawing_digest
from gtacli.scenes.trials import draw_trial

log = logging.getLogger(__name__)

RegisterSetting: TypeAlias = Literal["auto", "none"] | int
"""`auto`: only where the network has outliers; a number: so many tokens."""

SCENES, TRIALS = 32, 16
"""Scenes on which neurons are ranked, and the first of them, on which their number is chosen."""
BATCH = 4  # images whose neurons of all blocks are in memory at a time
OUTLIER = 3.0
FREQUENT, RARE = 0.1, 0.05  # fractions of the scenes
NEURONS = (1, 2, 3, 5, 8, 12, 16, 24, 32, 50)
TOKENS = 8  # at most
GAIN = 0.05  # by which more neurons, or other tokens, have to reduce 1 - cosine
PATIENCE = 2  # numbers tried in vain after the best one
REPEATED = "the search is repeated"
VERSION = 1  # of the procedure; part of the cache key


class RegisterSearch(StrictModel):
    """The result of a search.

    Attributes:
        ratio: largest norm of a patch by the median of its image, mean over the scenes.
        block: after which it was measured.
        outliers: mean number of outliers of an image that has some.
        neurons: the chosen ones, [block, neuron], most active first; none without outliers.
        tokens: number of appended tokens.
        cosine: mean cosine of the features with and without them.
    """

    ratio: float
    block: int
    outliers: float = 0.0
    neurons: list[list[int]] = Field(default_factory=list)
    tokens: int = 0
    cosine: float = 1.0

    @property
    def registers(self) -> Registers | None:
        """The registers that were found."""
        if not self.neurons:
            return None
        return Registers(_by_block(self.neurons), self.tokens)


def with_registers(
    model: LoadedModel,
    setting: RegisterSetting,
    device: torch.device,
    hidden: bool = False,
    option: str = "registers",
) -> LoadedModel:
    """Add test-time registers to a model, in place, as an option asks; the search is cached.

    Args:
        model: in eval mode; it stays on its device.
        device: on which a copy of it is searched.
        hidden: see `add_registers`.
        option: its name in messages.

    Returns: the model with its new number of prefix tokens.

    Raises UsageError if a number of tokens is given for a network without register neurons.
    """
    if setting == "none":
        return model
    with errors_about(registers=option):
        found = cached_search(model, device, None if setting == "auto" else setting)
        if found.registers is not None:
            add_registers(model.model, found.registers, hidden)
        elif setting == "auto":
            return model
        else:
            text = f"{model.spec} has no outlier tokens that neurons write; use auto or none"
            raise UsageError(text, option="registers")
    return replace(model, num_prefix_tokens=int(cast(Any, model.model).num_prefix_tokens))


def cached_search(
    model: LoadedModel, device: torch.device, tokens: int | None = None
) -> RegisterSearch:
    """Return the result of `search` on drawn scenes at the model's size, cached; log a line."""
    file = cache_dir() / "registers" / f"{_key(model, tokens)}.json"
    found, how = read_choice(file, RegisterSearch, REPEATED), "cached"
    if found is None:
        log.info("registers: looking for outlier tokens of %s, once", model.spec)
        start = time.perf_counter()
        found = search(model, [*_draw_scenes(model, device)], tokens)
        how = f"found in {time.perf_counter() - start:.0f} s"
        write_choice(file, found, REPEATED)
    least = f"the largest norm of a patch is {found.ratio:.1f} times the median"
    if found.registers is not None:
        log.info(
            "registers: %s has outlier tokens (%.1f an image; %s, after block %d); neurons moved "
            "to appended tokens: %d, to %d (%s)",
            *(model.spec, found.outliers, least, found.block),
            *(len(found.neurons), found.tokens, how),
        )
    elif found.outliers:
        log.info("registers: none; no few neurons write the outliers of %s (%s)", model.spec, how)
    else:
        log.info("registers: none; %s has no outlier tokens (%s; %s)", model.spec, least, how)
    return found


@torch.no_grad()
def search(
    model: LoadedModel, batches: Sequence[Tensor], tokens: int | None = None
) -> RegisterSearch:
    """Find outlier tokens, the neurons that write them, and how many of them to move.

    Args:
        batches: normalized images (B, 3, h, w) on the device of the search: drawn scenes, or a
            user's own, at most 200.
        tokens: number of appended tokens; None: chosen.

    Raises UsageError (option "registers") for a model whose neurons cannot be read.
    """
    network = deepcopy(model.model).eval().to(batches[0].device)
    remove_registers(network)
    depth = len(cast(Any, network).blocks)
    passes = [_run(network, images) for images in batches]
    norms = [one[0] for one in passes]
    ratios = torch.cat([_ratios(n) for n in norms])  # (images, depth)
    block = int(ratios.mean(0).argmax())
    frequent = (ratios > OUTLIER).double().mean(0)
    found = RegisterSearch(ratio=float(ratios[:, block].mean()), block=block)
    if frequent[block] < FREQUENT:
        return found
    outliers = [_outliers(n[:, block]) for n in norms]
    counts = torch.cat([o.sum(1) for o in outliers])
    found = found.model_copy(update={"outliers": float(counts[counts > 0].double().mean())})
    onset = next(i for i in range(depth) if 2 * frequent[i] >= frequent[block])
    ranked = _rank(network, batches, outliers, onset)
    trials = _first(batches, TRIALS)
    before = torch.cat([features for _, features in passes])[:TRIALS]
    start = min(max(1, round(found.outliers)), TOKENS) if tokens is None else tokens
    pairs = [(neurons, start) for neurons in NEURONS]
    best = _best(network, trials, before, ranked, pairs)
    if best is None:
        return found
    if tokens is None:
        counts_near = range(max(1, start - 2), min(start + 2, TOKENS) + 1)
        near = sorted(counts_near, key=lambda count: abs(count - start))
        best = _best(network, trials, before, ranked, [(best[0], count) for count in near]) or best
    neurons, count, cosine = best
    update = {"neurons": [[*one] for one in ranked[:neurons]], "tokens": count, "cosine": cosine}
    return found.model_copy(update=update)


def _run(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the norms of the patches' tokens after each block (B, depth, N), and the features."""
    layers = tuple(range(len(cast(Any, network).blocks)))
    tapped = TappedViT(network, Request(hidden=layers, features=True, output=False))
    prefix, values = tapped.num_prefix_tokens, tapped(images)
    norms = torch.stack([x[:, prefix:].float().norm(dim=-1) for x in values.hidden], 1)
    assert values.features is not None
    return norms, values.features.float()


def _ratios(norms: Tensor) -> Tensor:
    """Return the largest norm by the median, over the last dimension."""
    return norms.amax(-1) / norms.median(-1).values


def _outliers(norms_BN: Tensor) -> Tensor:
    """Return which patches are outliers of their image: (B, N) bool."""
    return norms_BN > OUTLIER * norms_BN.median(-1, keepdim=True).values


def _rank(
    network: nn.Module, batches: Sequence[Tensor], outliers: Sequence[Tensor], onset: int
) -> list[tuple[int, int]]:
    """Return the most active neurons at outliers, (block, neuron), in blocks up to `onset`."""
    prefix = int(cast(Any, network).num_prefix_tokens)
    sums: list[Any] = [0.0] * (onset + 1)
    tapped = TappedViT(network, Request(hidden=(onset,), output=False))
    for images, marks in zip(batches, outliers, strict=True):
        with recorded_neurons(network) as records:
            tapped(images)
        some = marks.any(1)
        weights = (marks / marks.sum(1, keepdim=True).clamp(min=1))[some]
        for layer, record in enumerate(records):
            activations = record[some, prefix:].float().abs()
            sums[layer] += torch.einsum("bn,bnm->m", weights, activations).cpu()
    width = sums[0].shape[0]
    order = torch.cat(sums).argsort(descending=True)[: NEURONS[-1]].tolist()
    return [divmod(index, width) for index in order]


def _best(
    network: nn.Module,
    trials: Sequence[Tensor],
    before: Tensor,
    ranked: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
) -> tuple[int, int, float] | None:
    """Return (neurons, tokens, cosine) of the pair that changes the features least.

    A later pair has to be clearly better. None if all of them leave outliers in more than a few
    images.
    """
    best: tuple[int, int, float] | None = None
    in_vain = 0
    for neurons, tokens in pairs:
        add_registers(network, Registers(_by_block(ranked[:neurons]), tokens))
        norms, after = zip(*(_run(network, images) for images in trials), strict=True)
        remove_registers(network)
        left = torch.cat([(_ratios(n) > OUTLIER).any(1) for n in norms])
        cosine = float(torch.cosine_similarity(torch.cat(after), before).mean())
        if left.double().mean() > RARE:
            continue
        if best is None or 1 - cosine < (1 - GAIN) * (1 - best[2]):
            best, in_vain = (neurons, tokens, cosine), 0
        else:
            in_vain += 1
        if in_vain == PATIENCE:
            break
    return best


def _by_block(neurons: Sequence[Sequence[int]]) -> dict[int, tuple[int, ...]]:
    layers = sorted({layer for layer, _ in neurons})
    return {layer: tuple(n for at, n in neurons if at == layer) for layer in layers}


def _first(batches: Sequence[Tensor], images: int) -> list[Tensor]:
    """Return batches of the first images."""
    return [*torch.cat([*batches])[:images].split(BATCH)]


def _draw_scenes(model: LoadedModel, device: torch.device) -> Iterator[Tensor]:
    """Draw scenes, stretched to the model's input size and normalized."""
    as_input, size = model.view(device), max(model.image_size)
    for start in range(0, SCENES, BATCH):
        drawn = [draw_trial(k, size)[0] for k in range(start, start + BATCH)]
        yield as_input(torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).to(device))


def _key(model: LoadedModel, tokens: int | None) -> str:
    """Return the cache key: of a new classifier, which no neuron depends on, it is the same."""
    network = fingerprint(model.model, without=model.head)
    parts = (VERSION, drawing_digest(), network, model.image_size, model.mean, model.std, tokens)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
