"""Tables of results: one row per setting with means over its runs, and one row per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gtacli.report.groups import CommandRuns
from gtacli.report.metrics import (
    ReportMetric,
    compute_mean,
    format_deviation,
    format_number,
    summary_metrics,
)
from gtacli.report.run_folders import ReportRun
from gtacli.report.settings import MISSING, method_settings

_SETTING_TITLES = {"sampling_rate": "labels used, %"}


class ResultCell(NamedTuple):
    """One number of a table; "" as value for a missing one."""

    value: str
    deviation: str = ""
    best: bool = False


@dataclass(frozen=True)
class RunRow:
    """The results of one run.

    Attributes:
        name: name of the run's folder.
        seed: its seed.
        incomplete: completed and planned epochs as text; "" for a complete run.
        cells: one per metric.
    """

    name: str
    seed: str
    incomplete: str
    cells: list[ResultCell]


@dataclass(frozen=True)
class GroupRow:
    """The mean results of the runs of one setting.

    Attributes:
        number: index of the group in the report, which selects its color.
        settings: values of the table's settings.
        count: number of runs.
        cells: one per metric.
        runs: rows of the runs; empty if a single complete run is the group.
    """

    number: int
    settings: list[str]
    count: int
    cells: list[ResultCell]
    runs: list[RunRow]


@dataclass(frozen=True)
class ResultTable:
    """The results of the runs of one command.

    Attributes:
        title: heading; the page shows it if it has several tables.
        settings: titles of the columns with settings.
        metrics: the columns with results.
        groups: rows.
    """

    title: str
    settings: list[str]
    metrics: list[ReportMetric]
    groups: list[GroupRow]


def make_result_table(runs: Sequence[ReportRun], command: CommandRuns) -> ResultTable:
    """Make the table of one command's runs."""
    summaries = [runs[number].summary for number in command.runs]
    metrics = summary_metrics([summary for summary in summaries if summary is not None])
    keys = command.keys
    if not keys:
        settings = method_settings(runs[command.runs[0]])
        keys = tuple(key for key in ("regularizer", "guide") if key in settings)
    members = [[runs[number] for number in group.runs] for group in command.groups]
    columns = [_mean_cells(metric, members) for metric in metrics]
    groups = []
    for g, group in enumerate(command.groups):
        values = method_settings(members[g][0])
        split = len(members[g]) > 1 or members[g][0].summary is None
        groups.append(
            GroupRow(
                command.first + g,
                [values.get(key, MISSING) for key in keys],
                len(members[g]),
                [column[g] for column in columns],
                [_run_row(runs[number], metrics) for number in group.runs] if split else [],
            )
        )
    titles = [_SETTING_TITLES.get(key, key.replace("_", " ")) for key in keys]
    return ResultTable(command.title, titles, metrics, groups)


def _mean_cells(metric: ReportMetric, groups: Sequence[Sequence[ReportRun]]) -> list[ResultCell]:
    """Return a metric's cell in each group; the largest of several means is the best."""
    means = [compute_mean([*filter(_is_number, _values(metric, runs))]) for runs in groups]
    best = max((mean.value for mean in means if mean is not None), default=None)
    marked = metric.mark_best and len(groups) > 1
    return [
        ResultCell("")
        if mean is None
        else ResultCell(
            format_number(mean.value, metric.percent),
            format_deviation(mean, metric.percent),
            marked and mean.value == best,
        )
        for mean in means
    ]


def _run_row(run: ReportRun, metrics: Sequence[ReportMetric]) -> RunRow:
    done, epochs = run.epochs
    incomplete = f"{done} of {epochs or '?'} epochs" if run.summary is None else ""
    values = [_values(metric, [run])[0] for metric in metrics]
    cells = [
        ResultCell(format_number(value, metric.percent) if _is_number(value) else "")
        for metric, value in zip(metrics, values, strict=True)
    ]
    return RunRow(run.name, str(run.config.get("seed")), incomplete, cells)


def _values(metric: ReportMetric, runs: Sequence[ReportRun]) -> list[Any]:
    return [(run.summary or {}).get(metric.key) for run in runs]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)
