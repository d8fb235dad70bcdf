"""The configuration of a run that is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from gtacli.config.base import build
from gtacli.config.training import TrainingConfig
from gtacli.errors import UsageError
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.secrets import MASK, mask_values
from gtacli.training.record import read_record

Config = TypeVar("Config", bound=TrainingConfig)

# What a resumed run may change: where it computes. Everything else was fixed when it began.
MAY_CHANGE = frozenset(
    ["device", "augment_device", "nproc", "shard_model", "workers", "cache", "log", "out"]
)
AUTO = Path("auto")
# What is said of one command and is not recorded.
NOT_RECORDED = frozenset(["resume", "overwrite", "allow_fetch"])


def resumed_config(config: Config, command: str) -> Config:
    """Return the configuration of the run of `command` that `config.resume` names.

    Without `resume` it is `config`; so it is with `auto` where `out` holds no run. Where the run
    computes may change (`MAY_CHANGE`); everything else was fixed when the run began.

    Raises UsageError for a key that is set to another value than the run had.
    """
    if config.resume == AUTO:
        config = _requeued(config)
    run = config.resume
    if run is None:
        return config
    folder = RunFolder(run)
    if folder.is_unused():
        text = f"{run} has no record of a run; start it by its own command"
        raise UsageError(text, option="resume")
    recorded = read_record(folder, command)
    if recorded.get("command") != command:
        raise UsageError(f"{run} is not a run of gta {command}", option="resume")
    values = {**config.before, **recorded["config"]}
    before = build(type(config), values, source=f"{run}/run.json")
    if config.out is not None and config.out != run:
        raise UsageError("a resumed run stays in its folder; leave out `out`", option="resume")
    secret = {k for k in type(config).model_fields if _is_masked(getattr(before, k))}
    if missing := sorted(secret - config.model_fields_set - MAY_CHANGE - NOT_RECORDED):
        text = f"`{missing[0]}` stands in {run} without its credentials; name it again"
        raise UsageError(text, option="resume")
    for key in config.model_fields_set - MAY_CHANGE - NOT_RECORDED:
        if key in secret and mask_values(getattr(config, key)) == getattr(before, key):
            before = before.model_copy(update={key: getattr(config, key)})
        elif getattr(config, key) != getattr(before, key):
            text = f"`{key}` was {getattr(before, key)} in {run}; a resumed run keeps its options"
            raise UsageError(text, option="resume")
    moved = {k: getattr(config, k) for k in config.model_fields_set & MAY_CHANGE}
    said = {k: getattr(config, k) for k in NOT_RECORDED}  # whatever the record says
    return before.model_copy(update={**moved, **said})


def _requeued(config: Config) -> Config:
    """Return a config that continues the run in `out`, or begins it."""
    if config.out is None:
        raise UsageError("auto: name the run's folder with `out`", option="resume")
    begun = (config.out / "run.json").is_file()
    return config.model_copy(update={"resume": config.out if begun else None})


def _is_masked(value: Any) -> bool:
    """Return whether a recorded option is a URL whose credentials were left out."""
    return isinstance(value, str) and "://" in value and MASK in value
