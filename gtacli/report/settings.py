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
        head = config.get("train") == "head"
        settings["lam"] = _regularizer_lam(config.pop("lam", None), regularizer, head)
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


def _regularizer_lam(lam: Any, regularizer: Any, head: bool) -> str:
    """Return the strength of the first regularizer, by default its own default.

    That of GTA is decided by the training images then, so it is a result, which may differ by seed.

    Args:
        head: the head alone was trained, so that nothing was decided.
    """
    if not regularizer:
        return MISSING
    first = next(iter(regularizer))
    options = regularizer[first] if isinstance(regularizer, Mapping) else None
    if lam is None and isinstance(options, Mapping):
        lam = options.get("lam")
    if lam is None and first == "gta" and not head:
        return DECIDED
    if lam is None:
        lam = _default_lam(first)
    return "default" if lam is None else setting_text(lam)


def _default_lam(name: str) -> float | None:
    """Return a regularizer's own strength; None if it is no longer installed, or does not say."""
    try:
        options = REGULARIZERS.declared_options(name)
    except GtaError:
        return None
    return None if options is None else getattr(options(), "lam", None)
