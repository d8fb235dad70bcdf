"""Normalized cut of patch features (TokenCut, Wang et al., arXiv 2202.11539; Shi and Malik 2000).

    W = F F^T of L2-normalized features,   A = 1 if W > tau else eps,   (D - A) y = l D y:

y of the second-smallest l divides the patches. y = D^-1/2 v with v the eigenvector of the
second-largest eigenvalue of D^-1/2 A D^-1/2, which `krylov` computes with a few products with A;
the published code solves the dense generalized problem in float64, one image at a time.

Shapes: B images, N patches, C width of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Literal, get_args

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.discovery.affinity import Affinity
from gtacli.discovery.bipartition import NormalizedCut, Side, bipartition
from gtacli.discovery.krylov import BLOCK, second_eigenvectors
from gtacli.errors import RunError, UsageError
from gtacli.runtime.threads import each, one_thread

Solver = Literal["auto", "krylov", "eigh", "scipy"]

SMALL = 100  # patches up to which a dense solution is faster
# Bytes of affinity in memory: on a CPU the size of its cache, on a GPU a fraction of its memory.
_CHUNK = {"cpu": 1 << 21}
_CHUNK_ELSEWHERE = 1 << 30
_SPLIT = 1 << 24  # entries of one affinity above which its products are split over threads
_SHORT = 1e-15  # lengths whose square, and its inverse, have full precision in fp32
_MKLDNN: Any = torch.backends.mkldnn  # its attributes are unknown to type checkers


@torch.no_grad()
def normalized_cut(
    features: Tensor,
    grid: tuple[int, int],
    tau: float = 0.2,
    eps: float = 1e-5,
    solver: Solver = "auto",
    side: Side = "seed",
) -> NormalizedCut:
    """Find the object in each image from the features of its patches.

    Deterministic: start vectors are drawn with a fixed seed. Affinities need at most 2 N^2 bytes or
    1 GB, whichever is more. On a CPU the images of a batch are distributed over threads.

    Args:
        features: (B, N, C) floating point, without prefix tokens; L2-normalized inside.
        grid: (gh, gw) of the patches, N = gh * gw.
        tau: cosine similarity above which two patches are connected.
        eps: weight of all other edges; above 0.
        solver: "krylov": block Krylov iteration in fp32. "eigh": dense, in float64, on the device.
            "scipy": the published solution, `scipy.linalg.eigh(D - A, D)` in float64, the
            reference. "auto": krylov, but eigh for few patches and for images on which krylov does
            not converge (several cuts are nearly equally good).
        side: the part that is the object: "seed", as published, or "center"; see `bipartition`.

    Raises:
        UsageError: for features that do not match the grid or are not finite.
        RunError: solver="krylov" did not converge.
    """
    _check(features, grid, tau, eps, solver, side)
    # Apple's devices have neither float64 nor the small factorizations.
    near = features.cpu() if features.device.type == "mps" else features

    images, panels = _threads(near)
    parts = near.tensor_split(images)
    firsts = [0, *accumulate(len(part) for part in parts)]

    def solve(k: int) -> Tensor:
        return _cut_chunks(parts[k], firsts[k], tau, eps, solver, panels)

    whole = near.device.type != "cpu" or near.shape[1] ** 2 > _SPLIT
    with _exact_fp32(near.device), one_thread(not whole or images > 1):
        y = torch.cat(each(solve, range(images), images))
    return bipartition(y.to(features.device), grid, side)


def _threads(features: Tensor) -> tuple[int, int]:
    """Return the number of images, and of panels per image, that are computed in parallel."""
    batch, n, _ = features.shape
    threads = torch.get_num_threads() if features.device.type == "cpu" else 1
    if threads == 1 or (n * n > _SPLIT and batch < threads):
        return 1, 1
    images = max(1, min(batch, threads, _CHUNK_ELSEWHERE // (2 * n * n)))
    return images, threads // images


@torch.no_grad()  # again: the mode is local to a thread
def _cut_chunks(
    features: Tensor, first: int, tau: float, eps: float, solver: Solver, threads: int
) -> Tensor:
    """Return y (B, N) of the images, computed in chunks that fit the memory or cache."""
    batch, n, _ = features.shape
    limit = _CHUNK.get(features.device.type, _CHUNK_ELSEWHERE)
    chunk = max(1, limit // (2 * n * n))
    parts = [features.new_zeros(0, n, dtype=torch.float32)]
    reuse: Affinity | None = None
    for start in range(0, batch, chunk):
        f = _unit(features[start : start + chunk], first + start)
        affinity = Affinity.of(f, tau, eps, reuse, threads)
        reuse = reuse or affinity
        parts.append(cut_vectors(affinity, solver, f, first + start))
    return torch.cat(parts)


def _unit(features_BNC: Tensor, first: int) -> Tensor:
    """Normalize features to length 1 in fp32; zeros stay zeros, similar to no other feature."""
    f = features_BNC.float()
    length = f.norm(dim=-1, keepdim=True)
    if ((length > _SHORT) & (length < 1 / _SHORT)).all():
        return f / length
    wide = features_BNC.double()
    finite = wide.isfinite().all(-1).all(-1)
    if not finite.all():
        image = first + int(finite.int().argmin())
        raise UsageError(f"features of image {image} contain NaN or infinity")
    return F.normalize(wide, dim=-1, eps=torch.finfo(torch.float64).tiny).float()


def cut_vectors(
    affinity: Affinity, solver: Solver = "auto", features: Tensor | None = None, first: int = 0
) -> Tensor:
    """Return y (B, N) of each graph with y^T D y = 1; zeros for a graph without a cut.

    Args:
        affinity: of B graphs.
        solver: see `normalized_cut`.
        features: (B, N, C), normalized, for the start vectors; default: noise.
        first: number of the first image, for messages.
    """
    degrees, n = affinity.degrees(), affinity.size
    # With all edges or none all directions are equivalent.
    joined = degrees.amin(-1) > n - 0.5
    apart = degrees.amax(-1) < affinity.eps * n + 0.5 * (1 - affinity.eps)
    uncut = joined | apart
    if solver in ("krylov", "auto") and not (solver == "auto" and n <= SMALL):
        v, converged = second_eigenvectors(affinity, _start(affinity, features), degrees, uncut)
        y = v * degrees.rsqrt()
        if converged.all():
            return y
        left = (~converged).nonzero()[:, 0]
        if solver == "krylov":
            raise RunError(
                f"solver krylov did not converge on image {first + int(left[0])}; use solver auto"
            )
    else:
        y = torch.zeros_like(degrees)
        left = (~uncut).nonzero()[:, 0]
    solve = _scipy if solver == "scipy" else _eigh
    for i in left:
        y[i] = solve(affinity[i[None]].dense()[0]).to(y)
    return y


def _start(affinity: Affinity, features: Tensor | None) -> Tensor:
    """Return start vectors: random combinations of the features, which approximate the solution.

    A little noise is added for solutions that are orthogonal to all features by symmetry.
    """
    shape = (affinity.batch, BLOCK, affinity.size)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(shape[1:], generator=generator).to(affinity.device)
    if features is None:
        return noise.expand(shape)
    mix = torch.randn(BLOCK, features.shape[-1], generator=generator).to(affinity.device)
    return torch.baddbmm(
        noise.expand(shape), mix.expand(shape[0], -1, -1), features.transpose(1, 2), beta=0.03
    )


def _eigh(a_NN: Tensor) -> Tensor:
    scale = a_NN.sum(-1).rsqrt()
    u = F.normalize(1 / scale, dim=0)
    # Move u's eigenvalue from 1 to -1, below all others, even if 1 is a double eigenvalue.
    s = (a_NN * scale[:, None] * scale).addr_(u, u, alpha=-2)
    return torch.linalg.eigh(s).eigenvectors[:, -1] * scale


def _scipy(a_NN: Tensor) -> Tensor:
    a = a_NN.cpu().numpy()
    d = np.diag(a.sum(-1))
    _, vectors = scipy.linalg.eigh(d - a, d, subset_by_index=[1, min(2, len(a) - 1)])
    return torch.from_numpy(vectors[:, 0])


@contextmanager
def _exact_fp32(device: torch.device) -> Iterator[None]:
    """Disable autocast, TF32 and bf16 in matrix products: similarities near tau must be exact."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, _MKLDNN.matmul)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _check(
    features: Tensor, grid: tuple[int, int], tau: float, eps: float, solver: str, side: str
) -> None:
    shape = tuple(features.shape)
    if features.ndim != 3 or not features.is_floating_point():
        raise UsageError(
            f"must be (B, N, C) floating point, got {shape} {features.dtype}", option="features"
        )
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != shape[1]:
        raise UsageError(f"{tuple(grid)} is not a grid of {shape[1]} patches", option="grid")
    if not math.isfinite(tau):
        raise UsageError(f"must be a finite number, got {tau}", option="tau")
    if not 0 < eps < 0.5:
        raise UsageError(f"must be above 0 and below 0.5, got {eps}", option="eps")
    for option, value, kind in (("solver", solver, Solver), ("side", side, Side)):
        if value not in get_args(kind):
            choices = ", ".join(get_args(kind))
            raise UsageError(f"must be one of {choices}, got {value!r}", option=option)
