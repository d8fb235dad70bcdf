"""Counter-based random numbers, by image and epoch.

A mask must not depend on how many processes share a batch, nor on where a run was resumed. So its
noise is a function of (seed, epoch, image, patch): the finalizer of SplitMix64 (Steele et al.,
2014) over a counter, computed for a whole batch on its device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def image_noise(indices: Tensor, values: int, seed: int, epoch: int, stream: int = 0) -> Tensor:
    """Return noise (B, values) in fp32, uniform in [0, 1).

    Args:
        indices: (B,) indices of the images in the dataset.
        values: count for each image.
        seed, epoch: select other numbers.
        stream: likewise; a number of its own for every use.
    """
    x = torch.full((1, 1), _to_int64(seed), dtype=torch.int64, device=indices.device)
    for part in (epoch, stream):
        x = _mix(x + _to_int64((part + 1) * _GOLDEN))
    x = _mix(x + (indices.long()[:, None] + 1) * _to_int64(_GOLDEN))
    counter = torch.arange(1, values + 1, device=indices.device)
    x = _mix(x + counter * _to_int64(_GOLDEN))
    return _shift_right(x, 40).float() / 2**24


def _mix(x: Tensor) -> Tensor:
    for shift, factor in zip((30, 27), _MULTIPLIERS, strict=True):
        x = (x ^ _shift_right(x, shift)) * _to_int64(factor)
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift keeps the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _to_int64(value: int) -> int:
    """Return the int64 with the same low 64 bits; products wrap around as unsigned ones do."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
