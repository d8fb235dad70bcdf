"""The metrics of a cell's result, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DEFAULTS = (
    *("test_top1", "test_map", "top1", "map", "mean_iou", "fg_consistency", "final_loss"),
    *("val_top1", "val_map", "knn.20", "knn.10", "linear"),
)
"""The metric of a table that names none: the first of these that the results have."""
LOWER_IS_BETTER = frozenset(
    (
        *("final_loss", "val_loss", "attention_drift", "recon", "recon_fg", "recon_bg"),
        *("bg_gap", "deletion"),
        *("seconds", "cpu_seconds", "peak_memory_mb"),
    )
)
FRACTIONS = (
    "top1",
    "top5",
    "iou",
    "knn",
    "map",
    "f1",
    "recall",
    "jaccard",
    "corloc",
    "attention",
    "f_beta",
    "fewshot",
    "consistency",
    "accuracy",
    "bg_gap",
)
"""Parts of the names of metrics that are fractions, shown as percentages."""


def metric_of(result: Mapping[str, Any], name: str) -> float | None:
    """Return a metric: a key of the result, or keys joined by dots (`knn.20`); None if absent."""
    value: Any = result
    for part in [name] if name in result else name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def is_fraction(name: str) -> bool:
    """Return whether a metric is a fraction by its name, which may be `COMMAND:METRIC`."""
    key = name.rpartition(":")[2]
    return any(part in key for part in FRACTIONS) and "drift" not in key


def is_lower_better(name: str) -> bool:
    """Return whether a metric, which may be `COMMAND:METRIC` or `KEY.METRIC`, is of that kind."""
    return re.split(r"[:.]", name)[-1] in LOWER_IS_BETTER
