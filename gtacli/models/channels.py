"""Patch embeddings of other than three input channels.

A network of one channel is read as one of three: a third of its kernel W for each of them. With
one mean m and one standard deviation s for all channels, a gray image g then gives exactly

    (W/3) (g - m)/s + (W/3) (g - m)/s + (W/3) (g - m)/s  =  W (g - m)/s

and a color image what the mean of its channels gives. With a mean for each channel, as ImageNet's,
that would be the network of another m and s, so their averages are used for all.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from torch import Tensor

from gtacli.errors import GtaError

log = logging.getLogger(__name__)
EMBEDDING = "patch_embed.proj.weight"


def with_three_channels(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors of a network for RGB images.

    Args:
        tensors: in timm's layout.
        where: name of the file in messages.

    Raises GtaError for a patch embedding of two, or more than three channels.
    """
    kernel = tensors.get(EMBEDDING)
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] == 3:
        return dict(tensors)
    if kernel.shape[1] != 1:
        raise GtaError(
            f"{where} is a network of {kernel.shape[1]} input channels ({EMBEDDING} is "
            f"{tuple(kernel.shape)}); images have three, red, green and blue"
        )
    return {**tensors, EMBEDDING: kernel.float().expand(-1, 3, -1, -1) / 3}


def one_for_all(values: tuple[float, ...]) -> str:
    """Return the average of a mean or standard deviation, for each of three channels, as JSON."""
    return json.dumps([round(sum(values) / len(values), 6)] * 3)
