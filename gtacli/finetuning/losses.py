"""The loss of the classes: cross-entropy or focal loss, for one class per image or any number.

With t the labels, p the probabilities and K classes, for an image

    one class    sum_k -t_k (1 - p_k)^g log p_k,                        p = softmax(logits)
    any number   sum_k -w_k t_k (1 - p_k)^g log p_k
                       - (1 - t_k) p_k^g log(1 - p_k),                  p = sigmoid(logits)

and g = 0 is cross-entropy. Focal loss: Lin et al., arXiv 1708.02002, without its alpha, in whose
place are the weights w. The second is summed over the classes: so it is the negative logarithm of
the probability of all labels of an image, as the first is of one, and a regularizer's strength
weighs alike against both. Labels need not be 0 or 1: mixing and smoothing make fractions of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

GAMMA = 2.0
"""The exponent of the focal loss by default, as in its paper."""
SMALL = 1e-7
"""The distance of a probability from 1 below which the focal loss has no gradient by its factor."""


@dataclass(frozen=True)
class ClassLoss:
    """The loss of a batch, a mean over its images.

    Attributes:
        multi_label: whether an image has any number of labels.
        smoothing: fraction of each label that is spread over all classes; with several labels,
            over presence and absence of the class.
        weights: (K,) by which each class's images count, with several labels its positive ones;
            None: all alike.
        gamma: of the focal loss; 0: cross-entropy.
    """

    multi_label: bool = False
    smoothing: float = 0.0
    weights: Tensor | None = None
    gamma: float = 0.0

    def __call__(self, logits: Tensor, goal: Tensor) -> Tensor:
        """Return the loss.

        Args:
            logits: (B, K).
            goal: (B,) class indices, or (B, K) labels.
        """
        if self.multi_label:
            return self.each(logits.float(), goal).mean()
        if self.weights is None and not self.gamma:
            return F.cross_entropy(logits, goal, label_smoothing=self.smoothing)
        return self._weighted(logits.float(), goal).mean()

    def _weighted(self, logits: Tensor, goal: Tensor) -> Tensor:
        """Return the weighted or focal loss (B,) of one class per image, or two that are mixed.

        Each class of a mixed image has its own weight; smoothing shares it among all classes. It is
        not divided by the batch's weights: their mean over the training images is 1.
        """
        classes = logits.shape[-1]
        goal = F.one_hot(goal, classes).to(logits) if goal.ndim == 1 else goal
        goal = goal if self.weights is None else goal * self.weights
        shared = goal.sum(-1, keepdim=True) * self.smoothing / classes
        labels, logs = goal * (1 - self.smoothing) + shared, logits.log_softmax(-1)
        if self.gamma:
            logs = (1 - logs.exp()).clamp_min(SMALL) ** self.gamma * logs
        return -(labels * logs).sum(-1)

    def each(self, logits: Tensor, goal: Tensor) -> Tensor:
        """Return the losses (B,) of images with any number of labels (B, K)."""
        labels = goal * (1 - self.smoothing) + self.smoothing / 2
        present, absent = F.logsigmoid(logits), F.logsigmoid(-logits)
        weights: Tensor | float = 1.0 if self.weights is None else self.weights
        if self.gamma:
            # Of logarithms, so that the gradient is finite where a probability rounds to 1.
            weights = weights * (self.gamma * absent).exp()
            absent = absent * (self.gamma * present).exp()
        return -(weights * labels * present + (1 - labels) * absent).sum(-1)
