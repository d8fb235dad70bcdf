"""Attention distillation (Li et al., NeurIPS 2024, arXiv 2411.09702).

    R = sum over blocks of  mean over images, heads and rows of  -sum_j s_j log t_j,   loss += lam R

with s and t the attention (softmax over all tokens) of the frozen source and of the target for the
same view, in every row: the CLS token's, the registers' and the patches'. As published the last
quarter of the blocks is free, the blocks are summed, and lam is 3.

The cross-entropy has its minimum, the source's entropy, where both agree; the metric `divergence`
is what exceeds it. The attention of a network that starts as its source begins there.

The paper's other form, attention copy, replaces the target's attention by the source's in the
forward pass. A regularizer gets outputs and returns a penalty, so it cannot do that.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from gta_attention_transfer.options import AttentionTransferOptions
from gtacli.config.parts import RegularizerOptions
from gtacli.models import Request
from gtacli.models.matching import paired_layers, require_same
from gtacli.models.tap import Tap
from gtacli.regularizers import Needs, Regularizer, StepOutputs


class AttentionTransfer(Regularizer[AttentionTransferOptions]):
    """The cross-entropy between the attention of the target and of the frozen source.

    Raises UsageError without a source, for networks of different heads, patches or prefix tokens,
    and for blocks that a network does not have.
    """

    Options: ClassVar[type[RegularizerOptions]] = AttentionTransferOptions
    needs_source: ClassVar[bool] = True
    reaches_head: ClassVar[bool] = False

    def __init__(
        self,
        options: AttentionTransferOptions,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        super().__init__(options, target, source, head)
        assert source is not None
        require_same(target, source, "attention-transfer", "heads", "patches", "prefix tokens")
        layers = options.layers
        if layers == "auto":
            depth = len(cast(nn.ModuleList, target.blocks))
            layers = tuple(range(depth - depth // 4))
        self.layers = paired_layers(layers, target, source)
        self._divergence: Tensor | None = None

    @property
    def needs(self) -> Needs:
        """Return requests for all rows of the chosen blocks; the source stops after the last."""
        ours, theirs = zip(*self.layers, strict=True)
        return Needs(
            Request(layers=ours, rows="all"), Request(layers=theirs, rows="all", output=False)
        )

    def penalty(self, step: StepOutputs) -> Tensor:
        """Return the sum over the blocks, in fp32."""
        assert step.source is not None
        pairs = [(step.target.taps[t], step.source.taps[s]) for t, s in self.layers]
        blocks = torch.stack([_cross_entropy(*pair) for pair in pairs])
        total, self._divergence = blocks[:, 0].sum(), blocks.detach()[:, 1].sum()
        return total

    def metrics(self) -> dict[str, Tensor]:
        """Return the divergence KL(source || target) of the last step, summed as the penalty."""
        return {} if self._divergence is None else {"divergence": self._divergence}


def _cross_entropy(target: Tap, source: Tap) -> Tensor:
    """Return (2,): the cross-entropy of a block's attention, and what exceeds the minimum."""
    log_t, log_s = target.logits.log_softmax(-1), source.logits.log_softmax(-1)
    s = log_s.exp()
    cross = -(s * log_t).sum(-1).mean()
    return torch.stack((cross, cross + (s * log_s).sum(-1).mean()))
