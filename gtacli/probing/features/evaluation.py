"""Common parts of the feature probes: splits of a dataset, features, results, comparisons.

Nothing is chosen on the test split. It is the dataset's own, else its validation split, else a
fifth of the training split, drawn by the seed; a result names it (`test_part`).
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
from gtacli.data.learnable import require_seen
from gtacli.data.sampling import hold_out
from gtacli.errors import UsageError
from gtacli.images.decode import summarize_damage
from gtacli.measures.statistics import (
    paired_fraction_difference,
    paired_mean_difference,
    wilson_interval,
)
from gtacli.models.feature_columns import FeatureColumn, select_columns
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import FeatureCache, Features
from gtacli.probing.features.parts import FeatureParts
from gtacli.runtime.repeated import RepeatedWarning

log = logging.getLogger(__name__)
TestSplit = Literal["test", "val", "held-out"]


@dataclass(frozen=True)
class Splits:
    """The images of a dataset by use.

    Attributes:
        train: to train and to choose on.
        val: the dataset's validation split, unless it is the test split.
        test: to compute the metrics on.
    """

    classes: tuple[str, ...]
    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    test_split: TestSplit


def make_splits(dataset: ImageDataset, seed: int = 0, learns: bool = True) -> Splits:
    """Split a labeled dataset.

    Args:
        dataset: the dataset.
        seed: of the images held out where there is neither a test nor a validation split.
        learns: training images are needed, and classes without any are left out.

    Raises UsageError without training or without test images.
    """
    dataset = require_seen(dataset) if learns else dataset
    train, val, test = dataset["train"], dataset["val"], dataset["test"]
    if not train and (learns or not (val or test)):
        raise UsageError(f"{dataset.name} has no training split", option="data")
    if test:
        return Splits(dataset.classes, train, val, test, "test")
    if val:
        return Splits(dataset.classes, train, (), val, "val")
    train, test = hold_out(train, seed)
    if not test:
        raise UsageError(
            f"{dataset.name} has no test split, and fewer than 3 images in every class",
            option="data",
        )
    return Splits(dataset.classes, train, (), test, "held-out")


@dataclass(frozen=True)
class ProbeResult:
    """The result of a probe of one model.

    Attributes:
        metrics: by name, in the order in which they are printed.
        n_train, n_test: images.
        keys: of the test images.
        per_image: values (n_test,) whose mean is the metric, by metric name: bool (correct) or
            numbers.
        columns: the features used; default: those of `ProbeData.columns`.
    """

    metrics: dict[str, Any]
    n_train: int
    n_test: int
    keys: Sequence[str] = ()
    per_image: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    columns: Sequence[FeatureColumn] = ()


def accuracy_metrics(name: str, correct: ArrayLike) -> dict[str, Any]:
    """Return `{name: fraction, name_interval: [low, high]}` with Wilson's 95 % interval."""
    right = np.asarray(correct, bool)
    fraction = float(right.mean()) if len(right) else None
    interval = list(wilson_interval(int(right.sum()), len(right)))
    return {name: fraction, f"{name}_interval": interval}


def compare_results(result: ProbeResult, reference: ProbeResult) -> dict[str, dict[str, Any]]:
    """Test each metric that both results have: result minus reference, as `Difference` fields.

    Empty if the test images differ.
    """
    if list(reference.keys) != list(result.keys):
        return {}
    found = {}
    for name, values in result.per_image.items():
        if name in reference.per_image:
            boolean = values.dtype == bool
            test = paired_fraction_difference if boolean else paired_mean_difference
            found[name] = test(values, reference.per_image[name])._asdict()
    return found


@dataclass
class ProbeData:
    """The splits of a dataset and the features of models for them.

    Attributes:
        features: "cls", "mean" or "cls+mean"; "all" if the probe chooses.
        layers: block numbers, "all" or "last".
        skipped: keys of images that cannot be read, with the reason.
        parts: of the extraction, which several commands share; None: this one extracts all.
    """

    splits: Splits
    cache: FeatureCache
    features: str = "cls"
    layers: Sequence[int] | str = "last"
    seed: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    parts: FeatureParts | None = None

    def columns(self, model: LoadedModel) -> tuple[FeatureColumn, ...]:
        """Return the configured feature columns of a model."""
        return select_columns(model.model, self.features, self.layers)

    def extract_all(
        self,
        model: LoadedModel,
        sets: Sequence[Sequence[Record]],
        columns: Sequence[FeatureColumn] | None = None,
    ) -> list[Features]:
        """Return a model's features of all sets of images that a probe needs; see `extract`.

        Raises PartDone where this command extracts one part.
        """
        if self.parts is not None:
            self.parts.extract(model, sets, columns or self.columns(model))
        return [self.extract(model, records, columns) for records in sets]

    def extract(
        self,
        model: LoadedModel,
        records: Sequence[Record],
        columns: Sequence[FeatureColumn] | None = None,
    ) -> Features:
        """Return a model's features of images; log each unreadable image once."""
        found = self.cache.features(model, records, columns or self.columns(model))
        warning = RepeatedWarning(log, "skipped: ")
        for key, reason in found.skipped.items():
            if key not in self.skipped:
                self.skipped[key] = reason
                warning.add(reason)
        warning.summarize()
        summarize_damage()
        return found


def to_numpy(tensor: Tensor) -> NDArray[np.bool_]:
    """Return a bool tensor as a NumPy array on the CPU."""
    return tensor.cpu().numpy()
