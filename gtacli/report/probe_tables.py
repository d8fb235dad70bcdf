"""Tables of `gta probe` results: one row per metric, one column per model.

A cell holds the value, its confidence interval and the difference to the reference model with the
p-value of the paired test. The results describe themselves: a metric `NAME` has `NAME_interval`
beside it, either as one value or by key. So only the titles of the rows are specific to a probe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gtacli.models.names import short_names
from gtacli.report.run_folders import ReportRun
from gtacli.report.run_schema import is_number

_TITLES = {
    "map": "mAP",
    "top1": "top 1",
    "top5": "top 5",
    "knn": "k-NN",
    "bg_gap": "BG-Gap",
    "fg_consistency": "same prediction",
    "shape_bias": "shape bias",
    "by_shape": "decided by shape",
    "by_texture": "decided by texture",
}
_WITHOUT_INTERVAL = ("by_shape", "by_texture")
_NESTED = {"variants": "top1"}
"""Objects whose values are results themselves, with the one metric of them that is shown."""


class ProbeMetric(NamedTuple):
    """One metric of one result.

    Attributes:
        title: title of its row.
        value: a fraction.
        interval: ends of its confidence interval.
        test: its entry in the result's `compared`.
    """

    title: str
    value: float | None
    interval: Sequence[float | None] | None
    test: Mapping[str, Any] | None

    def interval_text(self) -> str:
        """Return the interval in percent; "" if there is none."""
        ends = [end for end in self.interval or () if end is not None]
        return " to ".join(f"{100 * end:.1f}" for end in ends) if len(ends) == 2 else ""

    def difference_text(self) -> str:
        """Return the difference to the reference in percent and its p-value; "" without a test."""
        difference, p = (self.test or {}).get("difference"), (self.test or {}).get("p")
        if not isinstance(difference, int | float):
            return ""
        text = f"{100 * difference:+.1f}"
        if isinstance(p, int | float):
            text += ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
        return text


@dataclass(frozen=True)
class ProbeTable:
    """The results of one task on one dataset.

    Attributes:
        title: heading.
        models: titles of the columns.
        rows: title of each metric, and its values.
    """

    title: str
    models: list[str]
    rows: list[tuple[str, list[ProbeMetric | None]]]


def is_probe(run: ReportRun) -> bool:
    """Return whether `gta probe` created the run."""
    return run.command.startswith("probe ")


def make_probe_tables(probes: Sequence[ReportRun]) -> list[ProbeTable]:
    """Make a table for each task and dataset."""
    groups: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for run in probes:
        for result in _results(run):
            title = str(result.get("task")), str(result.get("data") or ""), _variant(result)
            groups.setdefault(title, {})[str(result.get("model"))] = result
    tables = (_make_table(title, [*by_model.values()]) for title, by_model in groups.items())
    return [table for table in tables if table.rows]


def probe_metrics(result: Mapping[str, Any]) -> Iterator[ProbeMetric]:
    """Yield the metrics of a result."""
    tests = result.get("compared")
    tests = tests if isinstance(tests, Mapping) else {}
    for key, value in result.items():
        interval, title = result.get(f"{key}_interval"), _TITLES.get(key, key)
        if key in _NESTED and isinstance(value, Mapping):
            name = _NESTED[key]
            for part, inner in value.items():
                interval = inner.get(f"{name}_interval")
                yield ProbeMetric(part, inner.get(name), interval, tests.get(part))
        elif isinstance(value, Mapping) and isinstance(interval, Mapping):
            for part, inner in value.items():
                yield from _keyed_metrics(key, title, part, inner, interval.get(part), tests)
        elif is_number(value) and (interval or key in _WITHOUT_INTERVAL):
            yield ProbeMetric(title, value, interval, tests.get(key))


def _keyed_metrics(
    key: str, title: str, part: str, value: Any, interval: Any, tests: Mapping[str, Any]
) -> Iterator[ProbeMetric]:
    """Yield the metrics in `knn: {"20": fraction}` or `fewshot: {"5": {"linear": fraction}}`."""
    if isinstance(value, Mapping) and isinstance(interval, Mapping):
        for method, fraction in value.items():
            test = tests.get(f"{method}@{part}")
            yield ProbeMetric(f"{method}, {part} per class", fraction, interval.get(method), test)
    elif is_number(value):
        yield ProbeMetric(f"{title}, k = {part}", value, interval, tests.get(f"{key}@{part}"))


def _results(run: ReportRun) -> list[dict[str, Any]]:
    results = (run.summary or {}).get("results")
    return [one for one in results if isinstance(one, dict)] if isinstance(results, list) else []


def _variant(result: dict[str, Any]) -> str:
    """Return what else distinguishes two results of a model on the same data."""
    names = ("gallery", "protocol", "kind")
    return next((f"{name} {result[name]}" for name in names if result.get(name)), "")


def _make_table(title: Sequence[str], results: Sequence[dict[str, Any]]) -> ProbeTable:
    columns = [{metric.title: metric for metric in probe_metrics(result)} for result in results]
    titles = dict.fromkeys(title for column in columns for title in column)
    images = results[0].get("n_test")
    counted = f"{images:,} images" if isinstance(images, int) else ""
    return ProbeTable(
        ", ".join(part for part in (*title, counted) if part),
        short_names([str(result.get("model")) for result in results]),
        [(title, [column.get(title) for column in columns]) for title in titles],
    )
