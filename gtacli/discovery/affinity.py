"""The binary patch graph of TokenCut (Wang et al., arXiv 2202.11539), stored as half a matrix.

    A_ij = 1 if f_i . f_j > tau else eps,   f the L2-normalized features.

A is symmetric, so only panels of rows from the diagonal to the right are computed and stored. This
halves the products, the memory, and the memory traffic of every later product with A, which limits
their speed on a CPU.

Shapes: B images, N patches, C width of a feature, R rows of a vector block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gtacli.runtime.threads import each

# Rows of a panel: on a CPU a panel of a few MB fits the cache; on a GPU fewer launches are faster.
_PANEL = {"cpu": 256}
_PANEL_ELSEWHERE = 2048


@dataclass(frozen=True)
class Affinity:
    """The matrix A of B images in panels: rows i..i+h and columns i.. of the binary matrix.

    Attributes:
        panels: (B, h, N - i) zeros and ones in fp32, i = 0, h, 2h, ...
        eps: weight of missing edges.
    """

    panels: tuple[Tensor, ...]
    eps: float

    @staticmethod
    def of(
        features_BNC: Tensor,
        tau: float,
        eps: float,
        reuse: Affinity | None = None,
        threads: int = 1,
    ) -> Affinity:
        """Compute the affinity of normalized fp32 features.

        Args:
            features_BNC: (B, N, C) of unit length.
            tau: similarity above which two patches are connected.
            eps: weight of every other edge.
            reuse: an affinity of as many or more images whose memory is overwritten.
            threads: panels that are computed in parallel.
        """
        batch, n, _ = features_BNC.shape
        columns = features_BNC.transpose(1, 2)
        height = _PANEL.get(features_BNC.device.type, _PANEL_ELSEWHERE)

        def panel(k: int) -> Tensor:
            out = None if reuse is None else reuse.panels[k][:batch]
            i = k * height
            rows = features_BNC[:, i : i + height]
            return torch.bmm(rows, columns[:, :, i:], out=out).gt_(tau)

        return Affinity(tuple(each(panel, range(math.ceil(n / height)), threads)), eps)

    @staticmethod
    def of_edges(edges_BNN: Tensor, eps: float) -> Affinity:
        """Return the affinity of a symmetric graph (B, N, N): true for connected patches."""
        height = _PANEL.get(edges_BNN.device.type, _PANEL_ELSEWHERE)
        starts = range(0, edges_BNN.shape[1], height)
        return Affinity(tuple(edges_BNN[:, i : i + height, i:].float() for i in starts), eps)

    @property
    def batch(self) -> int:
        return self.panels[0].shape[0]

    @property
    def size(self) -> int:
        """Return N."""
        return self.panels[0].shape[2]

    @property
    def device(self) -> torch.device:
        return self.panels[0].device

    def __getitem__(self, images: Tensor) -> Affinity:
        """Return the affinity of a subset of the images."""
        return Affinity(tuple(panel[images] for panel in self.panels), self.eps)

    def matmul(self, x_BRN: Tensor) -> Tensor:
        """Return x A, (B, R, N); few vectors are faster as rows with every BLAS."""
        y = torch.empty_like(x_BRN)
        i = 0
        for panel in self.panels:
            end = i + panel.shape[1]
            if i == 0:
                torch.bmm(x_BRN[:, :, :end], panel, out=y)
            else:
                y[:, :, i:].baddbmm_(x_BRN[:, :, i:end], panel)
            if end < self.size:  # below the diagonal: the panel's transpose
                rest = panel[:, :, panel.shape[1] :].transpose(1, 2)
                y[:, :, i:end].baddbmm_(x_BRN[:, :, end:], rest)
            i = end
        total = x_BRN.sum(-1, keepdim=True)
        return y.mul_(1 - self.eps).add_(total, alpha=self.eps)

    def degrees(self) -> Tensor:
        """Return the sum of each row, (B, N), with the diagonal; counts are exact in fp32."""
        return self.matmul(self.panels[0].new_ones(self.batch, 1, self.size))[:, 0]

    def dense(self) -> Tensor:
        """Return the full matrix (B, N, N) in float64."""
        full = self.panels[0].new_empty(self.batch, self.size, self.size, dtype=torch.float64)
        i = 0
        for panel in self.panels:
            weights = panel.double().mul_(1 - self.eps).add_(self.eps)
            end = i + panel.shape[1]
            full[:, i:end, i:] = weights
            full[:, i:, i:end] = weights.transpose(1, 2)
            i = end
        # (1 - eps) + eps may differ from 1.
        return full.masked_fill_(full > 0.5, 1.0) if self.eps < 0.5 else full
