"""What `gta probe` found, as tables: a row a figure, and of each model its value, its interval, and
how much more it is than the reference's, with the p of the paired test.

A result says by itself what its figures are: `NAME` with `NAME_interval` beside it, alone or by
some key. So this knows the probes by nothing but the names of their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from gtacli.models.names import short_names
from gtacli.report.runs import Run

_LABELS = {
    "map": "mAP",
    "top1": "top 1",
    "top5": "top 5",
    "knn": "k-NN",
    "bg_gap": "BG-Gap",
    "fg_consistency": "same answer",
    "shape_bias": "shape bias",
    "by_shape": "told by shape",
    "by_texture": "told by texture",
}
_BARE = ("by_shape", "by_texture")
"""Figures without an interval."""
_NESTED = {"variants": "top1"}
"""Figures whose parts have figures of their own, of which one is shown."""


class Row(NamedTuple):
    """One figure of one result; `test` is what `compared` says of it."""

    label: str
    value: float | None
    interval: Sequence[float | None] | None
    test: Mapping[str, Any] | None


def is_probe(run: Run) -> bool:
    return run.command.startswith("probe ")


def probe_tables(probes: Sequence[Run]) -> str:
    """HTML; a table for each task and data set."""
    tables: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for run in probes:
        for result in _results(run):
            title = str(result.get("task")), str(result.get("data") or ""), _kind(result)
            tables.setdefault(title, {})[str(result.get("model"))] = result
    found = "".join(_table(title, [*by_model.values()]) for title, by_model in tables.items())
    return f'<section id="probes"><h2>Probes</h2>{found}</section>' if found else ""


def rows_of(result: Mapping[str, Any]) -> Iterator[Row]:
    """The figures of a result."""
    tests = result.get("compared")
    tests = tests if isinstance(tests, Mapping) else {}
    for key, value in result.items():
        interval, label = result.get(f"{key}_interval"), _LABELS.get(key, key)
        if key in _NESTED and isinstance(value, Mapping):
            name = _NESTED[key]
            for part, of in value.items():
                yield Row(part, of.get(name), of.get(f"{name}_interval"), tests.get(part))
        elif isinstance(value, Mapping) and isinstance(interval, Mapping):
            for part, of in value.items():
                yield from _parts(key, label, part, of, interval.get(part), tests)
        elif isinstance(value, int | float) and (interval or key in _BARE):
            yield Row(label, value, interval, tests.get(key))


def _parts(
    key: str, label: str, part: str, value: Any, interval: Any, tests: Mapping[str, Any]
) -> Iterator[Row]:
    """Of `knn: {"20": share}` and `fewshot: {"5": {"linear": share}}`."""
    if isinstance(value, Mapping) and isinstance(interval, Mapping):
        for method, share in value.items():
            test = tests.get(f"{method}@{part}")
            yield Row(f"{method}, {part} a class", share, interval.get(method), test)
    elif isinstance(value, int | float):
        yield Row(f"{label}, k = {part}", value, interval, tests.get(f"{key}@{part}"))


def _results(run: Run) -> list[dict[str, Any]]:
    found = (run.summary or {}).get("results")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _kind(result: dict[str, Any]) -> str:
    """What else makes two results of a model on the same data different ones."""
    gallery, protocol = result.get("gallery"), result.get("protocol")
    return f"gallery {gallery}" if gallery else f"protocol {protocol}" if protocol else ""


def _table(title: Sequence[str], results: Sequence[dict[str, Any]]) -> str:
    """Empty for results without a figure of this form."""
    columns = [{row.label: row for row in rows_of(result)} for result in results]
    labels = dict.fromkeys(label for column in columns for label in column)
    if not labels:
        return ""
    names = short_names([str(result.get("model")) for result in results])
    head = "".join(
        f'<th scope="col">{escape(name)} <span class="faint">%</span></th>' for name in names
    )
    body = "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        + "".join(_cell(column.get(label)) for column in columns)
        + "</tr>"
        for label in labels
    )
    images = results[0].get("n_test")
    counted = f"{images:,} images" if isinstance(images, int) else ""
    heading = ", ".join(part for part in (*title, counted) if part)
    return (
        f"<h3>{escape(heading)}</h3>"
        '<div class="scroll"><table class="results">'
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(row: Row | None) -> str:
    if row is None or row.value is None:
        return '<td class="none">–</td>'
    shown = f"{100 * row.value:.1f}"
    ends = row.interval or ()
    if len(ends) == 2 and None not in ends:
        low, high = (f"{100 * end:.1f}" for end in ends if end is not None)
        shown += f' <span class="faint">{low} to {high}</span>'
    if row.test and isinstance(row.test.get("difference"), int | float):
        p = row.test.get("p")
        told = f"{100 * row.test['difference']:+.1f}"
        if isinstance(p, int | float):
            told += ", p < 0.001" if p < 0.001 else f", p = {p:.3f}"
        shown += f'<br><span class="faint">{escape(told)}</span>'
    return f"<td>{shown}</td>"
