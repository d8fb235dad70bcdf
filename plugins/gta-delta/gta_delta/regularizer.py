"""DELTA: a penalty on differences of feature maps (Li et al., ICLR 2019, arXiv 1901.09229).

    R = mean over blocks and images of  1/2 * 1/N * sum_nc  C w_c (h_t - h_s)^2_nc,   loss += lam R

with h the patch tokens (N, C) at a block's output, of the target and of the frozen source for the
same view, and w the channel weights with sum 1 (in the paper the increase of the source's loss
without each channel). Without a file of weights w = 1/C, plain behavior regularization. The average
over tokens is that of the Transfer-Learning-Library's attentive form; those over blocks and images
are ours, so that lam does not depend on depth and batch size.

Shapes: B images, P prefix tokens, N patches, C width of the embedding.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from gta_delta.options import DeltaOptions
from gta_delta.weights import read_weights
from gtacli.config.parts import RegularizerOptions
from gtacli.errors import UsageError
from gtacli.models import Request
from gtacli.models.tap import absolute_layers
from gtacli.regularizers import Needs, Regularizer, StepOutputs


class Delta(Regularizer[DeltaOptions]):
    """A penalty on differences between the block outputs of the target and the frozen source.

    Raises UsageError without a source, for blocks that the model does not have, and for networks
    of different width or channel weights that do not match.
    """

    Options: ClassVar[type[RegularizerOptions]] = DeltaOptions
    needs_source: ClassVar[bool] = True
    reaches_head: ClassVar[bool] = False

    def __init__(
        self,
        options: DeltaOptions,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        super().__init__(options, target, source, head)
        assert source is not None
        widths = cast(int, target.embed_dim), cast(int, source.embed_dim)
        if widths[0] != widths[1]:
            raise UsageError(
                f"regularizer delta needs the same width in both networks, but the model has "
                f"{widths[0]} and the source {widths[1]}",
                option="source",
            )
        self.layers = absolute_layers(options.layers, len(cast(nn.ModuleList, target.blocks)))
        self.prefix = cast(int, target.num_prefix_tokens), cast(int, source.num_prefix_tokens)
        self.weights = read_weights(options.channel_weights, self.layers, widths[0])

    @property
    def needs(self) -> Needs:
        """Return requests for the chosen blocks' outputs; the source stops after the last one."""
        return Needs(Request(hidden=self.layers), Request(hidden=self.layers, output=False))

    def penalty(self, step: StepOutputs) -> Tensor:
        """Return the mean over the blocks, in fp32."""
        assert step.source is not None
        return torch.stack(
            [self._block(step.target.hidden[i], step.source.hidden[i], i) for i in self.layers]
        ).mean()

    def _block(self, target_BTC: Tensor, source_BTC: Tensor, layer: int) -> Tensor:
        target, source = target_BTC[:, self.prefix[0] :], source_BTC[:, self.prefix[1] :]
        squares_BNC = (target.float() - source.float()).square()
        weights_C = self.weights.get(layer)
        if weights_C is not None:
            squares_BNC = squares_BNC * (weights_C.to(squares_BNC.device) * len(weights_C))
        return squares_BNC.sum(-1).mean() / 2
