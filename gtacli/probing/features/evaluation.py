"""What the probes of features share: the parts of a data set, one network's features of them, and
what a probe hands back.

Nothing is chosen on the test part. It is the data's own, else its validation part, else a fifth of
the training part, drawn by the seed; a result says which (`test_part`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from gtacli.data.base import ImageDataset, Record
from gtacli.data.sampling import hold_out
from gtacli.errors import GtaError
from gtacli.measures.statistics import paired_bootstrap, share_difference, wilson
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import FeatureCache, Features
from gtacli.probing.features.columns import Column, columns_of

log = logging.getLogger(__name__)
TestPart = Literal["test", "val", "held-out"]


@dataclass(frozen=True)
class Parts:
    """Attributes:
    train: what may be learnt from and chosen on.
    val: the data's own validation part, where it is not what is tested on.
    test: what the figures are of.
    """

    classes: tuple[str, ...]
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    test_part: TestPart


def parts_of(dataset: ImageDataset, seed: int = 0) -> Parts:
    """Raises GtaError for a data set without a training part, or nothing to test on."""
    train, val, test = dataset["train"], dataset["val"], dataset["test"]
    if not train:
        raise GtaError(f"--data: {dataset.name} has no training part to learn from")
    if test:
        return Parts(dataset.classes, train, val, test, "test")
    if val:
        return Parts(dataset.classes, train, (), val, "val")
    train, test = hold_out(train, seed)
    if not test:
        raise GtaError(
            f"--data: {dataset.name} has no test part, and fewer than 3 images in every class"
        )
    return Parts(dataset.classes, train, (), test, "held-out")


@dataclass(frozen=True)
class Outcome:
    """What a probe found out about one network.

    Attributes:
        figures: for people and scripts, in the order in which they are printed.
        n_train, n_test: images.
        keys: of the test images.
        each: by figure, (n_test,) what it is the mean of: bool (right or wrong), or a number.
        columns: that were looked at; default: those asked for.
    """

    figures: dict[str, Any]
    n_train: int
    n_test: int
    keys: Sequence[str] = ()
    each: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    columns: Sequence[Column] = ()


def accuracy(name: str, correct: ArrayLike) -> dict[str, Any]:
    """`{name: share, name_interval: [low, high]}`, Wilson's 95 %."""
    right = np.asarray(correct, bool)
    share = float(right.mean()) if len(right) else None
    return {name: share, f"{name}_interval": list(wilson(int(right.sum()), len(right)))}


def compared(other: Outcome, first: Outcome) -> dict[str, dict[str, Any]]:
    """How far the other one's figures are from the first one's on the same images, as `Difference`;
    of figures that both have, empty where they have not seen the same images."""
    if list(first.keys) != list(other.keys):
        return {}
    found = {}
    for name, each in other.each.items():
        if name in first.each:
            test = share_difference if each.dtype == bool else paired_bootstrap
            found[name] = test(each, first.each[name])._asdict()
    return found


@dataclass
class Bench:
    """Where a probe takes features from.

    Attributes:
        features: "cls", "mean" or "cls+mean"; "all" where a probe chooses.
        layers: block numbers, "all" or "last".
        skipped: keys of images that could not be read, and why.
    """

    parts: Parts
    cache: FeatureCache
    features: str = "cls"
    layers: Sequence[int] | str = "last"
    seed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def columns(self, model: LoadedModel) -> tuple[Column, ...]:
        return columns_of(model.model, self.features, self.layers)

    def see(
        self,
        model: LoadedModel,
        records: Sequence[Record],
        columns: Sequence[Column] | None = None,
    ) -> Features:
        """A network's features of images; those that cannot be read are named once."""
        found = self.cache.features(model, records, columns or self.columns(model))
        for key, reason in found.skipped.items():
            if key not in self.skipped:
                self.skipped[key] = reason
                log.warning("left out: %s", reason)
        return found


def numpy(correct: Tensor) -> NDArray[np.bool_]:
    """As `Outcome.each` wants it."""
    return correct.cpu().numpy()
