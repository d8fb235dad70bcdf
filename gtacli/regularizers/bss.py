"""Batch spectral shrinkage (Chen et al., NeurIPS 2019).

    R = sum of the k smallest sigma_i^2 of the batch's feature matrix F (B x C),

with F the features that enter the classifier; loss += eta R. Each of several processes uses the
spectrum of its own batch.
"""

from __future__ import annotations

import logging
from typing import ClassVar

import torch
from torch import Tensor

from gtacli.config.parts import BSSOptions, RegularizerOptions
from gtacli.models.tap import Request
from gtacli.regularizers.base import Needs, Regularizer, StepOutputs

log = logging.getLogger(__name__)


class BSS(Regularizer[BSSOptions]):
    """A penalty on the smallest singular values of the batch's features."""

    Options: ClassVar[type[RegularizerOptions]] = BSSOptions
    reaches_head: ClassVar[bool] = False
    shardable: ClassVar[bool] = True

    _warned = False

    @property
    def needs(self) -> Needs:
        return Needs(Request(features=True))

    def penalty(self, step: StepOutputs) -> Tensor:
        """Sum the k smallest squared singular values, the eigenvalues of the smaller Gram matrix.

        In float64: the Gram matrix squares the condition number, and in fp32 near-duplicate images
        make the smallest values and their gradients wrong by orders of magnitude. For a batch of k
        images or fewer (the last of an epoch) the penalty is 0, because k values are all of them.
        """
        features = step.target.features
        assert features is not None
        if min(features.shape) <= self.options.k:
            if not self._warned:
                self._warned = True
                log.warning(
                    "regularizer bss: k=%d is too large for a batch of %d images; its penalty is 0",
                    self.options.k,
                    len(features),
                )
            return features.sum() * 0
        with torch.autocast(features.device.type, enabled=False):
            # MPS has no float64, so the CPU computes it, on a matrix of the size of the batch.
            f = (features.cpu() if features.device.type == "mps" else features).double()
            gram = f @ f.T if f.shape[0] <= f.shape[1] else f.T @ f
            # eigvalsh's backward is V diag(g) V^T: no division by the gaps between eigenvalues.
            smallest = torch.linalg.eigvalsh(gram)[: self.options.k].clamp_min(0)
            return smallest.sum().float().to(features.device)
