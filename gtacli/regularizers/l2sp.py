"""L2-SP: a penalty on the distance from the initial weights (Li et al., arXiv 1802.01483).

    loss += alpha/2 * sum (w - w0)^2 over the backbone + beta/2 * sum w^2 over the head

It replaces weight decay (ICML 2018). The decoupled form moves the weights after the optimizer's
step instead, `w -= lr * alpha * (w - w0)`, which an adaptive optimizer does not rescale; its alpha
has another scale (at lr 1e-4 sweep it up to 1e3). The decoupled form is ours. Of a layer with a
low-rank adapter w is the merged matrix W0 + s B A, so w - w0 = s B A.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gtacli.config.parts import L2SPOptions, RegularizerOptions
from gtacli.models.lora import adapted_layers, is_factor
from gtacli.regularizers.base import Regularizer, StepOutputs


class L2SP(Regularizer[L2SPOptions]):
    """A penalty on the distance of the backbone's weights from their initial values.

    The initial values are the target's at construction, so resized position embeddings are compared
    with resized ones, and no source model is run.
    """

    Options: ClassVar[type[RegularizerOptions]] = L2SPOptions
    replaces_weight_decay: ClassVar[bool] = True

    def __init__(
        self,
        options: L2SPOptions,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        super().__init__(options, target, source, head)
        self.adapted = [layer for _, layer in adapted_layers(target)]
        learning = ((n, p) for n, p in target.named_parameters() if p.requires_grad)
        named = [(n, p) for n, p in learning if not is_factor(n)]
        self.backbone: list[Tensor] = [p for n, p in named if not n.startswith(head)]
        self.classifier: list[Tensor] = [p for n, p in named if n.startswith(head)]
        self.reference = [p.detach().clone() for p in self.backbone]
        self._distance: Tensor | None = None

    def penalty(self, step: StepOutputs) -> Tensor:
        """Return half the squared distance, plus the head's penalty divided by alpha.

        The result is multiplied by alpha later, but the head's strength is beta alone.
        """
        if self.options.decoupled:
            # The weights are moved after the step; here the distance is only measured.
            with torch.no_grad():
                return self._moved()
        alpha, beta = self.options.lam, self.options.beta
        penalty = self._moved()
        if self.classifier and alpha > 0:
            penalty = penalty + beta / alpha * HalfSquares.apply(None, *self.classifier)
        return penalty

    def _moved(self) -> Tensor:
        """Return half the squared distance of the backbone from its initial weights."""
        parts = [layer.half_squares() for layer in self.adapted if layer.lora_B.requires_grad]
        if any(p.requires_grad for p in self.backbone):
            parts.append(HalfSquares.apply(self.reference, *self.backbone))
        if not parts:  # frozen since the start
            return next(self.target.parameters()).new_zeros(())
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def strength(self, progress: float) -> float:
        """Return alpha; 0 for the decoupled form, which acts after the step."""
        return 0.0 if self.options.decoupled else self.options.lam

    @torch.no_grad()
    def after_step(self, groups: list[dict[str, Any]]) -> None:
        """Move the weights (decoupled form), each with its group's learning rate."""
        if not self.options.decoupled:
            return
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        initial = {id(p): r for p, r in zip(self.backbone, self.reference, strict=True)}
        for rate in sorted(set(rates.values())):
            chosen = [p for p in self.backbone if rates.get(id(p)) == rate]
            if chosen:
                # At most to the initial values: a larger step would overshoot and diverge.
                fraction = min(rate * self.options.lam, 1.0)
                torch._foreach_lerp_(chosen, [initial[id(p)] for p in chosen], fraction)
            factors: list[Tensor] = [
                a.lora_B for a in self.adapted if rates.get(id(a.lora_B)) == rate
            ]
            if factors:
                torch._foreach_mul_(factors, 1 - min(rate * self.options.lam, 1.0))
            heads = [p for p in self.classifier if rates.get(id(p)) == rate]
            if heads:
                torch._foreach_mul_(heads, 1 - rate * self.options.beta)


class HalfSquares(torch.autograd.Function):
    """The sum 1/2 ||w - w0||^2 over many tensors (w0 None: zeros), in a few foreach launches.

    Its gradient w - w0 is returned directly; autograd would need a norm and a square per tensor.
    """

    @staticmethod
    def forward(ctx: Any, reference: list[Tensor] | None, *weights: Tensor) -> Tensor:
        difference = weights if reference is None else torch._foreach_sub(weights, reference)
        ctx.save_for_backward(*difference)
        norms = torch._foreach_norm(difference)
        return 0.5 * torch.stack([n.float() for n in norms]).square().sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *torch._foreach_mul(ctx.saved_tensors, grad)
