"""The tables of `gta probe`: shares in per cent, their intervals, and what tells models apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gtacli.cli import console


class Figure(NamedTuple):
    """One figure of one model.

    Attributes:
        label: its row.
        value: a fraction; None where there is none.
        interval: (low, high), 95 %.
        compared: `difference`, `p`, `test` against the first model.
    """

    label: str
    value: float | None
    interval: Sequence[float] | None = None
    compared: Mapping[str, Any] | None = None


def show_figures(names: Sequence[str], figures: Sequence[Sequence[Figure]]) -> None:
    """A row a figure; of each model its value and interval, and from the second on how much more
    it is than the first's, with the p of the paired test."""
    tables = [{figure.label: figure for figure in of_model} for of_model in figures]
    labels = dict.fromkeys(label for table in tables for label in table)
    several = len(names) > 1
    columns = ["", *(["%"] if not several else []), *([] if several else ["95 %"])]
    for number, name in enumerate(names if several else []):
        columns += [name, "95 %"]
        if number:
            columns += ["more", "p", "test"]
    console.table(columns, [_row(label, tables) for label in labels])


def _row(label: str, tables: Sequence[Mapping[str, Figure]]) -> list[str | None]:
    cells: list[str | None] = [label]
    for number, table in enumerate(tables):
        figure = table.get(label, Figure(label, None))
        cells += [percent(figure.value), _span(figure.interval)]
        if number:
            cells += _compared(figure.compared)
    return cells


def percent(share: float | None) -> str | None:
    """In per cent, with a decimal."""
    return None if share is None or math.isnan(share) else f"{100 * share:.1f}"


def _span(interval: Sequence[float] | None) -> str | None:
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
