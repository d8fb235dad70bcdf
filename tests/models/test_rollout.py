"""Tests of rollout against the product of all blocks' attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gtacli.errors import UsageError
from gtacli.models import rollout as module
from gtacli.models.rollout import rollout

from .test_tap import make, unfused

WITH_CLS = ("plain", "qk-norm", "distilled", "registers", "dinov3", "not-square", "dynamic")


def plainly(attention: list[Tensor], heads: str, prefix: int) -> list[Tensor]:
    """Compute the CLS row of A'_L ... A'_0 for each block L in float64."""
    rolled, found = None, []
    for block in attention:
        a = block.double()
        a = a.mean(1) if heads == "mean" else a.amax(1) / a.amax(1).sum(-1, keepdim=True)
        a = (a + torch.eye(a.shape[-1], dtype=a.dtype)) / 2
        rolled = a if rolled is None else a @ rolled
        found.append(rolled[:, 0, prefix:])
    return found


@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("family", WITH_CLS)
def test_rollout_equals_product_of_all_blocks(family: str, heads: Any) -> None:
    model, images = make(family)
    got = rollout(model, images, "all", heads)
    truth = plainly(unfused(model, images), heads, model.num_prefix_tokens)
    assert got.shape[:2] == (2, len(truth))
    for i, expected in enumerate(truth):
        assert torch.allclose(got[:, i].flatten(1).double(), expected, atol=1e-6)


def test_chunks_of_rows_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = make("plain")
    whole = rollout(model, images)
    monkeypatch.setattr(module, "CHUNK", 3 * 17 * 4)  # four of 17 rows
    assert torch.allclose(rollout(model, images), whole, atol=1e-7)


def test_selected_blocks_equal_those_of_all() -> None:
    model, images = make("plain")
    every = rollout(model, images, "all")
    assert torch.allclose(rollout(model, images, (0, -1)), every[:, [0, 2]], atol=1e-7)


def test_rollout_needs_a_cls_token() -> None:
    model, images = make("no-cls")
    with pytest.raises(UsageError, match="no CLS token"):
        rollout(model, images)
