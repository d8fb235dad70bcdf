"""The metrics of a report: their titles, order and number format, and means over runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from gtacli.report.run_schema import is_number


class ReportMetric(NamedTuple):
    """A number from the summaries or the per-epoch metrics.

    Attributes:
        key: its key there.
        title: its title on the page.
        percent: whether it is a fraction, displayed in percent.
        mark_best: whether the page marks its largest mean.
        sparse: whether it is missing in most epochs.
    """

    key: str
    title: str
    percent: bool = False
    mark_best: bool = False
    sparse: bool = False


@dataclass(frozen=True)
class Mean:
    """A mean over runs and, for several runs, the sample standard deviation."""

    value: float
    deviation: float | None


_SUMMARY_METRICS = (
    ReportMetric("test_top1", "test top-1", True, True),
    ReportMetric("test_top5", "test top-5", True, True),
    ReportMetric("test_mean_class_top1", "per-class top-1", True, True),
    ReportMetric("test_map", "test mAP", True, True),
    ReportMetric("test_f1_macro", "test F1, mean of classes", True, True),
    ReportMetric("test_f1_micro", "test F1, all labels", True, True),
    ReportMetric("linear_probe_top1", "linear probe, test top-1", True),
    ReportMetric("linear_probe_map", "linear probe, test mAP", True),
    ReportMetric("kept_attention", "blocks with kept attention", True),
    ReportMetric("val_top1", "validation top-1", True),
    ReportMetric("val_map", "validation mAP", True),
    ReportMetric("knn_top1", "k-NN top-1", True, True),
    ReportMetric("attention_drift", "attention drift"),
    ReportMetric("attention_inside", "attention on object", True, True),
    ReportMetric("test_attention_inside", "attention on object, test", True, True),
    ReportMetric("attention_area", "object area", True),
    ReportMetric("final_loss", "final loss"),
    ReportMetric("recon", "reconstruction error"),
    ReportMetric("recon_fg", "error inside the object"),
    ReportMetric("recon_bg", "error outside the object"),
)
_CURVE_METRICS = (
    ReportMetric("train_loss", "training loss"),
    ReportMetric("ce", "cross-entropy"),
    ReportMetric("val_top1", "validation top-1", True),
    ReportMetric("val_map", "validation mAP", True),
    ReportMetric("val_f1_macro", "validation F1, mean of classes", True),
    ReportMetric("val_f1_micro", "validation F1, all labels", True),
    ReportMetric("val_loss", "validation loss"),
    ReportMetric("attention_drift", "attention drift"),
    ReportMetric("attention_inside", "attention on object", True),
    ReportMetric("recon", "reconstruction error"),
    ReportMetric("recon_fg", "error inside the object"),
    ReportMetric("recon_bg", "error outside the object"),
    ReportMetric("knn_top1", "k-NN top-1", True, sparse=True),
    ReportMetric("tau", "tau"),
    ReportMetric("lr", "learning rate"),
)
_NOT_METRICS = {
    "n_train", "n_val", "n_test", "epochs", "epochs_run", "best_epoch", "seconds", "skipped",
    "incomplete", "cpu_seconds",
    "images_per_second", "peak_memory_mb", "lam", "epoch", "trainable_parameters",
    "cls_top1", "blocks_top1",  # what the decision to keep attention is made of; see `why`
}  # fmt: skip
_FRACTIONS = ("_top1", "_top5", "top1", "_inside", "_area", "_iou", "_share")


def summary_metrics(summaries: Iterable[Mapping[str, Any]]) -> list[ReportMetric]:
    """Return the metrics in summaries, the known ones first; costs are not among them."""
    return _ordered(summaries, _NOT_METRICS, _SUMMARY_METRICS)


def curve_metrics(rows: Iterable[Mapping[str, Any]]) -> list[ReportMetric]:
    """Return the metrics in per-epoch rows, the known ones first."""
    return _ordered(rows, _NOT_METRICS - {"lam"}, _CURVE_METRICS)


def compute_mean(values: Sequence[float]) -> Mean | None:
    """Return the mean of the values, None if there are none."""
    if not values:
        return None
    return Mean(fmean(values), stdev(values) if len(values) > 1 else None)


def format_number(value: float, percent: bool) -> str:
    """Format a number as `72.7`, `3.51` or `9493`."""
    if percent:
        return f"{100 * value:.1f}"
    if value and not 0.001 <= abs(value) < 1e5:
        return f"{value:.2e}"
    if abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:.{max(0, 3 - len(str(int(abs(value)))))}f}"


def format_deviation(mean: Mean, percent: bool) -> str:
    """Format the deviation of a mean with the mean's digits; "" for a single run."""
    if mean.deviation is None:
        return ""
    shown = format_number(mean.value, percent)
    if "e" in shown:
        return format_number(mean.deviation, percent)
    digits = len(shown.partition(".")[2])
    return f"{100 * mean.deviation if percent else mean.deviation:.{digits}f}"


def _ordered(
    rows: Iterable[Mapping[str, Any]], excluded: set[str], known: Sequence[ReportMetric]
) -> list[ReportMetric]:
    keys = {k: None for row in rows for k, v in row.items() if is_number(v) and k not in excluded}
    first = {metric.key: metric for metric in known if metric.key in keys}
    rest = [ReportMetric(k, _title(k), k.endswith(_FRACTIONS)) for k in keys if k not in first]
    return [*first.values(), *rest]


def _title(key: str) -> str:
    regularizer = key.removeprefix("reg.")
    return f"penalty {regularizer}, before lam" if regularizer != key else key.replace("_", " ")
