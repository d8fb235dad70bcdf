"""Columns against timm's own pooling."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from gtacli.errors import UsageError
from gtacli.probing.features.columns import Column, Columns, columns_of

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5,
}  # fmt: skip


def made(arch: str = "vit_tiny_patch16_224", **more: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(arch, **{**TINY, **more}).eval()
    for module in model.modules():  # else two norms in a row are one
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize(
    ("pool", "model"),
    [
        ("cls", made()),
        ("cls", made(reg_tokens=4)),
        ("mean", made(global_pool="avg", reg_tokens=4, class_token=True, fc_norm=False)),
        ("mean", made(global_pool="avg")),
        ("mean", made("eva02_tiny_patch14_224")),
    ],
)
@torch.no_grad()
def test_of_the_last_block_they_are_what_the_classifier_sees(pool: str, model: Any) -> None:
    images = torch.randn(2, 3, 32, 32)
    (found,) = Columns(model, columns_of(model, pool))(images)
    seen = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(found, seen)


@torch.no_grad()
def test_earlier_blocks_pass_through_the_final_norm_too() -> None:
    model = made(reg_tokens=2)
    images = torch.randn(2, 3, 32, 32)
    columns = columns_of(model, "cls+mean", (-1, 0))
    assert columns == (Column(0, "cls"), Column(2, "cls"), Column(0, "mean"), Column(2, "mean"))
    found = Columns(model, columns)(images)
    first, last = (
        model.norm(torch.cat([prefix, patches], 1))
        for patches, prefix in model.forward_intermediates(
            images, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )[0::2]
    )
    expected = (first[:, 0], last[:, 0], first[:, 3:].mean(1), last[:, 3:].mean(1))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_a_model_without_a_cls_token_says_so() -> None:
    model = made(global_pool="avg", class_token=False)
    with pytest.raises(UsageError, match="no CLS token; use --features mean"):
        columns_of(model, "cls+mean")
    assert columns_of(model, "mean", "all") == tuple(Column(i, "mean") for i in range(3))


def test_a_block_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="there is no block 3"):
        columns_of(made(), "cls", (3,))
