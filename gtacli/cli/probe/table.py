"""The tables of `gta probe`: metrics in percent, their intervals, and comparisons of models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gtacli.cli import console


class ModelMetric(NamedTuple):
    """One metric of one model.

    Attributes:
        label: its row.
        value: a fraction; None if it is undefined.
        interval: (low, high), 95 %.
        compared: `difference`, `p`, `test` against the first model.
    """

    label: str
    value: float | None
    interval: Sequence[float] | None = None
    compared: Mapping[str, Any] | None = None


def show_metrics(names: Sequence[str], metrics: Sequence[Sequence[ModelMetric]]) -> None:
    """Print a row per metric, with the value and interval of each model.

    From the second model on also the difference from the first, with the p of the paired test.
    """
    tables = [{metric.label: metric for metric in of_model} for of_model in metrics]
    labels = dict.fromkeys(label for table in tables for label in table)
    several = len(names) > 1
    columns = [""] if several else ["", "%", "95 %"]
    for number, name in enumerate(names if several else []):
        columns += [name, "95 %"]
        if number:
            columns += ["more", "p", "test"]
    console.table(columns, [_row(label, tables) for label in labels])


def _row(label: str, tables: Sequence[Mapping[str, ModelMetric]]) -> list[str | None]:
    cells: list[str | None] = [label]
    for number, table in enumerate(tables):
        metric = table.get(label, ModelMetric(label, None))
        cells += [_percent(metric.value), _interval(metric.interval)]
        if number:
            cells += _compared(metric.compared)
    return cells


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None or math.isnan(fraction) else f"{100 * fraction:.1f}"


def _interval(interval: Sequence[float] | None) -> str | None:
    if interval is None or any(end is None or math.isnan(end) for end in interval):
        return None
    low, high = (100 * end for end in interval)
    return f"{low:.1f} to {high:.1f}"


def _compared(compared: Mapping[str, Any] | None) -> list[str | None]:
    if compared is None:
        return [None, None, None]
    p = compared["p"]
    shown = "< 0.001" if p < 0.001 else f"{p:.3f}"
    return [f"{100 * compared['difference']:+.1f}", shown, compared["test"]]
