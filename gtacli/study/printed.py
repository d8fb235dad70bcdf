"""The result of a cell: what its command has printed about the cell's own model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from gtacli.runtime.strict_json import parse_json

_PARTS = ("data", "kind")
"""What a probe's results of one model may differ in: datasets, kinds of maps."""


def read_result(printed: str) -> dict[str, Any] | None:
    """Return the result in a command's JSON lines; None without any.

    That is the last object; of `{"summary": ...}` what is in it. A probe prints a line for each
    model, dataset or kind of map: those of other models (`compare`) are left out, and of several
    datasets or kinds each stands under its name. Numbers that all datasets have are beside them as
    means.
    """
    lines = [line for line in map(_read, printed.splitlines()) if line is not None]
    summaries = [line["summary"] for line in lines if isinstance(line.get("summary"), dict)]
    if summaries:
        return dict(summaries[0])
    rows = [line for line in lines if "task" in line]
    own = [row for row in rows if row.get("model") == rows[0].get("model")]
    if len(own) > 1:
        return _together(own)
    return own[0] if own else lines[-1] if lines else None


def _read(line: str) -> dict[str, Any] | None:
    try:
        value = parse_json(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _together(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the results of one model in one object."""
    part = next((key for key in _PARTS if len({str(row.get(key)) for row in rows}) > 1), None)
    if part is None:
        return dict(rows[-1])
    names = _short_names([str(row.get(part)) for row in rows])
    by_name: dict[str, Any] = {}
    for name, row in zip(names, rows, strict=True):
        by_name[name] = {**by_name.get(name, {}), **row}
    shared = {
        key: value
        for key, value in rows[0].items()
        if all(key in row and row[key] == value for row in rows)
    }
    return {**shared, **(_means([*by_name.values()]) if part == "data" else {}), **by_name}


def _means(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of the numbers that all results have."""
    columns: dict[str, list[Any]] = {k: [r.get(k) for r in results] for k in results[0]}
    return {
        key: fmean(values)
        for key, values in columns.items()
        if all(isinstance(value, int | float) and value is not True for value in values)
    }


def _short_names(specs: Sequence[str]) -> list[str]:
    """Return the ends of specs, without the dots that part the keys of a metric's name."""
    ends = [re.sub(r"[^\w-]+", "_", re.split(r"[/:]", spec.rstrip("/"))[-1]) for spec in specs]
    whole = [re.sub(r"[^\w-]+", "_", spec).strip("_") for spec in specs]
    unique = len(set(ends)) == len(set(specs))
    return ends if unique else whole
