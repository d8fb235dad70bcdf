"""Eigenvectors that cut graphs in two: the second of the normalised affinity, many at once.

Of S = D^-1/2 A D^-1/2 the largest eigenvalue is 1, its vector u = D^1/2 1 / |D^1/2 1| is known.
What is wanted is the largest algebraic eigenvalue on the complement of u: block Krylov iteration
with full orthogonalisation against u and every earlier block, Rayleigh-Ritz on the whole basis,
thick restart. All in fp32 but for the small matrices.

A small residual alone proves nothing: an iteration may return u, or a vector of length zero. Each
image is accepted on its own, by residual, length, |<v, u>|, and the gap to the next Ritz value.

Shapes: B images, N patches, R rows (vectors) of a block or of the basis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gtacli.discovery.affinity import Affinity

BLOCK = 4
CAPACITY = 12  # blocks of the basis before it restarts from its best vectors
KEPT = 2 * BLOCK
CHECKS = (6, 7, 8)  # steps, then every other; on graphs of photographs 6 to 8 suffice
TOLERANCE = 2e-6  # of |S v - theta v|; rounding ends at 2e-7 to 8e-7
TRIVIAL = 1e-4  # of |<v, u>|
ORTHONORMAL = 1e-3  # of |v| - 1
TURN = 1e-3  # of residual / gap, the angle by which v may be off
DENSE_LIMIT = 4096  # patches up to which an image that turns more is left to a dense solver


class Eigenvectors(NamedTuple):
    """Attributes:
    vectors: (B, N) unit vectors v, orthogonal to u.
    converged: (B,) bool; where false the vector means nothing.
    """

    vectors: Tensor
    converged: Tensor


def second_eigenvectors(
    affinity: Affinity,
    start_BRN: Tensor,
    degrees_BN: Tensor,
    skip: Tensor | None = None,
    max_steps: int | None = None,
) -> Eigenvectors:
    """The eigenvectors of every image that converges.

    Args:
        affinity: of B graphs.
        start_BRN: (B, BLOCK, N) start vectors with a share of every direction that counts.
        degrees_BN: (B, N) of the affinity.
        skip: (B,) images without one; they count as converged, with zeros.
        max_steps: products with A at most; default by N, about the cost of a dense solution.
    """
    steps = max_steps or max(60, affinity.size // 8)
    vectors = start_BRN.new_zeros(affinity.batch, affinity.size)
    none = torch.zeros_like(degrees_BN[:, 0], dtype=torch.bool)
    converged = none if skip is None else skip.clone()
    # Of the images in the search, their numbers; and of these, the places of the open ones.
    left = torch.arange(affinity.batch, device=affinity.device)
    open_ = (~converged).nonzero()[:, 0]
    search = _Search(affinity, start_BRN, degrees_BN)
    for step in range(1, steps + 1):
        search.multiply()
        if step in CHECKS or (step > CHECKS[-1] and step % 2 == 0):
            v, good = search.best(open_)
            found = left[open_[good]]
            vectors[found], converged[found] = v[good], True
            open_ = open_[~good]
            if not len(open_):
                break
            if search.full:
                search.keep(open_)
                left, open_ = left[open_], torch.arange(len(open_), device=left.device)
        search.extend()
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    return Eigenvectors(vectors, converged)


class _Search:
    """The basis of one Krylov space an image, orthogonal to u, and what S makes of it."""

    def __init__(self, affinity: Affinity, start_BRN: Tensor, degrees_BN: Tensor) -> None:
        self.affinity = affinity
        self.scale = degrees_BN.rsqrt()[:, None]
        # u is row 0 of the basis: whatever is made orthogonal to the basis is so to u.
        rows = 1 + CAPACITY * BLOCK
        self.basis = start_BRN.new_empty(affinity.batch, rows, affinity.size)
        self.basis[:, 0] = torch.nn.functional.normalize(degrees_BN.sqrt(), dim=-1)
        self.images = torch.empty_like(self.basis)
        self.filled = 1
        self._append(_project(start_BRN * self.scale, self.basis[:, :1]))

    @property
    def full(self) -> bool:
        return self.filled + BLOCK > self.basis.shape[1]

    def keep(self, images: Tensor) -> None:
        """Go on with some of the images alone."""
        self.affinity = self.affinity[images]
        for name in ("scale", "basis", "images", "product"):
            setattr(self, name, getattr(self, name)[images])

    def multiply(self) -> None:
        """S times the newest block."""
        new = slice(self.filled - BLOCK, self.filled)
        self.product = self.affinity.matmul(self.basis[:, new] * self.scale).mul_(self.scale)
        self.images[:, new] = self.product

    def extend(self) -> None:
        """A new block: S times the newest, as far as it leaves the basis."""
        block = _project(self.product, self.basis[:, : self.filled])
        if self.full:
            self._restart()
        self._append(block)

    def best(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The best Ritz vectors (B, N) of some of the images, and which of them are accepted."""
        some = slice(None) if len(images) == self.affinity.batch else images
        basis, s_basis = (rows[some, : self.filled] for rows in (self.basis, self.images))
        ritz, z = _ritz(basis[:, 1:], s_basis[:, 1:])
        theta, gap = ritz[:, -1].float(), ritz[:, -1] - ritz[:, -2]
        z_top = z[:, None, :, -1].float()
        v = torch.bmm(z_top, basis[:, 1:])
        sv = torch.bmm(z_top, s_basis[:, 1:])
        # Of a unit z; v is one too, unless the basis was not.
        length = v.norm(dim=-1)[:, 0]
        residual = torch.sub(sv, v * theta[:, None, None]).norm(dim=-1)[:, 0]
        trivial = (v * basis[:, :1]).sum(-1)[:, 0].abs()
        good = (residual < TOLERANCE) & (trivial < TRIVIAL) & ((length - 1).abs() < ORTHONORMAL)
        if self.affinity.size <= DENSE_LIMIT:
            good &= residual < TURN * gap
        return v[:, 0], good

    def _restart(self) -> None:
        """Keep the best Ritz vectors. A block orthogonal to the whole basis still continues it."""
        _, z = _ritz(self.basis[:, 1 : self.filled], self.images[:, 1 : self.filled])
        z_top = z[:, :, -KEPT:].transpose(1, 2).float()
        for rows in (self.basis, self.images):
            rows[:, 1 : 1 + KEPT] = torch.bmm(z_top, rows[:, 1 : self.filled])
        self.filled = 1 + KEPT

    def _append(self, block_BRN: Tensor) -> None:
        """Add a block that was projected already."""
        # Once more: rounding that the first projection left behind grows with what was short.
        block = _project(_normalise(block_BRN), self.basis[:, : self.filled])
        self.basis[:, self.filled : self.filled + BLOCK] = block
        self.filled += BLOCK


def _ritz(basis: Tensor, s_basis: Tensor) -> tuple[Tensor, Tensor]:
    """Ritz values, ascending, and the vectors' coordinates in the basis."""
    t = torch.bmm(basis, s_basis.transpose(1, 2)).double()
    ritz, z = torch.linalg.eigh(t + t.transpose(1, 2))
    return ritz / 2, z


def _project(block_BRN: Tensor, basis: Tensor) -> Tensor:
    """What is orthogonal to the basis."""
    along = torch.bmm(block_BRN, basis.transpose(1, 2))
    return torch.baddbmm(block_BRN, along, basis, alpha=-1)


def _normalise(block_BRN: Tensor) -> Tensor:
    """Orthonormal rows by Cholesky factorisation of their Gram matrix.

    In float64 with a shift far below what fp32 rows can hold, it does not fail where rows are
    dependent: those come out as noise, which is as good a direction as any, or as zeros.
    """
    wide = block_BRN.double()
    gram = torch.bmm(wide, wide.transpose(1, 2))
    gram.diagonal(dim1=1, dim2=2).mul_(1 + 1e-13).add_(1e-60)
    factor = torch.linalg.cholesky_ex(gram).L
    return torch.linalg.solve_triangular(factor, wide, upper=False).float()
