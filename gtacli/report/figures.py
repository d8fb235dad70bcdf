"""The figures of a report: their names, how they are written, in which order they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gtacli.report.groups import Mean


class Figure(NamedTuple):
    """A number of summaries or metrics.

    Attributes:
        key: there.
        title: on the page.
        percent: a fraction, shown per cent.
        best: whether more is better, so that the best can be marked.
        sparse: not measured in every epoch.
    """

    key: str
    title: str
    percent: bool = False
    best: bool = False
    sparse: bool = False


_KNOWN = (
    Figure("test_top1", "test top-1", True, True),
    Figure("test_top5", "test top-5", True, True),
    Figure("test_mean_class_top1", "per class", True, True),
    Figure("val_top1", "validation top-1", True),
    Figure("knn_top1", "k-NN top-1", True, True),
    Figure("attention_drift", "attention drift"),
    Figure("attention_inside", "attention on object", True, True),
    Figure("test_attention_inside", "the same, test", True, True),
    Figure("attention_area", "area of object", True),
    Figure("final_loss", "final loss"),
    Figure("recon", "error of a masked patch"),
    Figure("recon_fg", "inside the object"),
    Figure("recon_bg", "outside"),
)
_ASIDE = {
    "n_train", "n_val", "n_test", "epochs", "epochs_run", "best_epoch", "seconds", "skipped",
    "images_per_second", "peak_memory_mb", "lam", "epoch",
}  # fmt: skip
_CURVES = (
    Figure("train_loss", "training loss"),
    Figure("ce", "cross-entropy"),
    Figure("val_top1", "validation top-1", True),
    Figure("val_loss", "validation loss"),
    Figure("attention_drift", "attention drift"),
    Figure("attention_inside", "attention on object", True),
    Figure("recon", "error of a masked patch"),
    Figure("recon_fg", "error inside the object"),
    Figure("recon_bg", "error outside"),
    Figure("knn_top1", "k-NN top-1", True, sparse=True),
    Figure("tau", "tau"),
    Figure("lr", "learning rate"),
)
_FRACTIONS = ("_top1", "_top5", "top1", "_inside", "_area", "_iou", "_share")


def figures_of(summaries: Iterable[Mapping[str, Any]]) -> list[Figure]:
    """The numbers that summaries hold, the known first; what a run cost is told elsewhere."""
    keys = {k: None for s in summaries for k, v in s.items() if _is_number(v) and k not in _ASIDE}
    return _ordered(keys, _KNOWN)


def curves_of(rows: Iterable[Mapping[str, Any]]) -> list[Figure]:
    """The numbers that develop over the epochs."""
    aside = _ASIDE - {"lam"}
    keys = {k: None for row in rows for k, v in row.items() if _is_number(v) and k not in aside}
    return _ordered(keys, _CURVES)


def number(value: float, percent: bool) -> str:
    """`72.7`, `3.51`, `9493`."""
    value = 100 * value if percent else value
    if percent:
        return f"{value:.1f}"
    if value and not 0.001 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - _digits(value))}f}" if abs(value) >= 1 else f"{value:.3g}"


def mean(value: Mean, percent: bool) -> str:
    """`72.7 ± 1.3`, both to the mean's digits."""
    shown = number(value.value, percent)
    if value.deviation is None:
        return shown
    if "e" in shown:
        return f"{shown} ± {number(value.deviation, percent)}"
    digits = len(shown.partition(".")[2])
    deviation = 100 * value.deviation if percent else value.deviation
    return f"{shown} ± {deviation:.{digits}f}"


def _digits(value: float) -> int:
    return len(str(int(abs(value)))) - 1


def _ordered(keys: Mapping[str, None], known: Sequence[Figure]) -> list[Figure]:
    first = [figure for figure in known if figure.key in keys]
    taken = {figure.key for figure in first}
    rest = [Figure(key, _title(key), key.endswith(_FRACTIONS)) for key in keys if key not in taken]
    return [*first, *rest]


def _title(key: str) -> str:
    regularizer = key.removeprefix("reg.")
    return f"penalty {regularizer}, without lam" if regularizer != key else key.replace("_", " ")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
