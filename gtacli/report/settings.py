"""The settings of a run as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gtacli.errors import GtaError
from gtacli.registry import REGULARIZERS
from gtacli.report.run_folders import ReportRun

MISSING = "–"
GUIDING = ("maps", "teacher", "teacher_size", "tau", "gamma")
"""Options of pre-training that say where maps come from and how they are used."""
# Machine, folder and logging; they do not change the method.
_NOT_METHOD = {
    "out", "seed", "device", "workers", "nproc", "log", "cache", "resume", "overwrite",
    "knn_every", "previews_every",
}  # fmt: skip
DECIDED = "by the images"
"""The value of `lam` where the program decides."""


def method_settings(run: ReportRun) -> dict[str, str]:
    """Return the settings that define a run's method, as text.

    `regularizer` and `lam`, or `guide`, come first, then the other keys of the config.
    """
    config = dict(run.config)
    settings = {"command": run.command}
    if run.command == "pretrain":
        settings["guide"] = _pop_guide(config)
    regularizer = config.pop("regularizer", None)
    if regularizer is not None:
        settings["regularizer"] = regularizer_names(regularizer)
        settings |= _strengths(run, config.pop("lam", None), regularizer)
        if isinstance(regularizer, Mapping):
            for name, options in regularizer.items():
                if isinstance(options, Mapping):
                    own = {k: v for k, v in options.items() if k != "lam"}
                    settings |= {f"{name}.{k}": setting_text(v) for k, v in flatten(own)}
    others = ((key, value) for key, value in flatten(config) if key not in _NOT_METHOD)
    return settings | {key: setting_text(value) for key, value in others}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ("a.b", value) for every leaf of a nested mapping; an empty mapping is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def setting_text(value: Any) -> str:
    """Format the value of a setting for display."""
    if value is None or value == {} or value == []:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(setting_text, value))
    return str(value)


def regularizer_names(regularizer: Any) -> str:
    """Return the names of the regularizers in a config, joined by " + "; "none" without any."""
    return " + ".join(map(str, regularizer)) or "none" if regularizer else "none"


def _pop_guide(config: dict[str, Any]) -> str:
    """Remove `guide` and `shuffle_maps` and return them as text.

    Without a guide, also remove the options that have no effect then.
    """
    shuffled = ", shuffled" if config.pop("shuffle_maps", None) else ""
    guide = config.pop("guide", None)
    if guide is None:
        guide = "maps" if config.get("maps") else "tokencut" if config.get("teacher") else "none"
    if guide == "none":
        masks = config.get("mask", "random") != "random"
        used = ("maps", "teacher", "teacher_size") if masks else ()
        for key in {*GUIDING} - {*used}:
            config.pop(key, None)
    return f"{guide}{shuffled}"


def _strengths(run: ReportRun, lam: Any, regularizer: Any) -> dict[str, str]:
    """Return `lam` of the first regularizer, and `NAME.lam` of every other one, as text.

    That of GTA is decided by the training images by default, so it is a result, which may differ by
    seed; with the head alone nothing is decided.
    """
    if not regularizer:
        return {"lam": MISSING}
    recorded = run.section("resolved").get("strengths")
    found: dict[str, str] = {}
    for number, name in enumerate(map(str, regularizer)):
        options = regularizer[name] if isinstance(regularizer, Mapping) else None
        own = None if number else lam
        if own is None and isinstance(options, Mapping):
            own = options.get("lam")
        if own is None and name == "gta" and not number and run.config.get("train") != "head":
            own = DECIDED
        if own is None and isinstance(recorded, Mapping):
            own = recorded.get(name)
        if own is None:
            own = _default_lam(name)
        found[f"{name}.lam" if number else "lam"] = "default" if own is None else setting_text(own)
    return found


def _default_lam(name: str) -> float | None:
    """Return a regularizer's own strength; None if it is no longer installed, or does not say."""
    try:
        options = REGULARIZERS.options(name)
        return None if options is None else getattr(options(), "lam", None)
    except (GtaError, ValueError):  # options without a default
        return None
