"""The second eigenvectors of normalized affinities, which cut graphs in two, for many at once.

The largest eigenvalue of S = D^-1/2 A D^-1/2 is 1 with the known vector u = D^1/2 1 / |D^1/2 1|.
The largest eigenvalue on the complement of u is computed by block Krylov iteration with full
orthogonalization against u and every earlier block, Rayleigh-Ritz on the full basis and thick
restarts, in fp32 except for the small matrices.

A small residual is not sufficient: the iteration may return u, or a vector of length zero. Each
image is accepted by its residual, length, |<v, u>|, and gap to the next Ritz value.

Shapes: B images, N patches, R rows (vectors) of a block or of the basis.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gtacli.discovery.affinity import Affinity

BLOCK = 4
CAPACITY = 12  # blocks of the basis before it restarts from its best vectors
RESTART_VECTORS = 2 * BLOCK
CHECKS = (6, 7, 8)  # steps, then every second one; graphs of photographs need 6 to 8
TOLERANCE = 2e-6  # of |S v - theta v|; rounding ends at 2e-7 to 8e-7
TRIVIAL = 1e-4  # of |<v, u>|
ORTHONORMAL = 1e-3  # of |v| - 1
ANGLE = 1e-3  # of residual / gap, the error of v as an angle
DENSE_LIMIT = 4096  # patches up to which images with a larger angle need a dense solver


class Eigenvectors(NamedTuple):
    """The second eigenvectors of B graphs.

    Attributes:
        vectors: (B, N) unit vectors v, orthogonal to u.
        converged: (B,) bool; if false, the vector is undefined.
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
    """Compute the second eigenvector of every image until it converges.

    Args:
        affinity: of B graphs.
        start_BRN: (B, BLOCK, N) start vectors; they must not be orthogonal to the solution.
        degrees_BN: (B, N) of the affinity.
        skip: (B,) images without a solution; they count as converged, with zeros.
        max_steps: maximum number of products with A; default: about the cost of a dense solution.
    """
    steps = max_steps or max(60, affinity.size // 8)
    vectors = start_BRN.new_zeros(affinity.batch, affinity.size)
    none = torch.zeros_like(degrees_BN[:, 0], dtype=torch.bool)
    converged = none if skip is None else skip.clone()
    # Numbers of the images in the search, and positions among them of those not converged.
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
    """A Krylov basis per image, orthogonal to u, and its image under S."""

    def __init__(self, affinity: Affinity, start_BRN: Tensor, degrees_BN: Tensor) -> None:
        self.affinity = affinity
        self.scale = degrees_BN.rsqrt()[:, None]
        # u is row 0 of the basis, so vectors orthogonal to the basis are orthogonal to u.
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
        """Continue with a subset of the images."""
        self.affinity = self.affinity[images]
        for name in ("scale", "basis", "images", "product"):
            setattr(self, name, getattr(self, name)[images])

    def multiply(self) -> None:
        """Multiply the newest block by S."""
        new = slice(self.filled - BLOCK, self.filled)
        self.product = self.affinity.matmul(self.basis[:, new] * self.scale).mul_(self.scale)
        self.images[:, new] = self.product

    def extend(self) -> None:
        """Append a block: the part of S times the newest one that is orthogonal to the basis."""
        block = _project(self.product, self.basis[:, : self.filled])
        if self.full:
            self._restart()
        self._append(block)

    def best(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best Ritz vectors (B, N) of a subset of the images, and which converged."""
        some = slice(None) if len(images) == self.affinity.batch else images
        basis, s_basis = (rows[some, : self.filled] for rows in (self.basis, self.images))
        ritz, z = _ritz(basis[:, 1:], s_basis[:, 1:])
        theta, gap = ritz[:, -1].float(), ritz[:, -1] - ritz[:, -2]
        z_top = z[:, None, :, -1].float()
        v = torch.bmm(z_top, basis[:, 1:])
        sv = torch.bmm(z_top, s_basis[:, 1:])
        # z has length 1; so has v if the basis is orthonormal.
        length = v.norm(dim=-1)[:, 0]
        residual = torch.sub(sv, v * theta[:, None, None]).norm(dim=-1)[:, 0]
        trivial = (v * basis[:, :1]).sum(-1)[:, 0].abs()
        good = (residual < TOLERANCE) & (trivial < TRIVIAL) & ((length - 1).abs() < ORTHONORMAL)
        if self.affinity.size <= DENSE_LIMIT:
            good &= residual < ANGLE * gap
        return v[:, 0], good

    def _restart(self) -> None:
        """Reduce the basis to the best Ritz vectors; the next block stays orthogonal to it."""
        _, z = _ritz(self.basis[:, 1 : self.filled], self.images[:, 1 : self.filled])
        z_top = z[:, :, -RESTART_VECTORS:].transpose(1, 2).float()
        for rows in (self.basis, self.images):
            rows[:, 1 : 1 + RESTART_VECTORS] = torch.bmm(z_top, rows[:, 1 : self.filled])
        self.filled = 1 + RESTART_VECTORS

    def _append(self, block_BRN: Tensor) -> None:
        """Append a projected block."""
        # Projected again: normalizing short vectors amplifies rounding errors of the first one.
        block = _project(_normalize(block_BRN), self.basis[:, : self.filled])
        self.basis[:, self.filled : self.filled + BLOCK] = block
        self.filled += BLOCK


def _ritz(basis: Tensor, s_basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Ritz values, ascending, and the vectors' coordinates in the basis."""
    t = torch.bmm(basis, s_basis.transpose(1, 2)).double()
    ritz, z = torch.linalg.eigh(t + t.transpose(1, 2))
    return ritz / 2, z


def _project(block_BRN: Tensor, basis: Tensor) -> Tensor:
    """Project onto the orthogonal complement of the basis."""
    along = torch.bmm(block_BRN, basis.transpose(1, 2))
    return torch.baddbmm(block_BRN, along, basis, alpha=-1)


def _normalize(block_BRN: Tensor) -> Tensor:
    """Orthonormalize rows by a Cholesky factorization of their Gram matrix.

    In float64 with a shift below the precision of fp32 it does not fail for dependent rows: they
    become noise, which is a valid direction, too, or zeros.
    """
    wide = block_BRN.double()
    gram = torch.bmm(wide, wide.transpose(1, 2))
    gram.diagonal(dim1=1, dim2=2).mul_(1 + 1e-13).add_(1e-60)
    factor = torch.linalg.cholesky_ex(gram).L
    return torch.linalg.solve_triangular(factor, wide, upper=False).float()
