"""Tables of results: one row per setting with means over its runs, and one row per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gtacli.report.groups import CommandRuns
from gtacli.report.metrics import Mean, ReportMetric, compute_mean, summary_metrics
from gtacli.report.run_folders import ReportRun
from gtacli.report.settings import MISSING, method_settings

_SETTING_TITLES = {"sampling_rate": "labels used, %"}


@dataclass(frozen=True)
class GroupRow:
    """The mean results of the runs of one setting.

    Attributes:
        color: number of its color.
        settings: values of the table's settings.
        means: one per metric; None where no run has the metric.
        runs: its runs.
    """

    color: int
    settings: list[str]
    means: list[Mean | None]
    runs: list[ReportRun]


@dataclass(frozen=True)
class ResultTable:
    """The results of the runs of one command.

    Attributes:
        title: heading; the page shows it if it has several tables.
        settings: titles of the columns with settings.
        metrics: the columns with results.
        best: the mean to mark in each column, None for none.
        groups: rows.
    """

    title: str
    settings: list[str]
    metrics: list[ReportMetric]
    best: list[float | None]
    groups: list[GroupRow]


def make_result_table(runs: Sequence[ReportRun], command: CommandRuns) -> ResultTable:
    """Make the table of one command's runs."""
    summaries = [runs[number].summary for number in command.runs]
    metrics = summary_metrics([summary for summary in summaries if summary is not None])
    keys = command.keys
    if not keys:
        settings = method_settings(runs[command.runs[0]])
        keys = tuple(key for key in ("regularizer", "guide") if key in settings)
    groups = []
    for group in command.groups:
        members = [runs[i] for i in group.runs]
        settings = method_settings(members[0])
        values = [[run.result(metric.key) for run in members] for metric in metrics]
        means = [compute_mean([v for v in column if v is not None]) for column in values]
        shown = [settings.get(k, MISSING) for k in keys]
        groups.append(GroupRow(group.color, shown, means, members))
    titles = [_SETTING_TITLES.get(key, key.replace("_", " ")) for key in keys]
    columns = zip(metrics, zip(*(group.means for group in groups), strict=True), strict=True)
    best = [
        max((mean.value for mean in means if mean is not None), default=None)
        if metric.mark_best and len(groups) > 1
        else None
        for metric, means in columns
    ]
    return ResultTable(command.title, titles, metrics, best, groups)
