"""Decoders that predict the pixels of masked patches from the tokens of visible ones.

`SelfDecoder`   MAE (He et al., arXiv 2111.06377): mask tokens and visible tokens attend to each
                other in a few narrow blocks.
`CrossDecoder`  CrossMAE (Fu et al., arXiv 2401.14391): mask tokens attend to visible tokens only,
                not to each other; so any subset of them can be predicted, and each block reads its
                own learned mixture of the encoder's blocks.

Tokens stay in the order of the mask (visible ones first): attention does not depend on the order,
so the fixed positions are gathered instead, and tokens are not reordered into the grid.

Shapes: B images, P prefix tokens, N patches, K visible, M predicted, W width of the decoder,
C width of the encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.models import timm_blocks
from gtacli.models.attention_kernel import attended_values
from gtacli.models.patches import sincos_positions

_Norm: Any = partial(nn.LayerNorm, eps=1e-6)  # timm declares a class, but takes any function


class DecoderShape(NamedTuple):
    """The sizes of a decoder.

    Attributes:
        grid: (gh, gw) of the images.
        values: number of values in a patch.
        predicted: M; the last patches in the order of the mask.
        width: W, a multiple of 4.
        depth, heads: number of blocks, and of their attention heads.
    """

    grid: tuple[int, int]
    values: int
    predicted: int
    width: int
    depth: int
    heads: int


class Decoder(nn.Module, ABC):
    """The common base: mask token, fixed positions, final norm and projection to pixels.

    Attributes:
        layers_read: number of tensors that the decoder reads from the encoder.
    """

    positions: Tensor
    layers_read = 1

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.predicted = shape.predicted
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.width))
        # Not part of the state: a function of the grid.
        positions = sincos_positions(shape.grid, shape.width)
        self.register_buffer("positions", positions, persistent=False)
        self.norm = _Norm(shape.width)
        self.pixels = nn.Linear(shape.width, shape.values)

    @abstractmethod
    def tokens(self, features: list[Tensor], order: Tensor, predicted: int) -> Tensor:
        """Return (B, M, W) for the last `predicted` patches, before the final norm."""

    def forward(
        self, features: list[Tensor], order: Tensor, predicted: int | None = None
    ) -> Tensor:
        """Return the pixels (B, M, values) of the last M patches in `order`.

        Args:
            features: tokens (B, P+K, C) of the encoder; see the classes.
            order: (B, N) patches, the visible first (`patches.mask_order`).
            predicted: M; default: as in training.
        """
        tokens = self.tokens(features, order, self.predicted if predicted is None else predicted)
        pixels: Tensor = self.pixels(self.norm(tokens))
        return pixels

    def reset(self) -> None:
        """Set MAE's initial weights."""
        initialize(self)
        nn.init.normal_(self.mask_token, std=0.02)


class SelfDecoder(Decoder):
    """MAE's decoder; it reads the encoder's final tokens and predicts all masked patches."""

    def __init__(self, encoder_width: int, prefix: int, shape: DecoderShape) -> None:
        super().__init__(shape)
        self.prefix = prefix
        self.embed = nn.Linear(encoder_width, shape.width)
        self.blocks = nn.ModuleList(
            Block(shape.width, shape.heads, qkv_bias=True, norm_layer=_Norm)
            for _ in range(shape.depth)
        )
        self.reset()

    def tokens(self, features: list[Tensor], order: Tensor, predicted: int) -> Tensor:
        x = self.embed(features[-1])
        # A prefix token's position is zero.
        prefix, visible = x[:, : self.prefix], x[:, self.prefix :]
        positions = F.embedding(order, self.positions)
        k = visible.shape[1]
        masked = self.mask_token + positions[:, k:]
        x = torch.cat([prefix, visible + positions[:, :k], masked], dim=1)
        for block in self.blocks[:-1]:
            x = timm_blocks.whole_block(block, x)
        # Of the last block only the predicted tokens are computed.
        return timm_blocks.block_rows(self.blocks[-1], x, self.prefix + k)


class CrossDecoder(Decoder):
    """CrossMAE's decoder; it reads the tokens before the encoder's first block and after each."""

    def __init__(self, encoder_width: int, encoder_depth: int, shape: DecoderShape) -> None:
        super().__init__(shape)
        width, depth, heads = shape.width, shape.depth, shape.heads
        self.layers_read = encoder_depth + 1
        self.mix = nn.Parameter(torch.empty(depth, self.layers_read))
        self.mix_norms = nn.ModuleList(_Norm(encoder_width) for _ in range(depth))
        self.blocks = nn.ModuleList(CrossBlock(width, encoder_width, heads) for _ in range(depth))
        self.reset()
        nn.init.normal_(self.mix, std=self.layers_read**-0.5)

    def tokens(self, features: list[Tensor], order: Tensor, predicted: int) -> Tensor:
        x = self.mask_token + F.embedding(order[:, -predicted:], self.positions)
        # The product (depth, layers) x (layers, B * tokens * C) gives the mixtures of all blocks.
        stacked = torch.stack(features)
        mixed = (self.mix @ stacked.flatten(1)).view(-1, *stacked.shape[1:])
        for block, norm, memory in zip(self.blocks, self.mix_norms, mixed, strict=True):
            x = block(x, norm(memory))
        return x


class CrossBlock(nn.Module):
    """Cross-attention from x (B, M, W) to a memory (B, T, C), then an MLP; pre-norm."""

    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = _Norm(width)
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(memory_width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = _Norm(width)
        self.mlp = Mlp(width, 4 * width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = self.q(self.norm1(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = attended_values(self, q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(attended)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def initialize(module: nn.Module) -> None:
    """Set MAE's initial weights of linear layers and norms: Xavier uniform, biases 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm) and part.elementwise_affine:
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
