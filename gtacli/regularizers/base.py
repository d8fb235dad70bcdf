"""The contract of a regulariser: what it needs of both networks, and the penalty it makes of it.

A plug-in subclasses `Regularizer`, gives its options a Pydantic class, and names itself in the
entry-point group `gta.regularizers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor, nn

from gtacli.config.parts import RegularizerOptions
from gtacli.models.tap import Reading, Request

O = TypeVar("O", bound=RegularizerOptions)  # noqa: E741


@dataclass(frozen=True)
class Needs:
    """What a training step computes for a regulariser beyond the class logits.

    Attributes:
        target: asked of the target's forward pass.
        source: asked of the frozen source's pass over the same view; None: the source is not run.
    """

    target: Request = field(default_factory=Request)
    source: Request | None = None


@dataclass(frozen=True)
class Step:
    """One training step as a regulariser sees it.

    Attributes:
        target: what the trainable network showed.
        source: what the frozen one showed of the same view (None: nobody asked for it).
        labels: (B,) class indices; in a mixed view those of the images that were mixed into.
        progress: share of the training that is behind, 0 to 1.
    """

    target: Reading
    source: Reading | None = None
    labels: Tensor | None = None
    progress: float = 0.0


class Regularizer(ABC, Generic[O]):
    """A penalty on the way from the source to the target.

    Args:
        options: its own options, validated.
        target: the trainable ViT (unwrapped); at construction its weights are the starting point.
        source: the frozen source ViT, or None when none was loaded.
        head: prefixes of the names of the classifier's parameters.
    """

    Options: ClassVar[type[RegularizerOptions]] = RegularizerOptions
    replaces_weight_decay: ClassVar[bool] = False
    needs_source: ClassVar[bool] = False
    # False: the penalty moves the backbone alone, so nothing is computed while that is frozen.
    reaches_head: ClassVar[bool] = True

    def __init__(
        self,
        options: O,
        target: nn.Module,
        source: nn.Module | None = None,
        head: tuple[str, ...] = ("head",),
    ) -> None:
        self.options = options
        self.target = target
        self.source = source
        self.head = head

    @property
    def needs(self) -> Needs:
        """What must be computed for it; nothing else is."""
        return Needs()

    @abstractmethod
    def penalty(self, step: Step) -> Tensor:
        """The scalar penalty, not multiplied by its strength; it is logged as `reg.<name>`."""

    def figures(self) -> dict[str, Tensor]:
        """Further figures of the last step for the log (0-dim tensors; may be empty)."""
        return {}

    def strength(self, progress: float) -> float:
        """What the penalty is multiplied with, at a share `progress` (0 to 1) of the training."""
        return self.options.lam

    def after_step(self, groups: list[dict[str, Any]]) -> None:
        """Called after the optimiser's step with its parameter groups (for decoupled forms)."""
