"""How a run begins: its configuration, its folder, and what is written down of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from gtacli.config.base import build
from gtacli.config.finetune import FinetuneConfig
from gtacli.errors import GtaError, UsageError
from gtacli.training.runs import STATE_FILE, RunFolder, default_out, environment
from gtacli.training.setup import Job

log = logging.getLogger(__name__)

# What suits the demo's small network; whatever the user says wins.
DEMO = {"data": "demo", "model": "demo", "lr": 5e-4}
# Where and with what a resumed run computes; everything else is the run's own.
MAY_CHANGE = frozenset(
    ["resume", "device", "augment_device", "nproc", "workers", "cache", "log", "overwrite", "out"]
)


def begin(job: Job, run: RunFolder) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Write down what the run is; or, resumed, see that it is still the same.

    Returns: (its record, the state to go on from or None).

    Raises GtaError when the data or the weights are not those it began with, or not those of the
    other processes.
    """
    config, processes = job.config, job.processes
    record = {
        "command": "finetune",
        "config": config.model_dump(mode="json", exclude={"resume", "overwrite"}),
        "data": {"name": job.dataset.name, "fingerprint": job.dataset.fingerprint()},
        "model": {
            "spec": job.target.spec,
            "weights": str(job.target.report),
            "fingerprint": job.fingerprint,
        },
        "processes": processes.size,
        **environment(),
    }
    for what in ("data", "model"):
        if len(set(processes.gather(record[what]["fingerprint"]))) > 1:
            at = getattr(config, what)
            raise GtaError(f"--{what}: {at} is not the same for every process (on every node)")
    if config.resume is None:
        run.clear()
        run.write_json("run.json", record)
        run.write_json("split.json", job.split.to_json())
        return record, None
    before = run.read_json("run.json")
    for what in ("data", "model"):
        if before[what]["fingerprint"] != record[what]["fingerprint"]:
            at = getattr(config, what)
            raise GtaError(f"--resume: the {what} at {at} is not what the run began with")
    # While it still chose its strength, the candidates had states and the run had none.
    choosing = config.lam == "auto" and not run.has(STATE_FILE)
    return record, None if choosing else run.read_state()


def folder_of(config: FinetuneConfig) -> Path:
    """Where the run is written. Raises UsageError for a new run in a used folder."""
    path = config.resume or config.out or default_out("finetune")
    if config.resume is None:
        RunFolder(path).check_free(config.overwrite)
    return path


def with_demo(config: FinetuneConfig) -> FinetuneConfig:
    """The built-in set and its source where neither data nor model is given.

    Raises UsageError when only one of them is.
    """
    if config.data is None and config.model is None:
        log.warning("no --data and no --model: the built-in demo set and its source model")
        missing = {k: v for k, v in DEMO.items() if k not in config.model_fields_set}
        return config.model_copy(update=missing)
    if config.data is None:
        raise UsageError("--data: say what to train on: a folder, a .csv, demo, ...")
    if config.model is None:
        raise UsageError("--model: say what to start from, e.g. vit_small_patch16_224.dino")
    return config


def resumed_config(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration of the run that `config.resume` names; as it is where it names none.

    Where it computes may change (device, augment_device, processes, workers, cache); everything
    else is the run's own.

    Raises UsageError for a key that is set to something else than the run had.
    """
    if config.resume is None:
        return config
    recorded = RunFolder(config.resume).read_json("run.json")
    if recorded.get("command") != "finetune" or "data" not in recorded:
        raise UsageError(f"--resume: {config.resume} is no run of gta finetune")
    before = build(FinetuneConfig, recorded.get("config", {}), f"--resume: {config.resume}:")
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
