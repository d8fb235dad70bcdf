"""Normalised cut of patch features (TokenCut, Wang et al., arXiv 2202.11539; Shi and Malik 2000).

    W = F F^T of L2-normalised features,   A = 1 if W > tau else eps,   (D - A) y = l D y:

y of the second-smallest l divides the patches. y = D^-1/2 v, v the eigenvector of the
second-largest eigenvalue of D^-1/2 A D^-1/2, which `krylov` finds in a few products with A; the
published code solves the dense generalised problem in float64, one image at a time.

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
from gtacli.discovery.bipartition import NormalizedCut, bipartition
from gtacli.discovery.krylov import BLOCK, second_eigenvectors
from gtacli.errors import RunError, UsageError
from gtacli.runtime.threads import each, one_thread

Solver = Literal["auto", "krylov", "eigh", "scipy"]

SMALL = 100  # patches up to which a dense solution is the faster one
# Bytes of affinity at a time: on a CPU what its cache holds, on a GPU a small part of its memory.
_CHUNK = {"cpu": 1 << 21}
_CHUNK_ELSEWHERE = 1 << 30
_SPLIT = 1 << 24  # entries of one affinity above which its products are split over threads
_SHORT = 1e-15  # lengths whose square fp32 holds with its full precision, as that of their inverse
_MKLDNN: Any = torch.backends.mkldnn  # made at run time: no type checker sees its parts


@torch.no_grad()
def normalized_cut(
    features: Tensor,
    grid: tuple[int, int],
    tau: float = 0.2,
    eps: float = 1e-5,
    solver: Solver = "auto",
) -> NormalizedCut:
    """The object of each image, from the features of its patches.

    The same on every call: start vectors are drawn from a seed of its own. Affinities take at most
    one image's 2 N^2 bytes or 1 GB, whichever is more. On a CPU a batch is shared among threads.

    Args:
        features: (B, N, C) floating point, without prefix tokens; L2-normalised inside.
        grid: (gh, gw) of the patches, N = gh * gw.
        tau: cosine similarity above which two patches are joined.
        eps: weight of the edges that are not there; above 0.
        solver: "krylov": block Krylov iteration in fp32. "eigh": dense, in float64, on the device.
            "scipy": the published solution, `scipy.linalg.eigh(D - A, D)` in float64, the
            reference. "auto": krylov, and eigh for images that it does not converge on (several
            cuts that are nearly as good) and where there are few patches.

    Raises:
        UsageError: for features that do not fit the grid or are not finite.
        RunError: solver="krylov" did not converge.
    """
    _check(features, grid, tau, eps, solver)
    # Apple's devices have neither float64 nor the small factorisations.
    near = features.cpu() if features.device.type == "mps" else features

    images, panels = _threads(near)
    shares = near.tensor_split(images)
    firsts = [0, *accumulate(len(share) for share in shares)]

    def solve(k: int) -> Tensor:
        return _cut_chunks(shares[k], firsts[k], tau, eps, solver, panels)

    whole = near.device.type != "cpu" or near.shape[1] ** 2 > _SPLIT
    with _exact_fp32(near.device), one_thread(not whole or images > 1):
        y = torch.cat(each(solve, range(images), images))
    return bipartition(y.to(features.device), grid)


def _threads(features: Tensor) -> tuple[int, int]:
    """Images that are solved at a time, and panels of each that are computed at a time."""
    batch, n, _ = features.shape
    threads = torch.get_num_threads() if features.device.type == "cpu" else 1
    if threads == 1 or (n * n > _SPLIT and batch < threads):
        return 1, 1
    images = max(1, min(batch, threads, _CHUNK_ELSEWHERE // (2 * n * n)))
    return images, threads // images


@torch.no_grad()  # once more: the mode is each thread's own
def _cut_chunks(
    features: Tensor, first: int, tau: float, eps: float, solver: Solver, threads: int
) -> Tensor:
    """(B, N) y of the images, as many at a time as memory or cache likes."""
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
    """Features of length one, fp32; those of zeros stay zeros, and are like no other's."""
    f = features_BNC.float()
    length = f.norm(dim=-1, keepdim=True)
    if ((length > _SHORT) & (length < 1 / _SHORT)).all():
        return f / length
    wide = features_BNC.double()
    finite = wide.isfinite().all(-1).all(-1)
    if not finite.all():
        image = first + int(finite.int().argmin())
        raise UsageError(f"features of image {image} hold NaN or infinity")
    return F.normalize(wide, dim=-1, eps=torch.finfo(torch.float64).tiny).float()


def cut_vectors(
    affinity: Affinity, solver: Solver = "auto", features: Tensor | None = None, first: int = 0
) -> Tensor:
    """(B, N) y of each graph, y^T D y = 1; zeros for a graph without a cut.

    Args:
        affinity: of B graphs.
        solver: see `normalized_cut`.
        features: (B, N, C) normalised, to start from; without them from noise.
        first: number of the first image, for messages.
    """
    degrees, n = affinity.degrees(), affinity.size
    # All edges or none: every direction is as good as every other.
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
                f"solver=krylov did not converge on image {first + int(left[0])}; use solver=auto"
            )
    else:
        y = torch.zeros_like(degrees)
        left = (~uncut).nonzero()[:, 0]
    solve = _scipy if solver == "scipy" else _eigh
    for i in left:
        y[i] = solve(affinity[i[None]].dense()[0]).to(y)
    return y


def _start(affinity: Affinity, features: Tensor | None) -> Tensor:
    """Random combinations of the features, which the wanted vector nearly is; and a little noise,
    for a vector that by some symmetry has no part in them."""
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
    # u's own eigenvalue goes from 1 to -1, below all others, also where 1 is there twice.
    s = (a_NN * scale[:, None] * scale).addr_(u, u, alpha=-2)
    return torch.linalg.eigh(s).eigenvectors[:, -1] * scale


def _scipy(a_NN: Tensor) -> Tensor:
    a = a_NN.cpu().numpy()
    d = np.diag(a.sum(-1))
    _, vectors = scipy.linalg.eigh(d - a, d, subset_by_index=[1, min(2, len(a) - 1)])
    return torch.from_numpy(vectors[:, 0])


@contextmanager
def _exact_fp32(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no bf16 in matrix products: a similarity at tau must not be rounded."""
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


def _check(features: Tensor, grid: tuple[int, int], tau: float, eps: float, solver: str) -> None:
    shape = tuple(features.shape)
    if features.ndim != 3 or not features.is_floating_point():
        raise UsageError(
            f"features: (B, N, C) floating point is needed, got {shape} {features.dtype}"
        )
    if len(grid) != 2 or min(grid) < 1 or grid[0] * grid[1] != shape[1]:
        raise UsageError(f"grid: {tuple(grid)} is not a grid of {shape[1]} patches")
    if not math.isfinite(tau):
        raise UsageError(f"tau: must be a finite number, got {tau}")
    if not 0 < eps < 0.5:
        raise UsageError(f"eps: must be above 0 and below 0.5, got {eps}")
    if solver not in get_args(Solver):
        raise UsageError(f"solver: must be one of {', '.join(get_args(Solver))}, got {solver!r}")
