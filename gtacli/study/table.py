"""The table of a study: methods by a key of the grid, repeated over the seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from gtacli.config.base import did_you_mean
from gtacli.config.study import SEED
from gtacli.errors import UsageError
from gtacli.measures.statistics import paired_t
from gtacli.study.folder import State
from gtacli.study.metrics import DEFAULTS, is_fraction, is_lower_better, metric_of
from gtacli.study.plan import Cell, follower_name, show_value
from gtacli.study.results import Entry, StudyComparison, StudyRow, StudyTable, TuningCost
from gtacli.study.states import StudyProgress

ALPHA = 0.05
DEFAULT_COLUMNS = "sampling_rate"
METHOD = "method"
ONLY = "all"
"""Name of the column of a table that has one."""


@dataclass(frozen=True)
class MethodRow:
    """A row: a method, or another metric of a method's cells, at one place of the other keys."""

    label: str
    keys: tuple[tuple[str, Any], ...]


Values = dict[MethodRow, dict[str, dict[Any, float]]]
"""The metric by row, column and seed."""


@dataclass(frozen=True)
class TableLayout:
    """The content of a table.

    Attributes:
        metric: the metric; a follower's is `COMMAND:METRIC` (`probe-knn:top1`).
        rows: what makes the rows: a key of the grid, or "method".
        columns: likewise; None: there is one.
        others: what else makes rows of their own.
        follower: command of the cells, None: the main ones.
        key: the metric within the result.
        main: whether it is the command's main metric, beside which other metrics' rows stand.
    """

    metric: str
    rows: str
    columns: str | None
    others: tuple[str, ...]
    follower: str | None
    key: str
    main: bool


def layout_of(
    progress: StudyProgress, metric: str | None, columns: str | None, rows: str = METHOD
) -> TableLayout:
    """Return the layout of a table; what is None is chosen.

    Raises UsageError for a metric that no cell has, or a key that is not in the grid.
    """
    grid = progress.plan.file.grid
    keys = [METHOD, *(key for key in grid if key != SEED)]
    several = [key for key in keys if key == METHOD or len(grid[key]) > 1]
    for option, value in (("rows", rows), ("columns", columns)):
        if value is not None and value not in keys:
            hint = did_you_mean(value, keys) or ";"
            text = f"'{value}' is no key of the grid{hint} known: {', '.join(keys)}"
            raise UsageError(text, option=option)
    if columns is None:
        free = [key for key in several if key not in (rows, METHOD)]
        default = DEFAULT_COLUMNS in keys and rows != DEFAULT_COLUMNS
        columns = DEFAULT_COLUMNS if default else next(iter(free), None)
    if columns == rows:
        raise UsageError(f"{rows} makes the rows already", option="columns")
    others = tuple(key for key in several if key not in (rows, columns))
    follower, _, key = (metric or "").rpartition(":")
    if follower:
        _require_follower(progress, follower)
    results = [r for cell in _cells(progress, follower or None) if (r := progress.result(cell))]
    known = sorted({name for result in results for name in _names(result)})
    usual = next((name for name in DEFAULTS if name in known), None)
    usual = usual or next((name for name in known if is_fraction(name)), DEFAULTS[0])
    if metric is None:
        key = usual
    elif results and key not in known:
        hint = did_you_mean(key, known) or ";"
        raise UsageError(f"no cell has '{key}'{hint} known: {', '.join(known)}", option="metric")
    shown = f"{follower}:{key}" if follower else key
    main = key == usual and not follower
    return TableLayout(shown, rows, columns, others, follower or None, key, main)


def _require_follower(progress: StudyProgress, name: str) -> None:
    known = [then.command.replace(" ", "-") for then in progress.plan.file.then]
    if name not in known:
        hint = did_you_mean(name, known) or ";"
        text = f"no '{name}' follows the cells{hint} known: {', '.join(known) or 'none'}"
        raise UsageError(text, option="metric")


def _cells(progress: StudyProgress, follower: str | None) -> Iterator[Cell]:
    for cell in progress.plan.cells.values():
        if cell.tunes:
            continue
        name = None if cell.parent is None else cell.command.replace(" ", "-")
        if name == follower:
            yield cell


