"""The masked autoencoder: a ViT that sees some patches, a decoder that predicts the others.

MAE (He et al., arXiv 2111.06377) and CrossMAE (Fu et al., arXiv 2401.14391); the loss is the mean
of the errors per patch that are returned here, weighted or not (`training.guidance`).

Differences from MAE's published code, none of which changes a value: only visible patches are
embedded, tokens are never put back into the grid, and the last decoder block, the projection to
pixels and the loss run on predicted patches alone.

Shapes: B images, N = gh * gw patches of p x q pixels, K visible, M predicted.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.mae_decoders import CrossDecoder, Decoder, SelfDecoder, initialise
from gtacli.models.patches import (
    patchify,
    sincos_positions,
    standardised,
    take,
    unpatchify,
    visible_patches,
)

Method = Literal["mae", "crossmae"]


class Reconstruction(NamedTuple):
    """What a pass returns, in the order of the mask.

    Attributes:
        errors: (B, M) mean squared error of each predicted patch, in fp32.
        pixels: (B, M, p * q * 3) the prediction, in the target's scale.
    """

    errors: Tensor
    pixels: Tensor


class MaskedAutoencoder(nn.Module):
    """A timm ViT with a decoder for pre-training; `.encoder` is the ViT itself.

    Args:
        encoder: one of timm's VisionTransformer or Eva, without a head.
        image_size: (h, w) of the images, multiples of the patch's sides.
        method: the decoder, "mae" or "crossmae".
        mask_ratio: share of the patches that the encoder does not see.
        predict_ratio: share of all patches that are predicted (crossmae; published: 0.25 to
            0.75). MAE predicts all that are masked.
        norm_pix: predict each patch standardised by its own mean and variance.
        decoder_dim, decoder_depth, decoder_heads: of the decoder (published: 512, 8, 16).

    What a pass does not reach in the encoder (pooling, head; with crossmae the final norm, as
    published) is frozen.

    Raises UsageError for an encoder whose patches cannot be seen alone, and for sizes that do not
    fit.
    """

    def __init__(
        self,
        encoder: nn.Module,
        image_size: tuple[int, int],
        method: Method = "mae",
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
                f"--image-size: {image_size[0]} x {image_size[1]} is not a multiple of the "
                f"model's patches of {self.patch[0]} x {self.patch[1]}"
            )
        if decoder_dim % 4 or decoder_dim % decoder_heads:
            raise UsageError(
                f"--decoder-dim: {decoder_dim} is not a multiple of 4 and of its "
                f"{decoder_heads} heads"
            )
        self.grid = timm_blocks.grid(encoder, image_size)
        n = self.grid[0] * self.grid[1]
        self.visible = visible_patches(n, mask_ratio)
        masked = n - self.visible
        if method == "crossmae":
            # Rounded as by the published code, which rounds those that are left out.
            masked -= min(max(0, int(n * (mask_ratio - predict_ratio) + 1e-6)), masked - 1)
        width, depth = m.embed_dim, len(m.blocks)
        sizes: dict[str, Any] = {
            "grid": self.grid,
            "values": self.patch[0] * self.patch[1] * m.patch_embed.proj.in_channels,
            "predicted": masked,
            "width": decoder_dim,
            "depth": decoder_depth,
            "heads": decoder_heads,
        }
        if method == "mae":
            prefix = m.num_prefix_tokens
            self.decoder: Decoder = SelfDecoder(width, prefix, **sizes)
        else:
            self.decoder = CrossDecoder(width, depth, **sizes)
        unused = ["head", "head_dist", "attn_pool"]
        for name in [*unused, "norm", "fc_norm"] if method == "crossmae" else unused:
            if (part := getattr(encoder, name, None)) is not None:
                part.requires_grad_(False)

    def features(self, patches: Tensor, keep: Tensor) -> list[Tensor]:
        """Tokens (B, P+K, C) of visible patches that the decoder reads, as the encoder makes them.

        One, after the final norm; or those before the first block and after each.
        """
        m = self.encoder
        x, ropes = timm_blocks.embed_visible(m, patches, keep, self.grid)
        layers = [x]
        for i, block in enumerate(m.blocks):
            layers.append(timm_blocks.plain_block(m, block, layers[-1], ropes and ropes[i]))
        if self.decoder.layers_read > 1:
            return layers
        # A model that pools first keeps its final norm for afterwards: here it comes before.
        return [cast(Tensor, m.fc_norm(m.norm(layers[-1])))]

    def no_weight_decay(self) -> set[str]:
        """None beside biases and norms, as published."""
        return set()

    @torch.no_grad()
    def reconstruct(self, images: Tensor, order: Tensor) -> Tensor:
        """The images with all their masked patches as predicted, (B, 3, h, w); normalised like
        `images`, whatever the targets were.

        A patch's own mean and variance are the target's, which the network was not asked for.
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
        """The errors of the predicted patches.

        Args:
            images: (B, 3, h, w), already normalised, in fp32.
            order: (B, N) patches, the visible first (`patches.mask_order`). The first `.visible`
                are seen, the last `.decoder.predicted` predicted.
        """
        patches = patchify(images, self.patch)
        keep = order[:, : self.visible]
        pixels = self.decoder(self.features(take(patches, keep), keep), order)
        with torch.no_grad():
            target = take(patches, order[:, -self.decoder.predicted :]).float()
            if self.norm_pix:
                target = standardised(target)
        errors = F.mse_loss(pixels.float(), target, reduction="none").mean(-1)
        return Reconstruction(errors, pixels)


@torch.no_grad()
def start_afresh(encoder: nn.Module) -> None:
    """MAE's initial weights for a ViT that is trained from nothing; learned positions become fixed
    sin-cos ones. What MAE does not speak of (LayerScale, registers) stays as the model made it."""
    m = cast(Any, encoder)
    initialise(encoder)
    nn.init.xavier_uniform_(m.patch_embed.proj.weight.flatten(1))
    if m.cls_token is not None:
        nn.init.normal_(m.cls_token, std=0.02)
    if m.pos_embed is not None:
        positions = sincos_positions(m.patch_embed.grid_size, m.embed_dim)
        m.pos_embed.zero_()
        m.pos_embed[:, m.pos_embed.shape[1] - len(positions) :] = positions
        m.pos_embed.requires_grad_(False)
