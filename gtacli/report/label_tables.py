"""The classes of runs on images with any number of labels: average precision and F1 of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

from gtacli.report.run_folders import ReportRun
from gtacli.report.sections import TableSection

MOST = 300
"""Classes on the page at most."""
HEAD = ["class", "test images", "ap", "f1"]


def make_label_table(runs: Sequence[ReportRun], labels: Sequence[str]) -> TableSection | None:
    """Return the section of runs with any number of labels; None if no run has them.

    The classes with the lowest average precision, mean over the runs, come first.
    """
    found = [
        (label, {row["class"]: row for row in results(run)})
        for run, label in zip(runs, labels, strict=True)
        if results(run)
    ]
    if not found:
        return None
    names = dict.fromkeys(name for _, by_class in found for name in by_class)
    precision = {name: fmean(by[name]["ap"] for _, by in found if name in by) for name in names}
    order = sorted(names, key=precision.__getitem__)
    rows = [
        [name, _images(found, name), *(cell for _, by in found for cell in _cells(by.get(name)))]
        for name in order[:MOST]
    ]
    several = len(found) > 1
    head = ["class", "test images"]
    for label, _ in found:
        before = f"{label}: " if several else ""
        head += [f"{before}average precision %", f"{before}F1 %"]
    notes = ["A label is predicted where its probability is above 0.5, which F1 counts."]
    if len(order) > MOST:
        notes.append(f"{len(order) - MOST} more classes are in summary.json.")
    return TableSection("Labels", head, rows, notes)


def results(run: ReportRun) -> list[dict[str, Any]]:
    """Return the metrics of a run's classes; empty for one class per image."""
    return (run.summary or {}).get("label_results") or []


def label_rows(run: ReportRun) -> Iterator[list[object]]:
    """Yield the rows of a table with `HEAD`."""
    for row in results(run):
        yield [row["class"], row["n_test"], row["ap"], row["f1"]]


def _images(found: Sequence[tuple[str, dict[str, Any]]], name: str) -> str:
    counts = sorted({by[name]["n_test"] for _, by in found if name in by})
    return " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))


def _cells(row: dict[str, Any] | None) -> list[str]:
    return ["–", "–"] if row is None else [f"{100 * row[key]:.1f}" for key in ("ap", "f1")]