def _names(result: Mapping[str, Any]) -> Iterator[str]:
    for key in result:
        if metric_of(result, key) is not None:
            yield key
        elif isinstance(result[key], Mapping):
            yield from (f"{key}.{name}" for name in _names(result[key]))


def values_of(
    progress: StudyProgress, layout: TableLayout
) -> tuple[Values, dict[MethodRow, dict[str, float]]]:
    """Return the metric by row, column and seed, and the mean seconds by row and column."""
    values: Values = {}
    seconds: dict[MethodRow, dict[str, list[float]]] = {}
    further = progress.plan.file.row if layout.main else {}
    for cell in _cells(progress, layout.follower):
        shown = [(cell.method, layout.key)]
        for name, other in further.items():
            if (own := _place_of(cell.method, other.method, progress)) is not None:
                shown.append((f"{name}{own}", other.metric))
        for label, metric in shown:
            result, key = _result_with(progress, cell, metric)
            place = {**cell.keys, METHOD: label}
            others = tuple((key, _word(place[key])) for key in layout.others)
            row = MethodRow(_text(place[layout.rows]), others)
            column = ONLY if layout.columns is None else _text(place[layout.columns])
            by_seed = values.setdefault(row, {}).setdefault(column, {})
            found = None if result is None else metric_of(result, key)
            if found is not None:
                by_seed[_text(cell.keys.get(SEED, 0))] = found
                took = progress.records[cell.name].seconds
                seconds.setdefault(row, {}).setdefault(column, []).append(took)
    return values, {r: {c: fmean(s) for c, s in by.items()} for r, by in seconds.items()}


def _place_of(method: str, base: str, progress: StudyProgress) -> str | None:
    """Return what a method's name adds for a place of its own grid; None for other methods."""
    if method == base:
        return ""
    own = progress.plan.file.method.get(base)
    return method.removeprefix(base) if own and own.grid and method.startswith(f"{base} ") else None


def _result_with(
    progress: StudyProgress, cell: Cell, metric: str
) -> tuple[Mapping[str, Any] | None, str]:
    """Return a cell's result, or that of what follows it (`COMMAND:KEY`), and the key in it."""
    follower, _, key = metric.rpartition(":")
    if follower:
        _require_follower(progress, follower)
        cell = progress.plan.cells[follower_name(cell.name, follower)]
    return progress.result(cell), key


def make_table(
    progress: StudyProgress,
    metric: str | None = None,
    columns: str | None = None,
    against: str | None = None,
    rows: str = METHOD,
) -> StudyTable:
    """Return the table of what is finished.

    Args:
        metric: of `gtacli.study.metrics`; None: the command's main one.
        columns: key of the grid; None: the sampling rate, or the first with several values.
        against: row for the paired tests; None: the first.
        rows: what makes the rows: "method", or a key of the grid.

    Raises UsageError for an unknown metric, key or row.
    """
    layout = layout_of(progress, metric, columns, rows)
    values, seconds = values_of(progress, layout)
    labels = list(dict.fromkeys(row.label for row in values))
    reference = _reference(labels, against)
    sign = -1.0 if is_lower_better(layout.key) else 1.0
    names = list(dict.fromkeys(column for by in values.values() for column in by))
    lines: list[StudyRow] = []
    for row, by in values.items():
        base = next((r for r in values if r.label == reference and r.keys == row.keys), None)
        rivals = [r for r in values if r.keys == row.keys and r != row]
        entries: dict[str, Entry | None] = {}
        for column in names:
            own = by.get(column, {})
            if not own:
                entries[column] = None
                continue
            base_values = {} if base is None or base == row else values[base].get(column, {})
            entries[column] = _entry(
                own,
                base_values,
                [values[rival].get(column, {}) for rival in rivals],
                sign,
                seconds[row][column],
            )
        line: StudyRow = {"method": row.label, "columns": entries}
        if row.keys:
            line["keys"] = dict(row.keys)
        lines.append(line)
    states = progress.states
    main = [cell.name for cell in _cells(progress, layout.follower)]
    changed = [name for name in main if states[name] is State.CHANGED]
    return {
        "metric": layout.metric,
        "by": layout.columns,
        "against": reference,
        "rows": lines,
        "tuning": _tuning(progress),
        "missing": [n for n in main if states[n] not in (State.FINISHED, State.CHANGED)],
        "changed": changed,
    }


