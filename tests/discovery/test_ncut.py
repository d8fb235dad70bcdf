"""Tests of the public normalized cut: precision, memory, determinism and invalid input."""

from __future__ import annotations

import pytest
import torch

import gtacli
from gtacli.discovery.affinity import Affinity
from gtacli.discovery.ncut import normalized_cut
from gtacli.errors import UsageError

EPS = 1e-5


@pytest.mark.parametrize("n", [5, 256, 257, 600])
def test_affinity_equals_dense_matrix(n: int) -> None:
    features = torch.nn.functional.normalize(torch.randn(2, n, 7), dim=-1)
    products = torch.bmm(features, features.transpose(1, 2))
    edges = Affinity.of(features, 0.2, 0.01).dense() == 1
    # Panels and the full product may round similarities at the threshold differently.
    assert ((edges == (products > 0.2)) | ((products - 0.2).abs() < 1e-5)).all()
    affinity = Affinity.of_edges(edges, 0.01)
    dense = torch.where(edges, 1.0, 0.01).double()
    torch.testing.assert_close(affinity.dense(), dense)
    x = torch.randn(2, 3, n)
    torch.testing.assert_close(
        affinity.matmul(x).double(), x.double() @ dense, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(affinity.degrees().double(), dense.sum(-1), rtol=1e-6, atol=0)


def test_memory_of_an_earlier_chunk_is_reused() -> None:
    first, second = torch.nn.functional.normalize(torch.randn(2, 3, 300, 7), dim=-1)
    old = Affinity.of(first, 0.2, EPS)
    new = Affinity.of(second[:2], 0.2, EPS, reuse=old)
    assert new.panels[0].data_ptr() == old.panels[0].data_ptr()
    torch.testing.assert_close(new.dense(), Affinity.of(second[:2], 0.2, EPS).dense())


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(5, 144, 8) + 2 * torch.randn(5, 1, 8)
    whole = normalized_cut(features, (12, 12))
    monkeypatch.setattr("gtacli.discovery.ncut._CHUNK", {"cpu": 4 * 144 * 144})  # two at a time
    parts = normalized_cut(features, (12, 12))
    torch.testing.assert_close(whole.eigenvector, parts.eigenvector, rtol=0, atol=1e-5)


def test_deterministic_without_changing_the_random_state() -> None:
    features = torch.randn(2, 196, 16)
    state = torch.get_rng_state()
    first, second = (normalized_cut(features, (14, 14)) for _ in range(2))
    assert torch.equal(first.eigenvector, second.eigenvector)
    assert torch.equal(torch.get_rng_state(), state)


def test_fp32_inside_and_the_callers_precision_restored() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 196, 64)
    expected = normalized_cut(features, (14, 14))
    seen = []
    real = Affinity.of

    def spy(*args: object) -> Affinity:
        matmul, mkldnn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        seen.append((matmul.fp32_precision, mkldnn.fp32_precision))
        seen.append(torch.is_autocast_enabled("cpu"))
        return real(*args)  # type: ignore[arg-type]

    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
            patch.setattr(Affinity, "of", spy)
            cut = normalized_cut(features, (14, 14))
            assert torch.is_autocast_enabled("cpu")
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == [("ieee", "ieee"), False]
    assert torch.equal(cut.eigenvector, expected.eigenvector)


def test_float16_and_inputs_with_gradients() -> None:
    features = torch.randn(1, 196, 16, dtype=torch.float16)
    wide = features.float().requires_grad_()
    cut, other = normalized_cut(features, (14, 14)), normalized_cut(wide, (14, 14))
    assert torch.equal(cut.eigenvector, other.eigenvector)
    assert not other.eigenvector.requires_grad


def test_no_images() -> None:
    cut = gtacli.normalized_cut(torch.zeros(0, 12, 3), (3, 4))
    assert cut.map.shape == cut.mask.shape == (0, 3, 4)
    assert cut.box.shape == (0, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_features(value: float) -> None:
    features = torch.randn(3, 12, 4)
    features[1, 5, 2] = value
    with pytest.raises(UsageError, match="features of image 1 contain NaN or infinity"):
        normalized_cut(features, (3, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": (3, 5)}, r"grid: \(3, 5\) is not a grid of 12 patches"),
        ({"features": torch.zeros(12, 4)}, r"features: must be \(B, N, C\) floating point"),
        (
            {"features": torch.zeros(1, 12, 4, dtype=torch.int64)},
            r"features: must be \(B, N, C\) floating",
        ),
        ({"tau": float("nan")}, "tau: must be a finite number"),
        ({"eps": 0.0}, "eps: must be above 0"),
        ({"solver": "arpack"}, "solver: must be one of auto, krylov, eigh, scipy, got 'arpack'"),
    ],
)
def test_invalid_input(change: dict[str, object], message: str) -> None:
    given = {"features": torch.zeros(1, 12, 4), "grid": (3, 4), **change}
    with pytest.raises(UsageError, match=message):
        normalized_cut(**given)  # type: ignore[arg-type]
