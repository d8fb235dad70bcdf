"""Layouts of published checkpoints: recognised by their tensors' names, converted to timm's.

A layout is a row of a table: which names give it away, which tensors are no part of the network,
how the rest is renamed, and what names alone cannot do (q, k, v apart). The rows are in `meta`,
`huggingface` and `clip`; nothing here reads files or builds models.

timm converts some of these layouts too, while it loads its own pretrained weights, and there it
needs the built model, resizes on the way, and drops tensors without a word. Here every tensor is
accounted for, before a model exists; timm's functions are what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gtacli.models.layouts.base import Converted, Layout
from gtacli.models.layouts.clip import CLIP_LAYOUTS
from gtacli.models.layouts.huggingface import HUGGING_FACE_LAYOUTS
from gtacli.models.layouts.meta import META_LAYOUTS

__all__ = ["LAYOUTS", "Converted", "Layout", "recognise"]

LAYOUTS: tuple[Layout, ...] = (*META_LAYOUTS, *HUGGING_FACE_LAYOUTS, *CLIP_LAYOUTS)


def recognise(tensors: Mapping[str, Tensor], part: str = "") -> Layout | None:
    """The published layout that these tensors are in; None: timm's own, or an unknown one.

    Args:
        part: the key of the checkpoint under which they lie, such as "model".
    """
    return next((layout for layout in LAYOUTS if layout.fits(tensors, part)), None)
