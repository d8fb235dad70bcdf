"""Groups of runs: runs of one command are compared; runs that differ only in their seed average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from gtacli.report.run_folders import ReportRun
from gtacli.report.settings import DECIDED, GUIDING, MISSING, method_settings, regularizer_names

_TITLES = {"finetune": "Fine-tuning", "pretrain": "Pre-training"}
COLORS = 10
"""Number of colors of the page's style sheet, `c0` to `c9`."""
_OWN_COLORS = {"none": 0, "gta": 1}
"""The colors of plain fine-tuning and GTA in every report, by regularizer."""


@dataclass(frozen=True)
class SettingGroup:
    """Runs with equal settings except for the seed.

    Attributes:
        label: short name of the settings on the page.
        settings: values of the settings in which the groups differ.
        runs: indices of the runs in the report.
        color: number of its color, from 0; it does not depend on the order of the runs.
    """

    label: str
    settings: tuple[str, ...]
    runs: tuple[int, ...]
    color: int = 0


@dataclass(frozen=True)
class CommandRuns:
    """The runs of one command.

    Attributes:
        title: heading on the page.
        keys: the settings in which the groups differ.
        groups: in the order of their first runs.
    """

    title: str
    keys: tuple[str, ...]
    groups: list[SettingGroup]

    @property
    def runs(self) -> list[int]:
        """The indices of the runs, group by group."""
        return [number for group in self.groups for number in group.runs]


def group_by_command(runs: Sequence[ReportRun]) -> list[CommandRuns]:
    """Group runs by command, in the order of their first runs, and within it by settings."""
    commands: list[CommandRuns] = []
    for command in dict.fromkeys(run.command for run in runs):
        own = [number for number, run in enumerate(runs) if run.command == command]
        keys, groups = group_by_settings([runs[number] for number in own])
        keys = _without_map_sources(keys, groups)
        groups = [replace(group, runs=tuple(own[i] for i in group.runs)) for group in groups]
        commands.append(CommandRuns(_TITLES.get(command, command), keys, groups))
    colors = _choose_colors(runs, commands)
    return [
        replace(command, groups=[replace(g, color=colors[g.runs]) for g in command.groups])
        for command in commands
    ]


def _choose_colors(
    runs: Sequence[ReportRun], commands: Sequence[CommandRuns]
) -> dict[tuple[int, ...], int]:
    """Return the color of each group by its runs, whatever the order of the runs.

    The first group of plain fine-tuning and of GTA has the method's own color. The others have
    those that are left, in the order of their settings.
    """
    pairs = [(runs[group.runs[0]], group.runs) for c in commands for group in c.groups]
    pairs.sort(key=lambda pair: _rank(pair[0]))
    colors: dict[tuple[int, ...], int] = {}
    for run, numbers in pairs:
        own = _OWN_COLORS.get(regularizer_names(run.config.get("regularizer")))
        if run.command == "finetune" and own is not None and own not in colors.values():
            colors[numbers] = own
    free = [c for c in range(COLORS) if c not in _OWN_COLORS.values()]
    rest = [numbers for _, numbers in pairs if numbers not in colors]
    return colors | {numbers: free[i % len(free)] for i, numbers in enumerate(rest)}


def _rank(run: ReportRun) -> tuple[str, bool, list[tuple[str, str]]]:
    settings = method_settings(run)
    return run.command, settings.get("lam") != DECIDED, sorted(settings.items())


def _without_map_sources(keys: tuple[str, ...], groups: Sequence[SettingGroup]) -> tuple[str, ...]:
    """Drop the origin of the maps unless it differs between runs with the same guide."""
    settings = [dict(zip(keys, group.settings, strict=True)) for group in groups]
    differing = {key for one in settings for key in _differing_keys("guide", one, settings)}
    return tuple(key for key in keys if key not in GUIDING or key == "tau" or key in differing)


def group_by_settings(
    runs: Sequence[ReportRun],
) -> tuple[tuple[str, ...], list[SettingGroup]]:
    """Return the settings in which the runs differ, and the groups in order of their first runs."""
    settings = [method_settings(run) for run in runs]
    keys = [key for one in settings for key in one]
    differing = tuple(
        key for key in dict.fromkeys(keys) if len({one.get(key, MISSING) for one in settings}) > 1
    )
    members: dict[tuple[str, ...], list[int]] = {}
    for number, one in enumerate(settings):
        members.setdefault(tuple(one.get(key, MISSING) for key in differing), []).append(number)
    first_runs = [runs[numbers[0]] for numbers in members.values()]
    labels = _group_labels(differing, list(members), first_runs)
    groups = [
        SettingGroup(label, values, tuple(numbers))
        for label, (values, numbers) in zip(labels, members.items(), strict=True)
    ]
    return differing, groups


def label_runs(runs: Sequence[ReportRun], groups: Sequence[SettingGroup]) -> list[str]:
    """Return a short name for each run: its group's label and, in groups of several, the seed."""
    labels = [run.name for run in runs]
    for group in groups:
        seeds = [runs[number].config.get("seed") for number in group.runs]
        for number, seed in zip(group.runs, seeds, strict=True):
            if len(groups) > 1 and len(group.runs) == 1:
                labels[number] = group.label
            elif len(set(map(str, seeds))) == len(seeds):
                labels[number] = f"{group.label} · {seed}" if len(groups) > 1 else f"seed {seed}"
    return labels if len(set(labels)) == len(labels) else [run.name for run in runs]


def _group_labels(
    keys: Sequence[str], settings: Sequence[tuple[str, ...]], runs: Sequence[ReportRun]
) -> list[str]:
    """Return labels such as "gta, lam 1, 15 %".

    `lam` and the options of a guide appear only if they distinguish groups with the same method.
    """
    labels = []
    groups = [dict(zip(keys, values, strict=True)) for values in settings]
    for group, run in zip(groups, runs, strict=True):
        hidden = {"lam"} - _differing_keys("regularizer", group, groups)
        hidden |= {*GUIDING} - _differing_keys("guide", group, groups)
        shown = {key: value for key, value in group.items() if key not in hidden}
        parts = [part for pair in shown.items() if (part := _short_setting(*pair))]
        labels.append(", ".join(parts) or _method_name(run))
    return labels


def _differing_keys(
    method: str, one: Mapping[str, str], groups: Sequence[Mapping[str, str]]
) -> set[str]:
    """Return the keys in which `one` differs from groups with the same value of `method`."""
    alike = [other for other in groups if other.get(method) == one.get(method)]
    return {key for key in one if any(other.get(key) != one[key] for other in alike)}


def _method_name(run: ReportRun) -> str:
    if run.command == "pretrain":
        return str(run.config.get("method", "pretrain"))
    return regularizer_names(run.config.get("regularizer"))


def _short_setting(key: str, value: str) -> str:
    if value == MISSING:
        return ""
    if key in ("regularizer", "command", "method"):
        return value
    if key == "guide":
        names = {"none": "no guide", "maps": "guided", "maps, shuffled": "shuffled maps"}
        return names.get(value, value)
    if key == "sampling_rate":
        return f"{value} %"
    if key in ("model", "source", "data", "init", "maps", "teacher"):
        value = PurePath(value).name or value
        return f"{key} {value}" if key in ("source", "maps", "teacher") else value
    return f"{key.replace('_', ' ')} {value}"
