"""Attention over channels: how much the source's loss grows without each of them.

Eq. 6 of the paper: w_c is the softmax of the growth of the loss when channel c is switched off. A
pass a channel is dear, so it is done once, on a few batches, and kept in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.errors import UsageError


def read_weights(path: Path | None, layers: Iterable[int], width: int) -> dict[int, Tensor]:
    """Weights (C) with sum 1 of each of `layers`; empty without a file."""
    if path is None:
        return {}
    where = f"regularizer delta: channel_weights {path}"
    try:
        stored: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{where}: cannot be read ({error})") from None
    found = {}
    for layer in layers:
        weights = stored.get(str(layer))
        if weights is None:
            raise UsageError(f"{where}: has no tensor '{layer}' for block {layer}")
        if weights.shape != (width,):
            raise UsageError(f"{where}: block {layer} has {tuple(weights.shape)}, not ({width},)")
        weights = weights.float()
        if not bool(torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise UsageError(f"{where}: block {layer} has weights that are negative or all zero")
        found[layer] = weights / weights.sum()
    return found


@torch.no_grad()
def measure_weights(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], layer: int
) -> Tensor:
    """Weights (C) of block `layer` of a classifier, from its loss on `batches`.

    Args:
        model: a timm ViT with a trained head, in eval mode.
        batches: normalised images (B, 3, h, w) and labels (B,), on the model's device.
        layer: block number; a negative one counts from the end.
    """
    blocks = cast(nn.ModuleList, model.blocks)
    width = cast(int, model.embed_dim)
    growth = torch.zeros(width, dtype=torch.float64)
    off: list[int] = []

    def silence(module: nn.Module, args: object, output: Tensor) -> Tensor:
        kept = torch.ones(width, device=output.device, dtype=output.dtype)
        kept[off] = 0
        return output * kept

    handle = blocks[layer].register_forward_hook(silence)
    try:
        for images, labels in batches:
            off[:] = []
            whole = F.cross_entropy(model(images), labels).item()
            for channel in range(width):
                off[:] = [channel]
                growth[channel] += F.cross_entropy(model(images), labels).item() - whole
    finally:
        handle.remove()
    return growth.softmax(0).float()
