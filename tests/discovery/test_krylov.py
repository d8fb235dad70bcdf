"""Tests of eigenvectors of many kinds of graphs against scipy's dense float64 solution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gtacli.discovery import krylov
from gtacli.discovery.affinity import Affinity
from gtacli.discovery.krylov import BLOCK, second_eigenvectors
from gtacli.discovery.ncut import cut_vectors, normalized_cut
from gtacli.errors import RunError

EPS = 1e-5


def blocks(sizes: tuple[int, ...], inside: float, between: float, seed: int = 0) -> Tensor:
    """Return a stochastic block model: regions connected with these probabilities."""
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    chance = torch.where(label[:, None] == label, inside, between)
    drawn = torch.rand(chance.shape, generator=torch.Generator().manual_seed(seed)) < chance
    upper = drawn.triu(1)
    return upper | upper.T | torch.eye(len(label), dtype=torch.bool)


def _outliers(n: int, count: int) -> Tensor:
    """Return features of a clear object, and of tokens that are similar to no others."""
    graph = blocks((n // 4, n - n // 4 - count, count), 0.95, 0.05)
    graph[-count:] = graph[:, -count:] = False
    return graph | torch.eye(n, dtype=torch.bool)


def _nearly_complete(n: int) -> Tensor:
    graph = torch.ones(n, n, dtype=torch.bool)
    graph[0, 1 : n // 3] = graph[1 : n // 3, 0] = False
    return graph


def _path(n: int) -> Tensor:
    steps = torch.arange(n)
    return (steps[:, None] - steps).abs() <= 1


GRAPHS: dict[str, Callable[[int], Tensor]] = {
    "clear": lambda n: blocks((n // 4, n - n // 4), 0.95, 0.05),
    "weak": lambda n: blocks((n // 3, n - n // 3), 0.6, 0.45),
    "equal regions": lambda n: blocks((n // 2, n - n // 2), 0.9, 0.1),
    "three regions": lambda n: blocks((n // 6, n // 3, n - n // 6 - n // 3), 0.9, 0.1),
    "disconnected": lambda n: blocks((n // 3, n - n // 3), 0.9, 0.0),
    "three apart": lambda n: blocks((n // 6, n // 3, n - n // 6 - n // 3), 1.0, 0.0),
    "one outlier": lambda n: _outliers(n, 1),
    "five outliers": lambda n: _outliers(n, 5),
    "nearly complete": _nearly_complete,
    "random": lambda n: blocks((n,), 0.5, 0.5),
    "sparse random": lambda n: blocks((n,), 8 / n, 0.0),
    "path": _path,
    "no edges but loops": lambda n: torch.eye(n, dtype=torch.bool),
}


class Exact:
    """The full spectrum of (D - A) y = l D y in float64."""

    def __init__(self, edges: Tensor, eps: float = EPS) -> None:
        self.a = np.where(edges.numpy(), 1.0, eps)
        self.d = self.a.sum(-1)
        self.values, self.vectors = scipy.linalg.eigh(np.diag(self.d) - self.a, np.diag(self.d))

    @property
    def gap(self) -> float:
        return float(self.values[2] - self.values[1]) if len(self.values) > 2 else 1.0

    def check(self, y: Tensor) -> None:
        """Check that y is a unit eigenvector of the second-smallest eigenvalue.

        If the gap determines it, it must equal the reference.
        """
        x = y.double().numpy()
        square = np.dot(x, self.d * x)
        assert square == pytest.approx(1, abs=1e-5)
        assert abs(np.dot(x, self.d)) / np.sqrt(self.d.sum()) < 1e-4
        value = 1 - x @ self.a @ x / square
        assert value == pytest.approx(self.values[1], abs=1e-6)
        if self.gap > 3e-6:
            other = x - np.dot(x, self.d * self.vectors[:, 1]) * self.vectors[:, 1]
            sine = np.sqrt(np.dot(other, self.d * other))
            assert sine < 2e-3  # residual / gap is accepted up to 1e-3


@pytest.mark.parametrize("n", [196, 300])  # one panel, two panels
@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("solver", ["auto", "eigh", "scipy"])
def test_every_kind_of_graph(kind: str, n: int, solver: str) -> None:
    edges = GRAPHS[kind](n)
    (y,) = cut_vectors(Affinity.of_edges(edges[None], EPS), solver)
    Exact(edges).check(y)


@pytest.mark.parametrize(
    "kind", ["clear", "weak", "equal regions", "one outlier", "disconnected", "nearly complete"]
)
def test_iteration_converges_for_a_unique_best_cut(kind: str) -> None:
    edges = GRAPHS[kind](400)
    (y,) = cut_vectors(Affinity.of_edges(edges[None], EPS), "krylov")
    Exact(edges).check(y)


def test_batch_of_different_graphs() -> None:
    edges = torch.stack([make(196) for make in GRAPHS.values()])
    for graph, y in zip(edges, cut_vectors(Affinity.of_edges(edges, EPS)), strict=True):
        Exact(graph).check(y)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    inside=st.floats(0, 1),
    between=st.floats(0, 1),
    seed=st.integers(0, 10**6),
    solver=st.sampled_from(["auto", "krylov", "eigh"]),
)
def test_block_models(
    sizes: list[int], inside: float, between: float, seed: int, solver: str
) -> None:
    edges = blocks(tuple(sizes), inside, between, seed)
    try:
        (y,) = cut_vectors(Affinity.of_edges(edges[None], EPS), solver)
    except RunError:
        assert solver == "krylov"  # it must raise instead of returning a wrong vector
        return
    if edges.all():
        assert not y.any()
    else:
        Exact(edges).check(y)


@settings(max_examples=25, deadline=None)
@given(
    patches=st.integers(2, 160),
    width=st.integers(1, 8),
    distinct=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_few_distinct_features(patches: int, width: int, distinct: int, seed: int) -> None:
    """Blocks of dependent vectors, down to rank 1."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(distinct, width, generator=generator)
    features = kinds[torch.randint(distinct, (patches,), generator=generator)]
    unit = torch.nn.functional.normalize(features, dim=-1)
    product = torch.bmm(unit[None], unit[None].transpose(1, 2))[0]
    if ((product - 0.2).abs() < 1e-5).any():
        return
    cut = normalized_cut(features[None], (1, patches))
    if (product > 0.2).all():
        assert not cut.eigenvector.any()
    else:
        Exact(product > 0.2).check(cut.eigenvector[0])


