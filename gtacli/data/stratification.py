"""Iterative stratification: parts of images with any number of labels, alike in every class.

Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011,
algorithm 1. The images of the class with the fewest images left are distributed first, because
those of frequent classes can still even out what a rare one has cost: each goes to the part that
wants most images of the class, among equals to the part that wants most images in all.

A plain draw by class is impossible, since an image that is drawn for one class counts for others.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def stratify(labels: Sequence[Sequence[int]], wanted: ArrayLike, sizes: ArrayLike) -> list[int]:
    """Return the part of each image.

    Args:
        labels: of N images, whose order decides among equals.
        wanted: (parts, classes) images of each class that each part should have.
        sizes: (parts,) images that each part should have.
    """
    want = np.array(wanted, np.float64)
    size = np.array(sizes, np.float64)
    members: dict[int, list[int]] = {}
    for image, own in enumerate(labels):
        for label in own:
            members.setdefault(label, []).append(image)
    left = {label: len(images) for label, images in members.items()}
    part_of = [-1] * len(labels)

    def place(image: int, part: int) -> None:
        part_of[image] = part
        size[part] -= 1
        for label in labels[image]:
            want[part, label] -= 1
            left[label] -= 1
            heapq.heappush(rarest, (left[label], label))

    rarest = [(count, label) for label, count in left.items()]
    heapq.heapify(rarest)
    while rarest:
        count, label = heapq.heappop(rarest)
        if count != left[label] or not count:
            continue  # it has got fewer since
        for image in members[label]:
            if part_of[image] < 0:
                place(image, _neediest(want[:, label], size))
    for image, part in enumerate(part_of):
        if part < 0:  # without any label
            place(image, int(size.argmax()))
    return part_of


def _neediest(want: NDArray[np.float64], size: NDArray[np.float64]) -> int:
    """Return the part that wants most of a class, among equals most in all."""
    tied = np.flatnonzero(want >= want.max() - 1e-9)
    return int(tied[size[tied].argmax()])
