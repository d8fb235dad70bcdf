"""The schema of what a report reads of a run folder.

A run folder may be a stranger's, another version's, or edited. What the report computes with has
the types that are declared here; other entries are ignored, or shown as the text they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gtacli.config.base import ModelT, StrictModel, read_content
from gtacli.config.common import ImageSize
from gtacli.errors import GtaError

LARGEST = 1e100
"""Bound of metrics; sums, variances and percentages of such numbers are finite."""
_INTERVAL = "_interval"

Count = Annotated[int, Field(ge=0)]
Metric = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


def is_number(value: Any) -> bool:
    """Return whether a value of JSON is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_interval(interval: Any) -> Any:
    if isinstance(interval, dict):
        for part in interval.values():
            _check_interval(part)
    elif interval is not None:
        ends = interval if isinstance(interval, list) else []
        if len(ends) != 2 or not all(end is None or is_number(end) for end in ends):
            raise ValueError("must be two numbers, [low, high]")
        _check_size(interval)
    return interval


def _check_size(value: Any) -> None:
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list):
        for part in value:
            _check_size(part)
    elif is_number(value) and abs(value) > LARGEST:
        raise ValueError(f"must be at most {LARGEST:g}, got {value:g}")


def _check_fractions(value: Any, interval: Any) -> None:
    """Raise ValueError unless a metric, or metrics by key, have the keys of their intervals."""
    if isinstance(value, dict) and interval is None:
        return
    if isinstance(value, dict) and isinstance(interval, dict):
        for key, part in value.items():
            _check_fractions(part, interval.get(key))
    elif isinstance(interval, dict) or not (value is None or is_number(value)):
        raise ValueError("must be a number, or numbers by the keys of its interval")


class _Part(StrictModel):
    """An object of a run's files; it may have other entries."""

    model_config = ConfigDict(extra="allow")


class _Data(_Part):
    name: str | None = None
    fingerprint: str | None = None


class _Model(_Part):
    weights: str | None = None
    fingerprint: str | None = None


class _Config(_Part):
    """The settings that a report computes with."""

    epochs: Count | None = None
    seed: int | None = None
    data: str | None = None
    multi_label: bool | None = None
    epoch_images: Count | None = None
    model: str | None = None
    source: str | None = None
    init: str | None = None
    image_size: ImageSize | None = None
    source_size: ImageSize | None = None
    test_size: ImageSize | None = None
    patch_size: Annotated[int, Field(ge=1, le=8192)] | None = None
    partial_weights: bool | None = None
    method: str | None = None
    regularizer: dict[str, dict[str, Any] | None] | None = None
    guide: str | None = None
    maps: str | None = None
    teacher: str | None = None
    mask: str | None = None
    shuffle_maps: bool | None = None
    bands: str | None = None
    value_range: str | None = None


class RunRecord(_Part):
    """The content of run.json."""

    command: str = "run"
    config: _Config = Field(default_factory=_Config)
    data: _Data | None = None
    model: _Model | None = None
    versions: dict[str, str] | None = None
    argv: list[str] | None = None
    platform: str | None = None
    threads: Count | None = None
    folder: str | None = None


class _Comparison(_Part):
    difference: Metric | None = None
    p: Annotated[float, Field(ge=0, le=1)] | None = None


class _Measured(_Part):
    """An object with metrics; each has its interval beside it."""

    @model_validator(mode="after")
    def _check_metrics(self) -> _Measured:
        entries = {**self.__dict__, **(self.model_extra or {})}
        for key, value in entries.items():
            try:
                if key.endswith(_INTERVAL):
                    _check_interval(value)
                    _check_fractions(entries.get(key.removesuffix(_INTERVAL)), value)
                _check_size(value)
            except ValueError as error:
                raise ValueError(f"has a '{key}' that is no metric: {error}") from None
        return self


class _Variant(_Measured):
    top1: Metric | None = None


class _ProbeResult(_Measured):
    task: str
    model: str
    data: str | None = None
    gallery: str | None = None
    protocol: str | None = None
    n_test: Count | None = None
    compared: dict[str, _Comparison] | None = None
    variants: dict[str, _Variant] | None = None


class _LabelResult(_Part):
    """The metrics of one class of a run with any number of labels."""

    name: str = Field(alias="class")
    ap: Metric
    f1: Metric
    n_test: Count


class RunSummary(_Measured):
    """The content of summary.json."""

    test_top1: Metric | None = None
    label_results: list[_LabelResult] | None = None
    why: str | None = None
    best_epoch: Count | None = None
    lam: Metric | None = None
    n_train: Count | None = None
    n_val: Count | None = None
    n_test: Count | None = None
    seconds: Metric | None = None
    images_per_second: Metric | None = None
    peak_memory_mb: Metric | None = None
    results: list[_ProbeResult] | None = None


class MetricsRow(_Measured):
    """A line of metrics.jsonl."""

    epoch: Count | None = None
    attention: dict[str, list[Metric | None] | Metric | None] | None = None


class SplitRecord(_Part):
    """The content of split.json: keys of images."""

    test: list[str] | None = None
    val: list[str] | None = None


Probability = Annotated[float, Field(ge=0, le=1)]


class CachedPredictions(StrictModel):
    """The content of predictions.json: class index and probability by image key."""

    of: str
    top1: dict[str, tuple[Count, Probability]]


def check_content(value: Any, model: type[ModelT], where: str) -> ModelT:
    """Return a value of JSON in a model of this module.

    Args:
        where: name of the file, with the line where it has several.

    Raises GtaError that names the entry.
    """
    if not isinstance(value, Mapping):
        raise GtaError(f"{where} is not a JSON object")
    try:
        return read_content(model, value, as_json=True)
    except ValueError as error:
        raise GtaError(f"{where}: {error}") from None


def check_object(value: Any, model: type[BaseModel], file: Path, line: int = 0) -> dict[str, Any]:
    """Return a value of JSON as it is, checked by `check_content`."""
    check_content(value, model, f"{file} (line {line})" if line else str(file))
    checked: dict[str, Any] = value
    return checked
