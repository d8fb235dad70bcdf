"""Compare the masked autoencoders with the published ones: same weights, same masks, one step.

    python benchmarks/pretrain_parity.py --repos DIR [--model base]

DIR holds checkouts of facebookresearch/mae as `mae` and TonyLianLong/CrossMAE as `CrossMAE` (either
may be missing). Prints one JSON line per case: the largest absolute difference of loss, prediction
and gradients, each divided by the largest absolute value of the published one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from layouts import imports_from, old_timm
from torch import Tensor, nn

from gtacli.models.mae import MaeMethod, MaskedAutoencoder
from gtacli.models.patches import mask_order, take
from gtacli.pretraining.guidance import guided_weights, normalize_maps

HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16}
FOLDERS = {"mae": "mae", "crossmae": "CrossMAE"}
SEED = 3
_RENAMED = [
    (r"^decoder_embed\.", "decoder.embed."),
    (r"^decoder_blocks\.(\d+)\.cross_attn\.", r"decoder.blocks.\1."),
    (r"^decoder_blocks\.", "decoder.blocks."),
    (r"^decoder_norm\.", "decoder.norm."),
    (r"^decoder_pred\.", "decoder.pixels."),
    (r"^dec_norms\.", "decoder.mix_norms."),
    (r"^wfm\.linear\.weight$", "decoder.mix"),
    (r"^mask_token$", "decoder.mask_token"),
]


def map_name(name: str) -> str:
    """Return our name of a published weight."""
    for pattern, ours in _RENAMED:
        if re.match(pattern, name):
            return re.sub(pattern, ours, name)
    return f"encoder.{name}"


def official(repos: Path, size: str, method: MaeMethod, norm_pix: bool = True) -> nn.Module:
    """Build the published model of a method for 224 pixels, patches of 16, decoder 512 x 8."""
    folder, module = {"mae": ("mae", "models_mae"), "crossmae": ("CrossMAE", "models_cross")}[
        method
    ]
    with imports_from(repos / folder), old_timm(), contextlib.redirect_stdout(None):
        np.float = float  # its position embeddings use an alias that numpy has removed
        model = importlib.import_module(module).MaskedAutoencoderViT
        extra = {"weight_fm": True, "use_input": True} if method == "crossmae" else {}
        return model(
            embed_dim=64 * HEADS[size],
            depth=24 if size == "large" else 12,
            num_heads=HEADS[size],
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            norm_pix_loss=norm_pix,
            **extra,
        )


def ours(
    size: str, method: MaeMethod, norm_pix: bool = True, source: nn.Module | None = None
) -> Any:
    """Build our model, with the weights of a published one if given."""
    encoder = timm.create_model(f"vit_{size}_patch16_224", num_classes=0)
    model = MaskedAutoencoder(encoder, (224, 224), method, norm_pix=norm_pix)
    encoder.pos_embed.requires_grad_(False)
    if source is None:
        return model
    state = {map_name(k): v for k, v in source.state_dict().items()}
    positions = state.pop("encoder.decoder_pos_embed")[0, 1:]
    torch.testing.assert_close(model.decoder.positions, positions, atol=1e-5, rtol=0)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"encoder.norm.weight", "encoder.norm.bias"}, missing
    return model


def step(size: str, method: MaeMethod, source: nn.Module) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return a published step that gives loss, prediction and gradients under our names."""

    def run(images: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(SEED)
        if method == "mae":
            loss, pixels, _ = source(images)
        else:
            loss, pixels = source(images, kept_mask_ratio=0.25), None
        loss.backward()
        named = {map_name(k): p.grad for k, p in source.named_parameters() if p.requires_grad}
        return {"loss": loss, **({} if pixels is None else {"pixels": pixels}), **named}

    return run


def difference(a: Tensor, b: Tensor) -> float:
    """Return the largest absolute difference divided by the largest absolute value of `b`."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def compare(repos: Path, size: str, method: MaeMethod, norm_pix: bool, tau: float | None) -> dict:
    """Compare one step of both models."""
    torch.manual_seed(0)
    theirs = official(repos, size, method, norm_pix)
    for p in theirs.parameters():  # initial biases of 0 and norms of 1 would hide errors
        if p.requires_grad and p.ndim == 1:
            p.data.add_(0.1 * torch.randn_like(p))
    model = ours(size, method, norm_pix, theirs)
    images = torch.randn(4, 3, 224, 224)
    expected = step(size, method, theirs)(images)
    torch.manual_seed(SEED)
    order = mask_order(torch.rand(4, 196))
    result = model(images, order)
    weights: Tensor | float = 1.0
    if tau is not None:
        masked = order[:, -result.errors.shape[1] :]
        weights = guided_weights(take(normalize_maps(torch.rand(4, 196)), masked), tau)
    loss = (weights * result.errors).mean()
    loss.backward()
    differences = {"loss": difference(loss, expected.pop("loss"))}
    if "pixels" in expected:
        pixels = take(expected.pop("pixels"), order[:, -result.errors.shape[1] :])
        differences["prediction"] = difference(result.pixels, pixels)
    named = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    # Every weight of ours corresponds to one published weight.
    assert named.keys() == expected.keys(), named.keys() ^ expected.keys()
    differences["gradients"] = max(difference(named[k], expected[k]) for k in named)
    return {
        "benchmark": "pretrain_parity",
        "method": method,
        "model": size,
        "norm_pix": norm_pix,
        "tau": tau,
        "loss": round(loss.item(), 4),
        "largest_difference": differences,
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--repos", type=Path, required=True)
    p.add_argument("--model", default="base", choices=HEADS)
    args = p.parse_args()
    warnings.filterwarnings("ignore")  # the published code uses old names of torch and timm
    cases: list[tuple[MaeMethod, bool, float | None]] = [
        ("mae", True, None),
        ("mae", False, None),
        ("mae", True, 1e9),  # guided, with a tau so large that all weights are equal
        ("crossmae", True, None),
    ]
    for method, norm_pix, tau in cases:
        if (args.repos / FOLDERS[method]).is_dir():
            print(json.dumps(compare(args.repos, args.model, method, norm_pix, tau)), flush=True)


if __name__ == "__main__":
    main()
