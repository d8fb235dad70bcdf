"""Layouts of published checkpoints, recognized by their tensors' names and converted to timm's.

A layout is a row of a table: the names that identify it, the tensors that are not part of the
network, the new names of the others, and the conversions that renaming cannot do (separate q, k,
v). The rows are in `meta`, `huggingface`, `clip` and `others`; nothing here reads files or creates
models.

timm converts some of these layouts while it loads its own pretrained weights; it needs the model
for that, resizes at the same time and drops tensors silently. Here every tensor is accounted for
before a model exists. The tests compare with timm's functions.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gtacli.models.layouts.base import ConvertedWeights, Layout
from gtacli.models.layouts.clip import CLIP_LAYOUTS
from gtacli.models.layouts.huggingface import HUGGING_FACE_LAYOUTS
from gtacli.models.layouts.meta import META_LAYOUTS
from gtacli.models.layouts.others import OTHER_LAYOUTS

__all__ = ["LAYOUTS", "ConvertedWeights", "Layout", "find_layout"]

LAYOUTS: tuple[Layout, ...] = (
    *META_LAYOUTS,
    *HUGGING_FACE_LAYOUTS,
    *CLIP_LAYOUTS,
    *OTHER_LAYOUTS,
)


def find_layout(tensors: Mapping[str, Tensor], part: str = "") -> Layout | None:
    """Return the published layout of these tensors; None for timm's own or an unknown one.

    Args:
        part: the key of the tensors in their checkpoint, such as "model".
    """
    return next((layout for layout in LAYOUTS if layout.fits(tensors, part)), None)
