"""Random numbers that belong to an image of an epoch, not to whoever asks for them.

A mask must not depend on how many processes share a batch, nor on where a run was resumed. So its
noise is a function of (seed, epoch, image, patch): the finaliser of SplitMix64 (Steele et al.,
2014) over a counter, computed for a whole batch where the batch is.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def image_noise(indices: Tensor, values: int, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """(B, values) fp32, uniform in [0, 1).

    Args:
        indices: (B,) images, by their place in the data.
        values: for each.
        stream: another one for every other use.
    """
    x = torch.full((1, 1), _signed(seed), dtype=torch.int64, device=indices.device)
    for part in (epoch, stream):
        x = _mixed(x + _signed((part + 1) * _GOLDEN))
    x = _mixed(x + (indices.long()[:, None] + 1) * _signed(_GOLDEN))
    counter = torch.arange(1, values + 1, device=indices.device)
    x = _mixed(x + counter * _signed(_GOLDEN))
    return _shifted(x, 40).float() / 2**24


def _mixed(x: Tensor) -> Tensor:
    for shift, factor in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """Right, filling with zeros: torch's own shift keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same low 64 bits; products wrap around as unsigned ones do."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
