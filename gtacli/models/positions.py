"""Position embeddings on another grid than they were trained on, as their publisher resizes them.

timm resizes bicubically with antialiasing. facebookresearch/dino, bytedance/ibot and the first
DINOv2 (without registers) do it without, by a scale factor that is a tenth of a patch too large
(their issue 8). The difference is no rounding: between the two, TokenCut's masks of one network
agree to an IoU of 0.96 in the mean, and some not at all.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn.functional import interpolate

Way = Literal["timm", "dino"]
DINO_LAYOUTS = ("DINO", "iBOT", "DINOv2")
DINO_TAGS = ("dino", "lvd142m")
_MARK = "resizes_positions"


def way_of(model: nn.Module, layout: str, tag: str) -> Way:
    """How the publisher of a model's weights resizes.

    Args:
        model: built, with its weights or not yet.
        layout: of the weights file, as `LoadReport.layout`.
        tag: timm's, of pretrained weights that are loaded as they are; else "".
    """
    plain = getattr(model, "num_prefix_tokens", 0) == 1 and not getattr(
        model, "no_embed_class", True
    )
    return "dino" if plain and (layout in DINO_LAYOUTS or tag in DINO_TAGS) else "timm"


def resize(
    positions: Tensor, new: tuple[int, int], old: tuple[int, int], prefix: int, way: Way
) -> Tensor:
    """Position embeddings (1, prefix + gh gw, C) of the grid `old` for the grid `new`, in fp32."""
    positions = positions.float()
    if way == "timm":
        sizes = (list(new), list(old))
        return cast(Tensor, resample_abs_pos_embed(positions, *sizes, num_prefix_tokens=prefix))
    if tuple(new) == tuple(old):
        return positions
    first, grid = positions[:, :prefix], positions[:, prefix:].unflatten(1, old).permute(0, 3, 1, 2)
    factors = [(n + 0.1) / o for n, o in zip(new, old, strict=True)]
    resized = interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat((first, resized.flatten(2).transpose(1, 2)), dim=1)


def mark(model: nn.Module, way: Way) -> None:
    """A model that takes images of any size resizes so from now on."""
    setattr(model, _MARK, way)


def add(model: nn.Module, patches: Tensor) -> Tensor:
    """The tokens before the first block of a VisionTransformer, as its `_pos_embed` makes them.

    patches: of its `patch_embed`: (B, N, C), or (B, gh, gw, C) where it takes any size.
    """
    m = cast(Any, model)
    if patches.ndim == 3 or getattr(model, _MARK, "timm") == "timm":
        return cast(Tensor, m._pos_embed(patches))
    grid = (patches.shape[1], patches.shape[2])
    positions = resize(m.pos_embed, grid, m.patch_embed.grid_size, 1, "dino").to(patches.dtype)
    tokens = torch.cat((m.cls_token.expand(len(patches), -1, -1), patches.flatten(1, 2)), dim=1)
    return cast(Tensor, m.pos_drop(tokens + positions))
