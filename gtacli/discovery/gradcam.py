"""Grad-CAM (Selvaraju et al., arXiv 1610.02391) for ViTs.

    weights = mean over patches of d score / d a,   map = ReLU(sum over channels of weights * a),

with a the normalized input of the block's attention, as in the grad-cam package with
`target_layers=[model.blocks[-1].norm1]`: patches have no gradient at the last block's output,
because only the CLS token reaches the classifier. One `torch.autograd.grad` per batch runs back to
that block and does not change the parameters' `.grad`; there are no hooks.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from gtacli.config.parts import DiscoveryOptions, GradCAMOptions
from gtacli.discovery.base import Discovery, ObjectMaps, unit_range
from gtacli.models import timm_blocks
from gtacli.models.class_scores import check_classifier, class_scores, classify_tokens
from gtacli.models.tap import absolute_layers


class GradCAM(Discovery[GradCAMOptions]):
    """Maps of the evidence for a class.

    Raises UsageError for an unsupported model (option "model"), one without a classifier (option
    "backend"), or a class or block that it does not have.
    """

    Options: ClassVar[type[DiscoveryOptions]] = GradCAMOptions

    def __init__(self, options: GradCAMOptions, model: nn.Module) -> None:
        super().__init__(options, model)
        timm_blocks.check(model)
        blocks = cast(Any, model).blocks
        (self.layer,) = absolute_layers((options.layer,), len(blocks))
        check_classifier(
            model,
            options.target_class,
            "gradcam",
            option="backend",
            class_option="discovery.gradcam.target_class",
            hint="use a fine-tuned or supervised model, or `backend=tokencut` or `backend=dino`",
        )

    def find(self, images: Tensor) -> ObjectMaps:
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
                logits = classify_tokens(model, x, ropes, self.layer + 1)
                scores = class_scores(logits, self.options.target_class)
                (gradient,) = torch.autograd.grad(scores.sum(), a)
        prefix = int(model.num_prefix_tokens)
        a, gradient = a.detach()[:, prefix:].float(), gradient[:, prefix:].float()
        evidence = torch.einsum("bnc,bc->bn", a, gradient.mean(1)).relu()
        grid = timm_blocks.grid(model, (images.shape[-2], images.shape[-1]))
        return ObjectMaps(unit_range(evidence.unflatten(-1, grid)))