def compare(
    progress: StudyProgress, a: str, b: str, metric: str | None = None, columns: str | None = None
) -> list[StudyComparison]:
    """Compare two rows in every column, paired by seed (and by the other keys of the grid).

    Raises UsageError for an unknown row, and without a pair.
    """
    layout = layout_of(progress, metric, columns)
    values, _ = values_of(progress, layout)
    labels = list(dict.fromkeys(row.label for row in values))
    one, other = (_reference(labels, name) for name in (a, b))
    found: list[StudyComparison] = []
    for column in dict.fromkeys(column for by in values.values() for column in by):
        pairs = [
            (by.get(column, {})[seed], values[match].get(column, {})[seed])
            for row, by in values.items()
            if row.label == one
            for match in values
            if match.label == other and match.keys == row.keys
            for seed in by.get(column, {}).keys() & values[match].get(column, {}).keys()
        ]
        if not pairs:
            continue
        first, second = np.array(pairs).T
        test = paired_t(first, second)
        found.append(
            {
                "column": column,
                "a": float(first.mean()),
                "b": float(second.mean()),
                "difference": test.difference,
                "low": _finite(test.low),
                "high": _finite(test.high),
                "p": _finite(test.p),
                "n": len(pairs),
            }
        )
    if not found:
        raise UsageError(f"no seed has results of both {a} and {b} yet")
    return found


def _reference(labels: Sequence[str], name: str | None) -> str | None:
    if name is None:
        return labels[0] if labels else None
    if name not in labels:
        hint = did_you_mean(name, labels) or ";"
        text = f"the study has no row '{name}'{hint} known: {', '.join(labels)}"
        raise UsageError(text, option="against")
    return name


def _entry(
    own: Mapping[Any, float],
    base: Mapping[Any, float],
    rivals: Sequence[Mapping[Any, float]],
    sign: float,
    seconds: float,
) -> Entry:
    numbers = np.array(list(own.values()))
    return {
        "mean": float(numbers.mean()),
        "std": float(numbers.std(ddof=1)) if len(numbers) > 1 else None,
        "n": len(numbers),
        "p": _p(own, base),
        "best": _is_best(own, rivals, sign),
        "seconds": round(seconds, 2),
    }


def _p(own: Mapping[Any, float], base: Mapping[Any, float]) -> float | None:
    """Return the p-value over the seeds that both have; None below two, and without spread."""
    seeds = [seed for seed in own if seed in base]
    if len(seeds) < 2:
        return None
    return _finite(paired_t([own[s] for s in seeds], [base[s] for s in seeds]).p)


def _is_best(own: Mapping[Any, float], rivals: Sequence[Mapping[Any, float]], sign: float) -> bool:
    mean = fmean(own.values())
    for rival in rivals:
        if not rival:
            continue
        p = _p(own, rival)
        if sign * (mean - fmean(rival.values())) <= 0 or p is None or p >= ALPHA:
            return False
    return any(rivals)


def _tuning(progress: StudyProgress) -> dict[str, TuningCost]:
    costs: dict[str, TuningCost] = {}
    for cell in progress.plan.cells.values():
        record = progress.records.get(cell.name)
        if cell.tunes and record is not None:
            cost = costs.setdefault(cell.method, _no_cost())
            cost["runs"] += 1
            cost["seconds"] = round(cost["seconds"] + record.seconds, 2)
        elif cell.candidates and cell.method in costs:
            settings = progress.settings(cell)
            if settings is not None:
                costs[cell.method]["borrowed"] += progress.is_borrowed(cell)
                chosen = {key: settings[key] for key in cell.candidates[0][1]}
                if chosen not in costs[cell.method]["chosen"]:
                    costs[cell.method]["chosen"].append(chosen)
    return costs


def _no_cost() -> TuningCost:
    return {"runs": 0, "seconds": 0.0, "chosen": [], "borrowed": 0}


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _word(value: Any) -> Any:
    """Return a value of a key; a list or a table as it stands in names, since it is no key."""
    return show_value(value) if isinstance(value, list | dict) else value


def _text(value: Any) -> str:
    value = _word(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)
