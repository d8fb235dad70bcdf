"""The interface of a regularizer: the outputs it needs of both networks, and its penalty.

A plug-in subclasses `Regularizer`, defines a Pydantic class for its options, and registers itself
in the entry-point group `gta.regularizers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from gtacli.config.parts import RegularizerOptions
from gtacli.errors import UsageError
from gtacli.models.tap import Request, TapOutputs

O = TypeVar("O", bound=RegularizerOptions)  # noqa: E741
ReadImages = Callable[[Callable[[Tensor], Tensor]], tuple[Tensor, Tensor]]
"""`read(function)`: the function's values (N, ...) of all training images, and labels (N,).

Both are on the CPU, in the order of the images, the same in every process. The function gets
batches (B, 3, h, w) of unaugmented images as the source takes them, or the target where no source
is loaded, without gradients, and returns values (B, ...).
"""


@dataclass(frozen=True)
class Needs:
    """The outputs that a training step computes for a regularizer beyond the class logits.

    Attributes:
        target: outputs of the target.
        source: outputs of the frozen source for the same view; None: the source is not run.
    """

    target: Request = field(default_factory=Request)
    source: Request | None = None


@dataclass(frozen=True)
class StepOutputs:
    """The outputs of one training step.

    Attributes:
        target: outputs of the trainable network.
        source: outputs of the frozen source for the same view; None if not requested.
        labels: (B,) class indices, or (B, K) zeros and ones of images with any number of labels;
            with mixing those of the first image of each pair.
        progress: completed fraction of the training, 0 to 1.
    """

    target: TapOutputs
    source: TapOutputs | None = None
    labels: Tensor | None = None
    progress: float = 0.0


class Regularizer(ABC, Generic[O]):
    """A penalty on the difference between the target and its source.

    Args:
        options: the regularizer's validated options.
        target: the trainable ViT (unwrapped), with its initial weights.
        source: the frozen source ViT, or None if none was loaded.
        head: prefixes of the classifier's parameter names.

    Raises UsageError (option "source") without a required source.

    Attributes:
        Options: class of the options.
        replaces_weight_decay: whether the optimizer's weight decay is switched off.
        needs_source: whether a source is required.
        needs_classifier: whether the source keeps the classifier of its weights, which must have
            one; else it has any classifier or none.
        every: optimizer steps from one penalty to the next, which counts as many times: so the
            steps between cost what plain ones do (lazy regularization, Karras et al., arXiv
            1912.04958).
        reaches_head: whether the penalty has a gradient in the classifier; if not, it is skipped
            while the backbone is frozen.
        shardable: whether it reads the networks' outputs alone, once they train, and no weights:
            then it works where processes share these (`shard_model`).
    """

    Options: ClassVar[type[RegularizerOptions]] = RegularizerOptions
    replaces_weight_decay: ClassVar[bool] = False
    needs_source: ClassVar[bool] = False
    needs_classifier: ClassVar[bool] = False
    reaches_head: ClassVar[bool] = True
    shardable: ClassVar[bool] = False
    every: int = 1

    def __init__(
        self,
        options: O,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        if self.needs_source and source is None:
            raise UsageError(f"{type(self).__name__} needs a source model", option="source")
        self.options = options
        self.target = target
        self.source = source
        self.head = head

    @property
    def needs(self) -> Needs:
        """Return the outputs that the penalty needs; no others are computed."""
        return Needs()

    @abstractmethod
    def penalty(self, step: StepOutputs) -> Tensor:
        """Return the scalar penalty without its strength; it is logged as `reg.<name>`."""

    def metrics(self) -> dict[str, Tensor]:
        """Return further metrics of the last step for the log (0-dim tensors; may be empty)."""
        return {}

    def strength(self, progress: float) -> float:
        """Return the factor of the penalty at a fraction `progress` (0 to 1) of the training."""
        return self.options.lam

    def start(self, read: ReadImages, classes: int) -> None:
        """Learn from the training images, before the first step and again in a resumed run.

        Not called for a regularizer that does not override it, so that the images are not read.

        Args:
            read: computes values of all training images; see `ReadImages`.
            classes: number of classes; with a few batches alone (a dry run) some have no image.
        """

    def after_step(self, groups: list[dict[str, Any]]) -> None:
        """Update weights after the optimizer's step; `groups` are its parameter groups."""
