"""Runs of one kind are compared with each other; those that differ in nothing but their seed belong
together: what differs, means over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from statistics import fmean, stdev
from typing import Any

from gtacli.config.parts import BSSOptions, GTAOptions, L2SPOptions
from gtacli.report.runs import Run

# Where a run computed, what it was called and how often it was looked at; none of it is a method.
_ASIDE = {
    "out", "seed", "device", "workers", "nproc", "log", "cache", "resume", "overwrite",
    "knn_every", "previews_every",
}  # fmt: skip
MISSING = "–"
_OPTIONS = {"gta": GTAOptions, "l2-sp": L2SPOptions, "bss": BSSOptions}
_TITLES = {"finetune": "Fine-tuning", "pretrain": "Pre-training"}
# Of pre-training: what only says how maps are used, and where they come from.
_GUIDING = ("maps", "teacher", "teacher_size", "tau", "gamma")


@dataclass(frozen=True)
class Group:
    """Runs of one setting.

    Attributes:
        label: what the setting is called on the page.
        settings: text of every key that differs between the report's groups.
        runs: numbers of its runs in the report's order.
    """

    label: str
    settings: tuple[str, ...]
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """Runs of one command.

    Attributes:
        title: of the kind on the page.
        keys: in which its groups differ.
        groups: of its runs, in the order of their first.
        first: how many groups the kinds before have.
    """

    title: str
    keys: tuple[str, ...]
    groups: list[Group]
    first: int

    @property
    def runs(self) -> list[int]:
        """Numbers of its runs, group by group."""
        return [number for group in self.groups for number in group.runs]


@dataclass(frozen=True)
class Mean:
    """A mean over runs, with the sample standard deviation where there are several."""

    value: float
    deviation: float | None
    count: int


def kinds_of(runs: Sequence[Run]) -> list[Kind]:
    """The commands that made the runs, in the order of their first, each with its groups."""
    kinds: list[Kind] = []
    for command in dict.fromkeys(run.command for run in runs):
        own = [number for number, run in enumerate(runs) if run.command == command]
        keys, groups = grouped([runs[number] for number in own])
        keys = _columns(keys, groups)
        groups = [replace(group, runs=tuple(own[i] for i in group.runs)) for group in groups]
        first = sum(len(kind.groups) for kind in kinds)
        kinds.append(Kind(_TITLES.get(command, command), keys, groups, first))
    return kinds


def _columns(keys: tuple[str, ...], groups: Sequence[Group]) -> tuple[str, ...]:
    """Without where maps come from, if that is the same for all that are guided alike."""
    settings = [dict(zip(keys, group.settings, strict=True)) for group in groups]
    told = {key for one in settings for key in _telling("guide", one, settings)}
    return tuple(key for key in keys if key not in _GUIDING or key == "tau" or key in told)


def grouped(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[Group]]:
    """The keys in which the runs differ, and the groups in the order of their first runs."""
    settings = [settings_of(run) for run in runs]
    keys = [key for one in settings for key in one]
    differing = tuple(
        key for key in dict.fromkeys(keys) if len({one.get(key, MISSING) for one in settings}) > 1
    )
    members: dict[tuple[str, ...], list[int]] = {}
    for number, one in enumerate(settings):
        members.setdefault(tuple(one.get(key, MISSING) for key in differing), []).append(number)
    labels = _labels(differing, list(members), [runs[numbers[0]] for numbers in members.values()])
    groups = [
        Group(label, values, tuple(numbers))
        for label, (values, numbers) in zip(labels, members.items(), strict=True)
    ]
    return differing, groups


def run_labels(runs: Sequence[Run], groups: Sequence[Group]) -> list[str]:
    """A short name of each run: its group's, with the seed where there are several."""
    labels = [run.name for run in runs]
    for group in groups:
        seeds = [runs[number].config.get("seed") for number in group.runs]
        for number, seed in zip(group.runs, seeds, strict=True):
            if len(groups) > 1 and len(group.runs) == 1:
                labels[number] = group.label
            elif len(set(map(str, seeds))) == len(seeds):
                labels[number] = f"{group.label} · {seed}" if len(groups) > 1 else f"seed {seed}"
    return labels if len(set(labels)) == len(labels) else [run.name for run in runs]


