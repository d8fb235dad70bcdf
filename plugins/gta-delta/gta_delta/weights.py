"""Channel weights: the increase of the source's loss without each channel.

Eq. 6 of the paper: w_c is the softmax of the increase of the loss when channel c is set to zero. It
needs a pass per channel, so it is computed once, on a few batches, and stored in a file.
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
    """Read weights (C) with sum 1 for each of `layers`; return none without a file."""
    if path is None:
        return {}

    def fail(text: str) -> UsageError:
        return UsageError(f"{path} {text}", option="regularizer.delta.channel_weights")

    try:
        stored: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise fail(f"cannot be read ({error})") from None
    found = {}
    for layer in layers:
        weights = stored.get(str(layer))
        if weights is None:
            raise fail(f"has no tensor '{layer}' for block {layer}")
        if weights.shape != (width,):
            raise fail(f"has shape {tuple(weights.shape)} for block {layer}, not ({width},)")
        weights = weights.float()
        if not bool(torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise fail(f"has negative or only zero weights for block {layer}")
        found[layer] = weights / weights.sum()
    return found


@torch.no_grad()
def measure_weights(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], layer: int
) -> Tensor:
    """Measure the weights (C) of block `layer` of a classifier from its loss on `batches`.

    Args:
        model: a timm ViT with a trained head, in eval mode.
        batches: normalized images (B, 3, h, w) and labels (B,), on the model's device.
        layer: block number; a negative one counts from the end.
    """
    blocks = cast(nn.ModuleList, model.blocks)
    width = cast(int, model.embed_dim)
    increase = torch.zeros(width, dtype=torch.float64)
    off: list[int] = []

    def switch_off(module: nn.Module, args: object, output: Tensor) -> Tensor:
        mask = torch.ones(width, device=output.device, dtype=output.dtype)
        mask[off] = 0
        return output * mask

    handle = blocks[layer].register_forward_hook(switch_off)
    try:
        for images, labels in batches:
            off[:] = []
            base = F.cross_entropy(model(images), labels).item()
            for channel in range(width):
                off[:] = [channel]
                increase[channel] += F.cross_entropy(model(images), labels).item() - base
    finally:
        handle.remove()
    return increase.softmax(0).float()
