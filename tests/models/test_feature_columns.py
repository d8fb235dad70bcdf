"""Tests of feature columns against timm's own pooling."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from gtacli.errors import UsageError
from gtacli.models.feature_columns import FeatureColumn, PooledFeatures, select_columns

TINY: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3, "num_classes": 5,
}  # fmt: skip


def make_model(arch: str = "vit_tiny_patch16_224", **more: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(arch, **{**TINY, **more}).eval()
    for module in model.modules():  # otherwise two norms in a row equal one
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


@pytest.mark.parametrize(
    ("pool", "model"),
    [
        ("cls", make_model()),
        ("cls", make_model(reg_tokens=4)),
        ("mean", make_model(global_pool="avg", reg_tokens=4, class_token=True, fc_norm=False)),
        ("mean", make_model(global_pool="avg")),
        ("mean", make_model("eva02_tiny_patch14_224")),
    ],
)
@torch.no_grad()
def test_columns_of_the_last_block_are_the_classifiers_input(pool: str, model: Any) -> None:
    images = torch.randn(2, 3, 32, 32)
    (found,) = PooledFeatures(model, select_columns(model, pool))(images)
    expected = model.forward_head(model.forward_features(images), pre_logits=True)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_earlier_blocks_pass_through_the_final_norm() -> None:
    model = make_model(reg_tokens=2)
    images = torch.randn(2, 3, 32, 32)
    columns = select_columns(model, "cls+mean", (-1, 0))
    assert columns == (
        FeatureColumn(0, "cls"),
        FeatureColumn(2, "cls"),
        FeatureColumn(0, "mean"),
        FeatureColumn(2, "mean"),
    )
    found = PooledFeatures(model, columns)(images)
    first, last = (
        model.norm(torch.cat([prefix, patches], 1))
        for patches, prefix in model.forward_intermediates(
            images, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True
        )[0::2]
    )
    expected = (first[:, 0], last[:, 0], first[:, 3:].mean(1), last[:, 3:].mean(1))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_cls_columns_need_a_cls_token() -> None:
    model = make_model(global_pool="avg", class_token=False)
    with pytest.raises(UsageError, match="no CLS token; use `features=mean`"):
        select_columns(model, "cls+mean")
    assert select_columns(model, "mean", "all") == tuple(FeatureColumn(i, "mean") for i in range(3))


def test_a_missing_block_is_an_error() -> None:
    with pytest.raises(UsageError, match="there is no block 3"):
        select_columns(make_model(), "cls", (3,))
