"""How a run begins: its configuration, its folder, and what is written down of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gtacli.config.base import build
from gtacli.config.training import TrainingConfig
from gtacli.data.base import ImageDataset
from gtacli.errors import GtaError, UsageError
from gtacli.models.loading import LoadedModel
from gtacli.runtime.run_folder import RunFolder, default_out, environment

Config = TypeVar("Config", bound=TrainingConfig)

# Where and with what a resumed run computes; everything else is the run's own.
MAY_CHANGE = frozenset(
    ["resume", "device", "augment_device", "nproc", "workers", "cache", "log", "overwrite", "out"]
)


def record_of(
    command: str,
    config: TrainingConfig,
    dataset: ImageDataset,
    model: LoadedModel,
    fingerprint: str,
    processes: int,
) -> dict[str, Any]:
    """What run.json says of a run.

    Args:
        fingerprint: of the weights that it starts from.
        processes: that share it.
    """
    return {
        "command": command,
        "config": config.model_dump(mode="json", exclude={"resume", "overwrite"}),
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint()},
        "model": {"spec": model.spec, "weights": str(model.report), "fingerprint": fingerprint},
        "processes": processes,
        **environment(),
    }


def begin(
    run: RunFolder,
    config: TrainingConfig,
    record: dict[str, Any],
    split: Mapping[str, Any],
    identity: tuple[str, ...] = ("data", "model"),
) -> None:
    """Write down what the run is; or, resumed, see that it is still the same.

    Args:
        record: see `record_of`.
        split: the content of split.json.
        identity: what of the record has a fingerprint, named as its option.

    Raises GtaError when one of them is not what the run began with, or not the other processes'.
    """
    for what in identity:
        if len(set(run.processes.gather(record[what]["fingerprint"]))) > 1:
            at = getattr(config, what)
            raise GtaError(f"--{what}: {at} is not the same for every process (on every node)")
    if config.resume is None:
        run.clear()
        run.write_json("run.json", record)
        run.write_json("split.json", split)
        return
    before = run.read_json("run.json")
    for what in identity:
        if before[what]["fingerprint"] != record[what]["fingerprint"]:
            at = getattr(config, what)
            raise GtaError(f"--resume: the {what} at {at} is not what the run began with")


def folder_of(config: TrainingConfig, command: str) -> Path:
    """Where the run is written. Raises UsageError for a new run in a used folder."""
    path = config.resume or config.out or default_out(command)
    if config.resume is None:
        RunFolder(path).check_free(config.overwrite)
    return path


def resumed_config(config: Config, command: str) -> Config:
    """The configuration of the run of `command` that `config.resume` names; as it is where it names
    none.

    Where it computes may change (device, augment_device, processes, workers, cache); everything
    else is the run's own.

    Raises UsageError for a key that is set to something else than the run had.
    """
    if config.resume is None:
        return config
    recorded = RunFolder(config.resume).read_json("run.json")
    if recorded.get("command") != command or "data" not in recorded:
        raise UsageError(f"--resume: {config.resume} is no run of gta {command}")
    before = build(type(config), recorded.get("config", {}), source=f"{config.resume}/run.json")
    if config.out is not None and config.out != config.resume:
        raise UsageError("--resume: the run goes on in its own folder; leave out --out")
    for key in config.model_fields_set - MAY_CHANGE:
        if getattr(config, key) != getattr(before, key):
            raise UsageError(
                f"--resume: {key.replace('_', '-')} was {getattr(before, key)} in "
                f"{config.resume}; a resumed run keeps its configuration"
            )
    moved = {k: getattr(config, k) for k in config.model_fields_set & MAY_CHANGE}
    return before.model_copy(update=moved)
