"""Masks in the code of Label Studio's brush: run lengths of an RGBA image's bytes, row by row.

The code is rle-pack's (github.com/thi-ng/umbrella, `packages/rle-pack`): a stream of bits, highest
first. The head has the number of values (32 bits), the bits of a value less one (5), and four
widths less one (4 each). Then follow runs: 1 bit for equal values, 2 for the width of the length, a
length less one of that width, and the value; or 0 for different values, as many as the length says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gtacli.data.run_lengths import run_lengths
from gtacli.images.sizes import Size

_CHANNELS = 4
_WIDTHS = (3, 4, 8, 16)
_LONGEST = 1 << _WIDTHS[-1]
_VALUE_BITS = 8


def encode_brush(mask_hw: NDArray[np.bool_]) -> list[int]:
    """Return the bytes of a mask: white and opaque pixels on, black and transparent ones off."""
    lengths = run_lengths(mask_hw.ravel()) * _CHANNELS
    values = np.arange(len(lengths)) % 2 * 255
    parts = -(-lengths // _LONGEST)
    values, last = np.repeat(values, parts), np.cumsum(parts)[parts > 0] - 1
    split = np.full(len(values), _LONGEST)
    split[last] = (lengths - 1)[parts > 0] % _LONGEST + 1
    kind = np.searchsorted(1 << np.array(_WIDTHS), split)
    width = np.array(_WIDTHS)[kind]
    code = ((((4 | kind) << width) | (split - 1)) << _VALUE_BITS) | values
    head = _CHANNELS * mask_hw.size << 21 | (_VALUE_BITS - 1) << 16
    head |= sum((w - 1) << 4 * (3 - place) for place, w in enumerate(_WIDTHS))
    codes = np.concatenate([[head], code])
    widths = np.concatenate([[53], width + 3 + _VALUE_BITS])
    ends = np.cumsum(widths)
    places = np.repeat(ends, widths) - np.arange(ends[-1]) - 1  # of each bit, from the lowest
    bits = np.repeat(codes, widths) >> places & 1
    return np.packbits(bits.astype(np.uint8)).tolist()


def decode_brush(data: Sequence[int], size: Size) -> NDArray[np.bool_]:
    """Return the mask (h, w): the pixels that are not transparent.

    Raises ValueError for what is no code of an RGBA image of this size.
    """
    bits = _Bits(data)
    total, value_bits = bits.take(32), bits.take(5) + 1
    widths = [bits.take(4) + 1 for _ in range(4)]
    if total != _CHANNELS * size[0] * size[1]:
        raise ValueError("its brush strokes are of another size than the image")
    values = np.zeros(total, bool)
    start = 0
    while start < total:
        repeated = bits.take(1)
        end = start + 1 + bits.take(widths[bits.take(2)])
        if end > total:
            raise ValueError("its brush strokes are longer than the image")
        if repeated:
            values[start:end] = bits.take(value_bits) > 0
        else:
            values[start:end] = [bits.take(value_bits) > 0 for _ in range(end - start)]
        start = end
    return values.reshape(*size, _CHANNELS)[..., -1]


class _Bits:
    """Numbers from a stream of bits, highest first."""

    def __init__(self, data: Sequence[int]) -> None:
        if not all(type(n) is int and 0 <= n < 256 for n in data):
            raise ValueError("its brush strokes are no list of bytes")
        self._text = "".join(f"{n:08b}" for n in data)
        self._start = 0

    def take(self, count: int) -> int:
        self._start += count
        if self._start > len(self._text):
            raise ValueError("its brush strokes end too early")
        return int(self._text[self._start - count : self._start], 2)