def test_the_trivial_vector_is_never_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration that has lost its orthogonality would return u with a residual of zero."""
    edges = GRAPHS["five outliers"](196)
    monkeypatch.setattr(krylov, "_project", lambda block, basis: block)
    affinity = Affinity.of_edges(edges[None], EPS)
    noise = torch.randn(1, BLOCK, 196)
    assert not second_eigenvectors(affinity, noise, affinity.degrees()).converged.any()


def test_unconverged_image_is_solved_densely() -> None:
    edges = torch.stack([GRAPHS["clear"](196), GRAPHS["three apart"](196)])
    affinity = Affinity.of_edges(edges, EPS)
    with pytest.raises(RunError, match="did not converge on image 8; use solver auto"):
        cut_vectors(affinity, "krylov", first=7)
    for graph, y in zip(edges, cut_vectors(affinity), strict=True):
        Exact(graph).check(y)


def test_restarts_find_a_cut_that_needs_many_steps() -> None:
    edges = GRAPHS["random"](400)
    affinity = Affinity.of_edges(edges[None], EPS)
    noise = torch.randn(1, BLOCK, 400, generator=torch.Generator().manual_seed(0))
    assert not second_eigenvectors(
        affinity, noise, affinity.degrees(), max_steps=krylov.CAPACITY
    ).converged.any()
    found = second_eigenvectors(affinity, noise, affinity.degrees(), max_steps=60)
    assert found.converged.all()
    Exact(edges).check(found.vectors[0] * affinity.degrees()[0].rsqrt())
