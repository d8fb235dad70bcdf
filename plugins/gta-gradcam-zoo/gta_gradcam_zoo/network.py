"""A network that shares a ViT's weights, whose target layer is its own.

The grad-cam package puts hooks on the target layer, replaces it (AblationCAM), sets the gradients
of all parameters to None and calls `eval`. All of that reaches only this object, of which each
batch has one: the ViT itself is not registered in it. So several threads may explain one ViT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gtacli.models import timm_blocks
from gtacli.models.class_scores import classify_tokens


class SharedNetwork(nn.Module):
    """A classifier that passes the normalized input of a block through a layer of its own.

    Args:
        model: a timm ViT in eval mode.
        layer: number of the block.

    Attributes:
        target: the layer; it returns its input (B, P+N, C).
    """

    def __init__(self, model: Any, layer: int) -> None:
        super().__init__()
        self._shared, self._layer = [model], layer
        self.target: nn.Module = nn.Identity()
        device = next(model.parameters()).device
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class logits (B, K)."""
        (model,) = self._shared
        tokens, ropes = timm_blocks.embed(model, images)
        rope = [None] * len(model.blocks) if ropes is None else ropes
        for number in range(self._layer):
            tokens = timm_blocks.plain_block(model, model.blocks[number], tokens, rope[number])
        block = model.blocks[self._layer]
        normed = self.target(block.norm1(tokens))
        tokens = timm_blocks.block_after_norm(block, tokens, normed, rope[self._layer])
        return classify_tokens(model, tokens, ropes, self._layer + 1)
