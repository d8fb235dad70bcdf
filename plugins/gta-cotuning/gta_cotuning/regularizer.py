"""Co-Tuning (You et al., NeurIPS 2020): the source's classifier goes on learning from its classes.

    R = mean over images of  -sum_s p(s | y) log q_s,   q = softmax(W f + b),   loss += lam R

with f the target's features, W and b the source's classifier, and p(s | y) the relationship of the
source's classes s to the class y of the image. It is computed once, as the paper's direct way: the
mean of the source's predictions on the training images of class y.

In the official code W and b are trained, too; here they stay as they are, because only the target's
parameters are. With mixed images the label is that of the first image.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gta_cotuning.options import CoTuningOptions
from gtacli.config.parts import RegularizerOptions
from gtacli.errors import UsageError
from gtacli.models import Request
from gtacli.models.pooling import name_pool
from gtacli.regularizers import Needs, Regularizer, StepOutputs
from gtacli.regularizers.base import ReadImages


class CoTuning(Regularizer[CoTuningOptions]):
    """The cross-entropy of the source's classifier on the target's features.

    Raises UsageError without a source, and for one whose classifier is not linear or reads other
    features than the target's.
    """

    Options: ClassVar[type[RegularizerOptions]] = CoTuningOptions
    needs_source: ClassVar[bool] = True
    needs_classifier: ClassVar[bool] = True
    reaches_head: ClassVar[bool] = False

    def __init__(
        self,
        options: CoTuningOptions,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        super().__init__(options, target, source, head)
        assert source is not None
        classifier = cast(Any, source).get_classifier()
        if not isinstance(classifier, nn.Linear):
            kind = type(classifier).__name__
            raise UsageError(
                f"cotuning needs a source with a linear classifier, not {kind}", option="source"
            )
        reads = [name_pool(model) for model in (target, source)]
        if cast(Any, target).num_features != cast(Any, source).num_features or len({*reads}) > 1:
            raise UsageError(
                f"cotuning needs networks whose classifiers read the same features, but the model "
                f"has {target.num_features} ({reads[0]}) and the source {source.num_features} "
                f"({reads[1]})",
                option="source",
            )
        # The layer itself: a source that runs on fused kernels has no gradient.
        self.classifier = classifier
        self.relationship_YS: Tensor | None = None

    @property
    def needs(self) -> Needs:
        """Return a request for the features; the source is not run in a step."""
        return Needs(Request(features=True))

    def start(self, read: ReadImages, classes: int) -> None:
        """Compute the relationship from the source's predictions on the training images."""
        source, temperature = self.source, self.options.temperature
        assert source is not None
        predictions, labels = read(lambda images: (source(images).float() / temperature).softmax(1))
        self.relationship_YS = relate(predictions, labels, classes)

    def penalty(self, step: StepOutputs) -> Tensor:
        """Return the cross-entropy, in fp32."""
        features, labels = step.target.features, step.labels
        assert features is not None
        assert labels is not None
        assert self.relationship_YS is not None
        if self.relationship_YS.device != features.device:
            self.relationship_YS = self.relationship_YS.to(features.device)
        with torch.autocast(features.device.type, enabled=False):
            weight, bias = (
                p.detach().float() for p in (self.classifier.weight, self.classifier.bias)
            )
            logits = F.linear(features.float(), weight, bias)
            return F.cross_entropy(logits, self.relationship_YS[labels])


def relate(predictions_NS: Tensor, labels_N: Tensor, classes: int) -> Tensor:
    """Return p(s | y) (Y, S): the mean prediction of each class's images.

    A class without an image gets the mean of all.
    """
    values = predictions_NS.double()
    counts = labels_N.bincount(minlength=classes)
    sums = values.new_zeros(classes, values.shape[1]).index_add_(0, labels_N, values)
    means = sums / counts.clamp_min(1)[:, None]
    return torch.where(counts[:, None] > 0, means, values.mean(0)).float()
