"""Masks as run lengths, in COCO's code: pixels off, on, off, … down each column in turn.

The text of run lengths is pycocotools' (`rleToString` in its `maskApi.c`): groups of five bits,
lowest first, as characters from "0" on; the sixth bit says that more follow. From the fourth on a
length is stored as the difference to the last but one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gtacli.images.sizes import Size

_GROUPS = 8  # of five bits: lengths below 2 ** 39


def encode_runs(mask_hw: NDArray[np.bool_]) -> str:
    """Return the text of a mask's run lengths."""
    return _text_of_runs(run_lengths(mask_hw.T.ravel()))


def run_lengths(flat: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths of the runs off, on, off, … of a mask (n,); the first may be 0."""
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if len(flat) and flat[0] else [0]
    return np.diff(np.concatenate([start, ends, [len(flat)]]))


def decode_runs(counts: Sequence[int] | str, size: Size | tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask (h, w) of run lengths.

    Args:
        counts: the lengths, or pycocotools' text of them.
        size: (h, w).

    Raises ValueError for lengths that do not fill the mask.
    """
    runs = _runs_of_text(counts) if isinstance(counts, str) else counts
    if not all(type(n) is int and n >= 0 for n in runs) or sum(runs) != size[0] * size[1]:
        raise ValueError("run lengths do not fill the image")
    on = np.arange(len(runs)) % 2 == 1
    return np.repeat(on, np.array(runs, np.int64)).reshape(size[::-1]).T


def _text_of_runs(runs: NDArray[np.int64]) -> str:
    values = runs.copy()
    values[3:] -= runs[1:-2]
    rest = values[:, None] >> (5 * np.arange(_GROUPS + 1))
    groups = rest[:, :-1] & 31
    # A number ends with the group whose highest bit is its sign, if nothing else follows.
    more = np.where(groups & 16, rest[:, 1:] != -1, rest[:, 1:] != 0)
    used = np.ones_like(more)
    used[:, 1:] = np.logical_and.accumulate(more, axis=1)[:, :-1]
    return (groups + 32 * more + 48)[used].astype(np.uint8).tobytes().decode()


def _runs_of_text(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("the text of run lengths is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the text of run lengths is damaged")
    return runs
