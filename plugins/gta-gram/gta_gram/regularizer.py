"""Gram anchoring (DINOv3, Siméoni et al., 2025, arXiv 2508.10104).

    R = mean over images and pairs of patches of  (x_i . x_j - y_i . y_j)^2,   loss += lam R

with x and y the patch tokens of the target and of the frozen source for the same view, after the
final norm, each of length 1. The similarities among the patches are kept, the tokens themselves may
turn. lam=2 is the weight that DINOv3's training ends with.
"""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from gta_gram.distance import gram_distance
from gta_gram.options import GramOptions
from gtacli.config.parts import RegularizerOptions
from gtacli.models import Request
from gtacli.models.matching import paired_layers, require_same
from gtacli.models.registers import shown_prefix
from gtacli.regularizers import Needs, Regularizer, StepOutputs


class Gram(Regularizer[GramOptions]):
    """A penalty on changes of the similarities among an image's patch tokens.

    The networks may differ in width and depth, not in their patches.

    Raises UsageError without a source, for networks of different patches, and for a block that a
    network does not have.
    """

    Options: ClassVar[type[RegularizerOptions]] = GramOptions
    needs_source: ClassVar[bool] = True
    reaches_head: ClassVar[bool] = False

    def __init__(
        self,
        options: GramOptions,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        super().__init__(options, target, source, head)
        assert source is not None
        require_same(target, source, "gram", "patches")
        [(self.layer, self.source_layer)] = paired_layers((options.layer,), target, source)

    @property
    def needs(self) -> Needs:
        """Return requests for the block's output; the source stops there."""
        return Needs(
            Request(hidden=(self.layer,)), Request(hidden=(self.source_layer,), output=False)
        )

    def penalty(self, step: StepOutputs) -> Tensor:
        """Return the mean squared difference of the similarities, in fp32."""
        assert step.source is not None
        assert self.source is not None
        return gram_distance(
            _patch_tokens(self.target, step.target.hidden[self.layer]),
            _patch_tokens(self.source, step.source.hidden[self.source_layer]),
        )


def _patch_tokens(model: nn.Module, hidden_BTC: Tensor) -> Tensor:
    """Return the patch tokens (B, N, C) after the network's final norm."""
    norm = cast(nn.Module, model.norm)
    return cast(Tensor, norm(hidden_BTC[:, shown_prefix(model) :]))
