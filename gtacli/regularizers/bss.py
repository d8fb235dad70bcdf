"""Batch spectral shrinkage (Chen et al., NeurIPS 2019).

    R = sum of the k smallest sigma_i^2 of the batch's feature matrix F (B x C),

the features that enter the classifier; loss += eta R. Over several processes each shrinks the
spectrum of its own batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gtacli.errors import UsageError
from gtacli.models.tap import Request
from gtacli.regularizers.base import Needs, Regularizer, Step
from gtacli.regularizers.options import BSSOptions, RegularizerOptions


class BSS(Regularizer[BSSOptions]):
    """Shrinks the smallest singular values of the batch's features."""

    Options: ClassVar[type[RegularizerOptions]] = BSSOptions

    @property
    def needs(self) -> Needs:
        return Needs(Request(features=True))

    def penalty(self, step: Step) -> Tensor:
        """Sum of the k smallest squared singular values, as eigenvalues of the smaller Gram matrix.

        In float64: the Gram matrix squares the condition number, and in fp32 near-duplicate images
        make the smallest values and their gradients wrong by orders of magnitude. Raises
        UsageError when the batch has fewer than k of them.
        """
        features = step.target.features
        assert features is not None
        if min(features.shape) < self.options.k:
            raise UsageError(
                f"regularizer bss: k={self.options.k} singular values are asked of a batch with "
                f"{min(features.shape)}"
            )
        with torch.autocast(features.device.type, enabled=False):
            # MPS has no float64; the CPU does it there, on a matrix of a batch's size.
            f = (features.cpu() if features.device.type == "mps" else features).double()
            gram = f @ f.T if f.shape[0] <= f.shape[1] else f.T @ f
            # eigvalsh's backward is V diag(g) V^T: no division by the gaps between eigenvalues.
            smallest = torch.linalg.eigvalsh(gram)[: self.options.k].clamp_min(0)
            return smallest.sum().float().to(features.device)