def settings_of(run: Run) -> dict[str, str]:
    """What makes a run's method, as text: `regularizer` and `lam`, or `guide`, then the config's
    other keys."""
    config = dict(run.config)
    settings = {"command": run.command}
    if run.command == "pretrain":
        settings["guide"] = _guide(config)
    regularizer = config.pop("regularizer", None)
    if regularizer is not None:
        settings["regularizer"] = _names(regularizer)
        settings["lam"] = _lam(config.pop("lam", None), regularizer)
        if isinstance(regularizer, Mapping):
            for name, options in regularizer.items():
                if isinstance(options, Mapping):
                    own = {k: v for k, v in options.items() if k != "lam"}
                    settings |= {f"{name}.{k}": text(v) for k, v in flat(own)}
    settings |= {key: text(value) for key, value in flat(config) if key not in _ASIDE}
    return settings


def mean_of(values: Sequence[float]) -> Mean | None:
    """None without a value."""
    if not values:
        return None
    return Mean(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(`a.b`, value) of a nested mapping's leaves; an empty mapping is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def text(value: Any) -> str:
    """A setting's value for people."""
    if value is None or value == {} or value == []:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(text, value))
    return str(value)


def _guide(config: dict[str, Any]) -> str:
    """What guides a pre-training; of one that nothing guides, `config` loses what is said of it."""
    shuffled = ", shuffled" if config.get("shuffle_maps") else ""
    guide = config.pop("guide", None)
    if guide is None:
        guide = "maps" if config.get("maps") else "tokencut" if config.get("teacher") else "none"
    if guide == "none":
        masks = config.get("mask", "random") != "random"
        kept = ("maps", "teacher", "teacher_size") if masks else ()
        for key in {*_GUIDING} - {*kept}:
            config.pop(key, None)
    config.pop("shuffle_maps", None)
    return f"{guide}{shuffled}"


def _names(regularizer: Any) -> str:
    return " + ".join(map(str, regularizer)) or "none" if regularizer else "none"


def _lam(given: Any, regularizer: Any) -> str:
    """The strength of the first regulariser, its own default where none was given."""
    if not regularizer:
        return MISSING
    first = next(iter(regularizer))
    options = regularizer[first] if isinstance(regularizer, Mapping) else None
    if given is None and isinstance(options, Mapping):
        given = options.get("lam")
    if given is None and first in _OPTIONS:
        given = _OPTIONS[first]().lam
    return "default" if given is None else text(given)


def _labels(
    keys: Sequence[str], settings: Sequence[tuple[str, ...]], runs: Sequence[Run]
) -> list[str]:
    """`gta, lam 1, 15 %`: what says most, shortly. The strength, and what is said of a guide, only
    where it tells two of the same apart."""
    labels = []
    rivals = [dict(zip(keys, other, strict=True)) for other in settings]
    for rival, run in zip(rivals, runs, strict=True):
        quiet = {"lam"} - _telling("regularizer", rival, rivals)
        quiet |= {*_GUIDING} - _telling("guide", rival, rivals)
        named = {key: value for key, value in rival.items() if key not in quiet}
        parts = [part for pair in named.items() if (part := _short(*pair))]
        labels.append(", ".join(parts) or _alone(run))
    return labels


def _telling(method: str, one: Mapping[str, str], all_of: Sequence[Mapping[str, str]]) -> set[str]:
    """The keys that tell `one` from others of its method."""
    alike = [other for other in all_of if other.get(method) == one.get(method)]
    return {key for key in one if any(other.get(key) != one[key] for other in alike)}


def _alone(run: Run) -> str:
    """What a kind's only setting is called."""
    if run.command == "pretrain":
        return str(run.config.get("method", "pretrain"))
    return _names(run.config.get("regularizer"))


def _short(key: str, value: str) -> str:
    if value == MISSING:
        return ""
    if key in ("regularizer", "command", "method"):
        return value
    if key == "guide":
        return {"none": "no guide", "maps": "guided", "maps, shuffled": "shuffled maps"}.get(
            value, value
        )
    if key == "sampling_rate":
        return f"{value} %"
    if key in ("model", "source", "data", "init", "maps", "teacher"):
        value = PurePath(value).name or value
        return f"{key} {value}" if key in ("source", "maps", "teacher") else value
    return f"{key.replace('_', ' ')} {value}"
