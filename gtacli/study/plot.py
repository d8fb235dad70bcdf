"""The figure of a study: a metric against a key of the grid, with bands, by matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from gtacli.errors import GtaError, UsageError
from gtacli.runtime.atomic import write_atomic
from gtacli.study.formats import row_label
from gtacli.study.metrics import is_fraction
from gtacli.study.results import StudyTable

FORMATS = (".png", ".svg", ".pdf")
# Okabe and Ito's colors, which the color-blind tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^Dv*PX"


def plot(table: StudyTable, path: Path) -> None:
    """Draw a table into a file; see `draw`.

    Raises UsageError for another format than PNG, SVG or PDF, or an empty table, GtaError without
    matplotlib, RunError if the file cannot be written.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} must end in {', '.join(FORMATS)}", option="out")
    figure = draw(table, path.suffix.lower()[1:])
    write_atomic(path, lambda draft: draft.write_bytes(figure))


def draw(table: StudyTable, kind: str) -> bytes:
    """Return a figure as "png", "svg" or "pdf"; equal tables give equal bytes.

    A line for each row with a band of one standard deviation, or points where the key is a word.

    Raises UsageError for an empty table, GtaError without matplotlib.
    """
    series = _series(table)
    if not series:
        raise UsageError("no cell has a result yet")
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise GtaError("plots need matplotlib: pip install 'gtacli[plot]'") from None
    figure = Figure(figsize=(5.2, 3.6), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    names = list(dict.fromkeys(name for _, points in series for name, _, _ in points))
    numbers = _numbers(names)
    for index, (label, points) in enumerate(series):
        _draw(axes, index, label, points, names, numbers)
    unit = " (%)" if is_fraction(table["metric"]) else ""
    axes.set_ylabel(table["metric"].replace("_", " ") + unit)
    axes.set_xlabel((table["by"] or "").replace("_", " "))
    if numbers is None:
        axes.set_xticks(range(len(names)), names)
        axes.margins(x=0.15)
    else:
        _scale(axes, sorted(numbers.values()))
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small")
    # No date, and fixed ids.
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    written = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "gta"}):
        figure.savefig(written, format=kind, metadata=metadata[kind])
    return written.getvalue()


Point = tuple[str, float, float]


def _series(table: StudyTable) -> list[tuple[str, list[Point]]]:
    """Return each row's label with (column, mean, standard deviation)."""
    scale = 100.0 if is_fraction(table["metric"]) else 1.0
    found = []
    for row in table["rows"]:
        points = [
            (name, scale * entry["mean"], scale * (entry["std"] or 0.0))
            for name, entry in row["columns"].items()
            if entry is not None
        ]
        if points:
            found.append((row_label(row), points))
    return found


def _numbers(names: list[str]) -> dict[str, float] | None:
    try:
        return {name: float(name) for name in names}
    except ValueError:
        return None


def _draw(
    axes: Any,
    index: int,
    label: str,
    points: list[Point],
    names: list[str],
    numbers: dict[str, float] | None,
) -> None:
    color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
    means, deviations = [p[1] for p in points], [p[2] for p in points]
    if numbers is None or len(names) == 1:
        shift = 0.08 * (index % 5 - 2)
        at = [names.index(name) + shift for name, _, _ in points]
        axes.errorbar(
            at, means, deviations, fmt=marker, color=color, capsize=3, markersize=5, label=label
        )
        return
    at = [numbers[name] for name, _, _ in points]
    low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
    high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
    axes.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(at, means, marker=marker, color=color, markersize=4, linewidth=1.4, label=label)


def _scale(axes: Any, values: list[float]) -> None:
    """Choose a logarithmic axis for values that span more than a factor of 30, such as lam."""
    if values[0] > 0 and values[-1] / values[0] > 30:
        axes.set_xscale("log")
    elif values[0] == 0 and len(values) > 2 and values[-1] / values[1] > 30:
        axes.set_xscale("symlog", linthresh=values[1])
    else:
        axes.set_xticks(values)
