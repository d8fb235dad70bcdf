"""The masked autoencoder: a ViT encodes the visible patches, a decoder predicts the others.

MAE (He et al., arXiv 2111.06377) and CrossMAE (Fu et al., arXiv 2401.14391); the loss is the mean
of the errors per patch that are returned here, weighted or not (`pretraining.guidance`).

Differences from MAE's published code, none of which changes a value: only visible patches are
embedded, tokens are never reordered into the grid, and the last decoder block, the projection to
pixels and the loss are computed for predicted patches only.

Shapes: B images, N = gh * gw patches of p x q pixels, K visible, M predicted.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.mae_decoders import CrossDecoder, Decoder, DecoderShape, SelfDecoder, initialize
from gtacli.models.patches import (
    patchify,
    sincos_positions,
    standardize,
    take,
    unpatchify,
    visible_patches,
)

MaeMethod = Literal["mae", "crossmae"]


class Reconstruction(NamedTuple):
    """The predicted patches in the order of the mask.

    Attributes:
        errors: (B, M) mean squared error of each patch, in fp32.
        pixels: (B, M, p * q * 3) prediction, in the target's scale.
    """

    errors: Tensor
    pixels: Tensor


class MaskedAutoencoder(nn.Module):
    """A timm ViT with a decoder for pre-training; `.encoder` is the ViT itself.

    Args:
        encoder: one of timm's VisionTransformer or Eva, without a head.
        image_size: (h, w) of the images, multiples of the patch's sides.
        method: the decoder, "mae" or "crossmae".
        mask_ratio: fraction of the patches that are masked.
        predict_ratio: fraction of all patches that are predicted (crossmae; published: 0.25 to
            0.75). MAE predicts all masked patches.
        norm_pix: predict each patch standardized by its own mean and variance.
        decoder_dim, decoder_depth, decoder_heads: of the decoder (published: 512, 8, 16).

    Modules of the encoder that are not used (pooling, head; with crossmae the final norm, as
    published) are frozen.

    Raises UsageError for an unsupported encoder (option "model"), and for sizes that do not fit
    (options "image_size", "decoder_dim").
    """

    def __init__(
        self,
        encoder: nn.Module,
        image_size: tuple[int, int],
        method: MaeMethod = "mae",
        mask_ratio: float = 0.75,
        predict_ratio: float = 0.25,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        timm_blocks.check_masked(encoder)
        self.encoder: Any = encoder
        m = cast(Any, encoder)
        self.norm_pix = norm_pix
        self.patch: tuple[int, int] = tuple(m.patch_embed.patch_size)
        if any(side % p for side, p in zip(image_size, self.patch, strict=True)):
            raise UsageError(
                f"{image_size[0]}x{image_size[1]} is not a multiple of the patch size "
                f"{self.patch[0]}x{self.patch[1]}",
                option="image_size",
            )
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise UsageError(
                f"{decoder_dim} is not a multiple of 4 and of the {decoder_heads} heads",
                option="decoder_dim",
            )
        self.grid = timm_blocks.grid(encoder, image_size)
        n = self.grid[0] * self.grid[1]
        self.visible = visible_patches(n, mask_ratio)
        masked = n - self.visible
        if method == "crossmae":
            # The published code rounds the number of patches that are not predicted.
            masked -= min(max(0, int(n * (mask_ratio - predict_ratio) + 1e-6)), masked - 1)
        width, depth = m.embed_dim, len(m.blocks)
        values = self.patch[0] * self.patch[1] * m.patch_embed.proj.in_channels
        shape = DecoderShape(self.grid, values, masked, decoder_dim, decoder_depth, decoder_heads)
        self.decoder: Decoder = (
            SelfDecoder(width, m.num_prefix_tokens, shape)
            if method == "mae"
            else CrossDecoder(width, depth, shape)
        )
        unused = ["head", "head_dist", "attn_pool"]
        for name in [*unused, "norm", "fc_norm"] if method == "crossmae" else unused:
            if (part := getattr(encoder, name, None)) is not None:
                part.requires_grad_(False)

    def features(self, patches: Tensor, keep: Tensor) -> list[Tensor]:
        """Encode the visible patches; return the tokens (B, P+K, C) that the decoder reads.

        Either one tensor, after the final norm; or those before the first block and after each.
        """
        m = self.encoder
        x, ropes = timm_blocks.embed_visible(m, patches, keep, self.grid)
        layers = [x]
        for i, block in enumerate(m.blocks):
            layers.append(timm_blocks.plain_block(m, block, layers[-1], ropes and ropes[i]))
        if self.decoder.layers_read > 1:
            return layers
        # A model that pools before its final norm has it as fc_norm; here it is always applied.
        return [cast(Tensor, m.fc_norm(m.norm(layers[-1])))]

    def no_weight_decay(self) -> set[str]:
        """Return no names: only biases and norms have no weight decay, as published."""
        return set()

    @torch.no_grad()
    def chosen(self, share: float) -> int | None:
        """Return the number of patches that are a share of the masked ones; None for all."""
        masked = self.grid[0] * self.grid[1] - self.visible
        return None if share == 1 else round(share * masked)

    def reconstruct(self, images: Tensor, order: Tensor) -> Tensor:
        """Return the images (B, 3, h, w) with all masked patches replaced by their prediction.

        They are normalized like `images`. With `norm_pix` the mean and variance of a patch, which
        the network does not predict, are those of the target.
        """
        patches = patchify(images, self.patch)
        keep, masked = order[:, : self.visible], order[:, self.visible :]
        features = self.features(take(patches, keep), keep)
        predicted = self.decoder(features, order, masked.shape[1]).to(patches.dtype)
        if self.norm_pix:
            var, mean = torch.var_mean(take(patches, masked), -1, keepdim=True)
            predicted = predicted * (var + 1e-6).sqrt() + mean
        rows = torch.arange(len(patches), device=patches.device)[:, None]
        return unpatchify(patches.index_put((rows, masked), predicted), self.grid, self.patch)

    def forward(self, images: Tensor, order: Tensor) -> Reconstruction:
        """Predict masked patches; return their pixels and errors.

        Args:
            images: (B, 3, h, w), already normalized, in fp32.
            order: (B, N) patches, the visible first (`patches.mask_order`). The first `.visible`
                are encoded, the last `.decoder.predicted` are predicted.
        """
        patches = patchify(images, self.patch)
        keep = order[:, : self.visible]
        pixels = self.decoder(self.features(take(patches, keep), keep), order)
        with torch.no_grad():
            target = take(patches, order[:, -self.decoder.predicted :]).float()
            if self.norm_pix:
                target = standardize(target)
        errors = F.mse_loss(pixels.float(), target, reduction="none").mean(-1)
        return Reconstruction(errors, pixels)


@torch.no_grad()
def initialize_encoder(encoder: nn.Module) -> None:
    """Set MAE's initial weights of a ViT; learned positions become fixed sin-cos ones.

    Parameters that MAE does not have (LayerScale, registers) stay as timm initialized them.
    """
    m = cast(Any, encoder)
    initialize(encoder)
    nn.init.xavier_uniform_(m.patch_embed.proj.weight.flatten(1))
    if m.cls_token is not None:
        nn.init.normal_(m.cls_token, std=0.02)
    if m.pos_embed is not None:
        positions = sincos_positions(m.patch_embed.grid_size, m.embed_dim)
        m.pos_embed.zero_()
        m.pos_embed[:, m.pos_embed.shape[1] - len(positions) :] = positions
        m.pos_embed.requires_grad_(False)
