"""Grad-CAM (Selvaraju et al., arXiv 1610.02391) on a ViT, as the grad-cam package does it with
`target_layers=[model.blocks[-1].norm1]`.

    weights = mean over patches of d score / d a,   map = ReLU(sum over channels of weights * a),

a the normalised input of the block's attention: the last block's output gives patches no gradient,
because only the CLS token reaches the classifier. One `torch.autograd.grad` serves the batch, runs
back to that block and no further, and leaves the parameters' `.grad` alone; there are no hooks.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions, GradCAMOptions
from gtacli.discovery.base import Discovery, Found, unit_range
from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.tap import absolute_layers


class GradCAM(Discovery[GradCAMOptions]):
    """Maps of the evidence for a class.

    Raises UsageError for a model without a classifier head, without the chosen class or block, or
    that cannot be tapped.
    """

    Options: ClassVar[type[DiscoveryOptions]] = GradCAMOptions

    def __init__(self, options: GradCAMOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        m = cast(Any, model)
        (self.layer,) = absolute_layers((options.layer,), len(m.blocks))
        if m.num_classes == 0 or isinstance(m.head, nn.Identity):
            raise UsageError(
                "backend gradcam: needs a classifier head, and this model has none; "
                "use a fine-tuned or supervised model, or the backend tokencut or dino"
            )
        wanted = options.target_class
        if wanted != "predicted" and not 0 <= wanted < m.num_classes:
            raise UsageError(
                f"backend gradcam: there is no class {wanted}; this model has {m.num_classes}, "
                f"numbered from 0"
            )

    def find(self, images: Tensor) -> Found:
        model = cast(Any, self.model)
        with torch.inference_mode(False):
            with torch.no_grad():
                x, ropes = timm_blocks.embed(model, images)
                rope = [None] * len(model.blocks) if ropes is None else ropes
                for i in range(self.layer):
                    x = timm_blocks.plain_block(model, model.blocks[i], x, rope[i])
                a = model.blocks[self.layer].norm1(x)
            with torch.enable_grad():
                a.requires_grad_()
                x = timm_blocks.block_after_norm(model.blocks[self.layer], x, a, rope[self.layer])
                for i in range(self.layer + 1, len(model.blocks)):
                    x = timm_blocks.plain_block(model, model.blocks[i], x, rope[i])
                logits = timm_blocks.classify(model, model.norm(x), None)
                wanted = self.options.target_class
                classes = logits.argmax(-1) if wanted == "predicted" else wanted
                scores = logits[torch.arange(len(logits)), classes]
                (gradient,) = torch.autograd.grad(scores.sum(), a)
        prefix = int(model.num_prefix_tokens)
        a, gradient = a.detach()[:, prefix:].float(), gradient[:, prefix:].float()
        evidence = torch.einsum("bnc,bc->bn", a, gradient.mean(1)).relu()
        grid = timm_blocks.grid(model, (images.shape[-2], images.shape[-1]))
        return Found(unit_range(evidence.unflatten(-1, grid)))
