"""The runs that are merged: their weights, and the images that none of them has learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor

from gtacli.config.base import StrictModel, read_content
from gtacli.config.recorded import from_folder
from gtacli.data.base import NO_LABEL, ImageDataset, Record
from gtacli.data.labels import multi_hot
from gtacli.errors import GtaError, UsageError
from gtacli.inference.logits import ClassLogits
from gtacli.models.files import read_weights
from gtacli.runtime.run_files import FOLDS_FILE, RECORD_FILE, WEIGHTS_FILE
from gtacli.runtime.strict_json import read_json, reason_of


class _RunPart(StrictModel):
    model_config = ConfigDict(extra="allow")


class RunConfig(_RunPart):
    """The start and the images of a run, by its config."""

    model: str | None = None
    source: str | None = None
    data: str | None = None
    multi_label: bool = False
    refit: bool = False
    precision: str = "auto"
    bands: str | None = None
    value_range: str | None = None


class RunFile(_RunPart):
    """The content of run.json."""

    command: str = ""
    config: RunConfig = RunConfig()
    precision: str | None = None
    folder: str | None = None


class SplitFile(_RunPart):
    """The keys of images in split.json."""

    train: list[str] | None = None
    val: list[str] | None = None
    test: list[str] | None = None


class SummaryFile(_RunPart):
    """The content of summary.json."""

    test_top1: float | None = None
    test_top5: float | None = None
    test_mean_class_top1: float | None = None
    test_map: float | None = None
    test_f1_macro: float | None = None
    test_f1_micro: float | None = None
    n_train: int | None = None
    n_test: int | None = None


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended.

    Attributes:
        path: its folder.
        config: of its record.
        split: its images.
        summary: its result.
        precision: that it was computed at.
        command: that trained it.
    """

    path: Path
    config: RunConfig
    split: SplitFile
    summary: SummaryFile
    precision: str
    command: str

    def weights(self) -> tuple[dict[str, Tensor], Mapping[str, str]]:
        """Return its tensors and their header."""
        return read_weights(self.path / WEIGHTS_FILE)


def read_run(path: Path) -> TrainedRun:
    """Read a run of `gta finetune`. Raises UsageError for another folder, GtaError for damage."""
    for name in (RECORD_FILE, WEIGHTS_FILE):
        if not (path / name).is_file():
            raise UsageError(f"{path} is no run with a trained model: it has no {name}")
    record = _read(RunFile, path / RECORD_FILE)
    split = _read(SplitFile, path / "split.json")
    summary = _read(SummaryFile, path / "summary.json")
    precision = record.precision or record.config.precision
    paths = {key: getattr(record.config, key) for key in ("model", "source", "data")}
    config = record.config.model_copy(
        update={key: from_folder(value, record.folder) for key, value in paths.items()}
    )
    return TrainedRun(path, config, split, summary, precision, record.command)


def _read(kind: type[Any], path: Path) -> Any:
    try:
        return read_content(kind, read_json(path), as_json=True)
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError) as error:
        raise GtaError(f"{path} cannot be read ({reason_of(error)})") from None


def check_alike(
    first: TrainedRun, header: Mapping[str, str], other: TrainedRun
) -> dict[str, Tensor]:
    """Return the tensors of a run that can be averaged with those of the first.

    Args:
        header: of the first run's weights.

    Raises UsageError that names what differs.
    """
    tensors, own = other.weights()
    kind = ("architecture", "kwargs", "classes", "multi_label", "mean", "std")
    for key in (*kind, "image_size", "test_size"):
        if own.get(key) != header.get(key):
            text = f"{other.path} and {first.path} differ in {key}"
            if key == "classes" and _same_set(own.get(key), header.get(key)):
                text += ", which are in another order"
            raise UsageError(f"{text}: only networks of one kind can be averaged")
    return tensors


def _same_set(one: str | None, other: str | None) -> bool:
    try:
        return sorted(json.loads(one or "0")) == sorted(json.loads(other or "0"))
    except (TypeError, ValueError):
        return False


def common_held_out(runs: Sequence[TrainedRun], dataset: ImageDataset) -> tuple[Record, ...]:
    """Return the images that every run has held out of its training."""
    if any(run.config.refit or not run.split.val for run in runs):
        return ()
    keys = set.intersection(*(set(run.split.val or ()) for run in runs))
    keys -= {key for run in runs for key in run.split.train or ()}
    return tuple(record for _, record in dataset.records() if record.key in keys)


def fold_logits(run: TrainedRun, classes: int) -> ClassLogits | None:
    """Return the logits of a run's training images by the networks of its folds; None without.

    Raises GtaError for a damaged file.
    """
    path = run.path / FOLDS_FILE
    if not path.is_file():
        return None
    tensors, _ = read_weights(path)
    values, labels = tensors.get("logits"), tensors.get("labels")
    dims = 2 if run.config.multi_label else 1
    if (
        values is None
        or labels is None
        or labels.ndim != dims
        or not _are_logits(values, labels, classes)
    ):
        raise GtaError(f"{path} is damaged: it does not hold logits of {classes} classes")
    return ClassLogits(values, multi_hot(labels, classes) if dims == 2 else labels)


def _are_logits(values: Tensor, labels: Tensor, classes: int) -> bool:
    n = len(labels)
    shaped = values.shape == (n, classes) and labels.numel() > 0
    typed = values.dtype == torch.float32 and labels.dtype == torch.int64
    if not (shaped and typed):
        return False
    least = 0 if labels.ndim == 1 else NO_LABEL  # fills rows of labels up
    known = labels.amin() >= least and labels.amax() < classes
    return bool(known and values.isfinite().all())


def test_images(run: TrainedRun, dataset: ImageDataset) -> tuple[Record, ...]:
    """Return the images that a run was tested on; the keys select, they are never paths."""
    if run.split.test is None:
        return dataset["test"]
    keys = set(run.split.test)
    return tuple(record for _, record in dataset.records() if record.key in keys)
