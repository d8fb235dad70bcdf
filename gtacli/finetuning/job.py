"""The parts of a fine-tuning run, and what its jobs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.base import ImageDataset, Record
from gtacli.data.sampling import Split
from gtacli.finetuning.held_out import observed
from gtacli.finetuning.linear_head import FrozenFeatures, LinearHead
from gtacli.finetuning.source_cache import SourceCache
from gtacli.finetuning.task import FinetuneTask
from gtacli.models.loading import LoadedModel
from gtacli.training.image_stores import ImageStores
from gtacli.training.job import TrainingJob

if TYPE_CHECKING:  # it needs a job
    from gtacli.finetuning.suitability import Suitability


@dataclass(kw_only=True)
class FinetuneStores(ImageStores):
    """The dataset, decoded images and cached attention, which all jobs of a run share.

    Attributes:
        dataset, split: what is trained on, found once.
        source_cache: the one created last, if any.
        heads: fitted classifiers, by method and training images.
        features: of training images before the first step.
        suitability: of the attention of the model (True) and, where it is another network, of the
            source (False), measured before the first step.
    """

    dataset: ImageDataset
    split: Split
    source_cache: SourceCache | None = None
    heads: dict[tuple[str, tuple[Record, ...]], LinearHead] = field(default_factory=dict)
    features: dict[tuple[Record, ...], FrozenFeatures] = field(default_factory=dict)
    suitability: dict[bool, Suitability] = field(default_factory=dict)


@dataclass(kw_only=True)
class FinetuneJob(TrainingJob):
    """The parts of a fine-tuning run.

    Attributes:
        drift: whether the attention drift is measured.
        learning: number of parameters that learn.
        new_head: whether the target's classifier has yet to learn everything.
        refit: whether the held-out images are trained on too.
        start: the backbone's weights before the first step, if they are averaged with.
    """

    config: FinetuneConfig
    dataset: ImageDataset
    split: Split
    target: LoadedModel
    source: LoadedModel | None
    task: FinetuneTask
    stores: FinetuneStores
    drift: bool
    learning: int
    new_head: bool
    refit: bool = False
    start: Mapping[str, Tensor]

    @property
    def records(self) -> tuple[Record, ...]:
        """The images that are trained on."""
        return self.split.train + self.split.val if self.refit else self.split.train

    @property
    def epochs(self) -> int:
        """The length of the schedule."""
        assert self.config.epochs != "auto"  # `prepare` has set a number
        return self.config.epochs

    @property
    def observed(self) -> tuple[Record, ...]:
        """The images that drift and attention are measured on."""
        return observed(self.split)

    @property
    def depth(self) -> int:
        """The number of the target's blocks."""
        return len(cast(Any, self.target.model).blocks)

    @property
    def evaluated(self) -> LoadedModel:
        """The model that is measured, saved and tested: the target, or its average."""
        average: Any = self.task.averaged
        return self.target if average is None else replace(self.target, model=average.model)
