"""Tests of distances against the formula in float64, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gtacli import attention_distance
from gtacli.models.qkv import row_logits
from gtacli.regularizers.distance import rows_divergence


def columns(prefix: int, tokens: int, cls_column: str) -> list[int]:
    patches = list(range(prefix, prefix + tokens))
    return [0, *patches] if cls_column == "include" and prefix else patches


def plain(
    q_t: Tensor, k_t: Tensor, q_s: Tensor, k_s: Tensor, prefix: int,
    rows: str, center: bool, cls_column: str, reduction: str,
) -> Tensor:  # fmt: skip
    """Compute the definition from both N x N maps."""
    scale = q_t.shape[-1] ** -0.5
    chosen = columns(prefix, k_t.shape[2] - prefix, cls_column)
    d = (q_t @ k_t.mT - q_s @ k_s.mT) * scale
    d = d[..., chosen]
    if rows == "cls":
        d = d[:, :, :1]
    if center:
        d = d - d.mean(-1, keepdim=True)
    squares = d.square()
    return (squares.sum(-1) if reduction == "sum" else squares.mean(-1)).mean()


CASES = {
    "near": 1e-3,  # close to the source every term is of second order
    "far": 1.0,
}


@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from(["cls", "all"]),
    center=st.booleans(),
    cls_column=st.sampled_from(["include", "exclude"]),
    reduction=st.sampled_from(["sum", "mean"]),
    prefix=st.integers(1, 5),
    tokens=st.integers(1, 30),
    width=st.integers(1, 16),
    step=st.sampled_from([1e-3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_distance_equals_definition(
    rows: Any, center: bool, cls_column: Any, reduction: Any,
    prefix: int, tokens: int, width: int, step: float, seed: int,
) -> None:  # fmt: skip
    g = torch.Generator().manual_seed(seed)
    q_s, k_s = (
        torch.randn(2, 3, prefix + tokens, width, generator=g, dtype=torch.float64)
        for _ in range(2)
    )
    q_t = q_s + step * torch.randn(q_s.shape, generator=g, dtype=torch.float64)
    k_t = k_s + step * torch.randn(k_s.shape, generator=g, dtype=torch.float64)
    args = (prefix, rows, center, cls_column, reduction)
    exact = [t.clone().requires_grad_() for t in (q_t, k_t)]
    expected = plain(*exact, q_s, k_s, *args)
    expected.backward()
    ours = [t.float().requires_grad_() for t in (q_t, k_t)]
    value = attention_distance(
        *ours, q_s.float(), k_s.float(), prefix, rows, center, cls_column, reduction
    )
    value.backward()
    # The difference of fp32 inputs has a relative error of 1e-7 / step.
    tolerance = 2e-3 if step < 1 else 1e-4
    floor = 1e-9 + 1e-5 * tokens * step**2
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=floor)
    for mine, true in zip(ours, exact, strict=True):
        scale = true.grad.abs().max().item()
        torch.testing.assert_close(
            mine.grad.double(), true.grad, rtol=0, atol=5 * tolerance * scale + 1e-6
        )


@pytest.mark.parametrize("rows", ["cls", "all"])
def test_common_rotation_of_q_and_k_costs_nothing(rows: Any) -> None:
    """Rotated and rescaled factors give the same logits; large terms cancel in the Gram form."""
    g = torch.Generator().manual_seed(0)
    q_s, k_s = (torch.randn(2, 3, 50, 32, generator=g, dtype=torch.float64) for _ in range(2))
    turn, _ = torch.linalg.qr(torch.randn(32, 32, generator=g, dtype=torch.float64))
    q_t, k_t = 3 * (q_s @ turn), (k_s @ turn) / 3
    exact = plain(q_t, k_t, q_s, k_s, 1, rows, False, "exclude", "sum")
    assert exact < 1e-20
    size = plain(q_t, k_t, 0 * q_s, 0 * k_s, 1, rows, False, "exclude", "sum")
    value = attention_distance(*(t.float() for t in (q_t, k_t, q_s, k_s)), 1, rows)
    assert 0 <= value < 1e-5 * size


def test_identical_networks_cost_exactly_zero() -> None:
    q, k = torch.randn(2, 3, 20, 8), torch.randn(2, 3, 20, 8)
    for rows in ("cls", "all"):
        assert attention_distance(q, k, q, k, 1, rows) == 0  # type: ignore[arg-type]


def test_center_ignores_constant_shifts_of_rows() -> None:
    """A common shift of all keys adds a constant to each row."""
    q, k = torch.randn(2, 3, 20, 8), torch.randn(2, 3, 20, 8)
    shifted = k + torch.randn(2, 3, 1, 8)
    for rows in ("cls", "all"):
        assert attention_distance(q, shifted, q, k, 1, rows) > 0.1  # type: ignore[arg-type]
        centered = attention_distance(q, shifted, q, k, 1, rows, center=True)  # type: ignore[arg-type]
        assert centered < 1e-9


def test_registers_are_never_included() -> None:
    q, k = torch.randn(1, 2, 20, 8), torch.randn(1, 2, 20, 8)
    other = k.clone()
    other[:, :, 1:5] += 100  # four registers
    for cls_column in ("include", "exclude"):
        assert attention_distance(q, other, q, k, 5, cls_column=cls_column) == 0  # type: ignore[arg-type]
    other[:, :, 0] += 1  # the CLS token's own key
    assert attention_distance(q, other, q, k, 5, cls_column="include") > 0
    assert attention_distance(q, other, q, k, 5, cls_column="exclude") == 0


def test_all_rows_need_no_full_matrix() -> None:
    """For 4,000 tokens a map of one head has 64 MB; the Gram form needs less than 1 MB."""
    q, k = (torch.randn(1, 1, 4000, 16, requires_grad=True) for _ in range(2))
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (sizes.append(t.nbytes), t)[1], lambda t: t
    ):
        attention_distance(q, k, q.detach() + 1, k.detach(), 1, "all").backward()
    assert max(sizes) <= 4000 * 16 * 4


def test_divergence_equals_kl_of_the_softmaxes() -> None:
    q_t, k_t, q_s, k_s = (torch.randn(2, 3, 9, 8, dtype=torch.float64) for _ in range(4))
    rows = [
        torch.einsum("bhd,bhnd->bhn", q[:, :, 0], k[:, :, 1:]) * 8**-0.5
        for q, k in ((q_t, k_t), (q_s, k_s))
    ]
    p, s = (r.softmax(-1) for r in rows)
    expected = (s * (s / p).log()).sum(-1).mean()
    logits = [
        row_logits(q.float()[:, :, :1], k.float(), 8**-0.5)[..., 1:]
        for q, k in ((q_t, k_t), (q_s, k_s))
    ]
    value = rows_divergence(*logits)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)


def test_distance_is_fp32_under_autocast() -> None:
    q, k = torch.randn(2, 3, 20, 8), torch.randn(2, 3, 20, 8)
    expected = attention_distance(q + 0.01, k, q, k, 1, "all")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = attention_distance(q + 0.01, k, q, k, 1, "all")
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)
