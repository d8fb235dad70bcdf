"""`gta finetune`: from a validated config to a run folder and a summary."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict
from typing import Any

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.base import Record
from gtacli.errors import UsageError
from gtacli.finetuning.attention_track import last_block
from gtacli.finetuning.per_class import log_balance
from gtacli.finetuning.phases import run_phase, test
from gtacli.finetuning.prepare import Job, Kept, prepare
from gtacli.finetuning.search import SEARCH_FILE, Search, choices, require_search, search
from gtacli.runtime.distribution import Processes, join_processes
from gtacli.runtime.run_files import STATE_FILE
from gtacli.runtime.run_folder import RunFolder, median_rate
from gtacli.training.begin import begin, folder_of, record_of, resumed_config
from gtacli.training.loggers import Loggers
from gtacli.training.loop import Observer, Unobserved
from gtacli.training.state import Progress

log = logging.getLogger(__name__)

# What suits the demo's small network; whatever the user says wins.
DEMO = {"data": "demo", "model": "demo", "lr": 5e-4}


def finetune(
    config: FinetuneConfig,
    observer: Observer,
    dry_run: bool = False,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Fine-tune a ViT and return the summary that also lies in the run folder.

    Args:
        config: validated; see its fields.
        observer: is told of steps and epochs; of several processes the first one's is.
        dry_run: one batch of every phase, nothing written.
        processes: that share the run; None: those that torchrun has started, which all call this.

    Raises:
        GtaError: anything found wrong before the first step.
        RunError, Interrupted: see `training.loop.fit`.
        PeerLost: another process has ended.
    """
    if processes is None:
        with join_processes() as processes:
            return finetune(config, observer, dry_run, processes)
    if not processes.is_main:
        observer = Unobserved()
    started = time.perf_counter()
    given = config
    config = with_demo(processes.run_on_main(lambda: resumed_config(given, "finetune")))
    idle = config.freeze_epochs + config.warmup
    if dry_run:  # one epoch of each kind
        config = config.model_copy(update={"freeze_epochs": min(config.freeze_epochs, 1)})
    observer = loggers = Loggers(config.log, observer, config.epochs)
    if dry_run or not processes.is_main:
        loggers.active.clear()
    run = RunFolder(
        processes.run_on_main(lambda: folder_of(config, "finetune")), dry_run, processes
    )
    job = prepare(config, processes=processes)
    log_balance(job.split.info["classes"])
    if config.track_attention and not job.split.val:
        log.warning("--track-attention: no image is held out, so there is nothing to track")
    if config.lam == "auto":
        require_search(config.epochs, config.regularizer, len(job.split.val), idle)
    job.compute.reset_peak_memory()
    fingerprint = job.fingerprint
    record = record_of("finetune", config, job.dataset, job.target, fingerprint, processes.size)
    begin(run, config, record, job.split.to_json())
    # While it still chose its strength, the candidates had states and the run had none.
    choosing = config.lam == "auto" and not run.has(STATE_FILE)
    state = None if config.resume is None or choosing else run.read_state()
    loggers.start(record["config"], run.path)
    found: Search | None = None
    if config.lam == "auto":
        kept, held_out = job.kept, job.split.val
        del job  # its networks and its optimiser
        found = _search(config, kept, held_out, run, dry_run)
        config = config.model_copy(update={"lam": found.chosen})
        job = prepare(config, kept=kept, processes=processes)
        state = None if dry_run else run.read_state()
        loggers.catch_up(json.loads(state["rows"]) if state else [])
    progress = Progress() if state is None else Progress(**state["progress"])
    if progress.phase == "train":
        progress = run_phase(job, run, observer, progress, state, dry_run)
        state = None
        if config.refit and job.split.info["validation"] == "held-out":
            chosen = {"best_epoch": progress.best_epoch, "val_top1": progress.best_score}
            progress = Progress("refit", rows=progress.rows, chosen=chosen)
    if progress.phase == "refit":
        kept = job.kept
        del job
        job = prepare(config, refit=True, kept=kept, processes=processes)
        progress = run_phase(job, run, observer, progress, state, dry_run)
    summary = summarise(job, run, progress, started, dry_run)
    if found is not None:
        summary |= {"lam": found.chosen, "lam_search": asdict(found)}
    run.write_json("summary.json", summary)
    loggers.finish(summary)
    return summary


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


def _search(
    config: FinetuneConfig, kept: Kept, held_out: tuple[Record, ...], run: RunFolder, dry_run: bool
) -> Search:
    """The strength that `--lam auto` chose before, or chooses now; the run then goes on from the
    state that the winner reached."""
    if config.resume is not None and run.has(SEARCH_FILE):
        return Search(**run.read_json(SEARCH_FILE))

    def train(lam: float, folder: RunFolder, stop: int) -> list[dict[str, Any]]:
        job = prepare(config.model_copy(update={"lam": lam}), kept=kept, processes=run.processes)
        state = folder.read_state() if folder.has(STATE_FILE) else None
        return run_phase(job, folder, Unobserved(), Progress(), state, dry_run, stop).rows

    candidates = choices(next(iter(config.regularizer)))
    found = search(candidates, config.epochs, lambda: kept.readable(held_out), run, train)
    log.log(logging.INFO if found.chosen else logging.WARNING, found.report(config.epochs))
    return found


def summarise(
    job: Job, run: RunFolder, progress: Progress, started: float, dry_run: bool
) -> dict[str, Any]:
    """The result: what the test says of the weights that were kept, and what they cost."""
    config = job.config
    epochs_run = sum("phase" not in row for row in progress.rows)  # a refit's rows have one
    summary: dict[str, Any] = {
        "command": "finetune",
        "run": str(run.path),
        **test(job, run, dry_run),
        "n_train": job.kept.readable(job.train),
        "n_val": job.kept.readable(job.split.val),
        "n_test": job.kept.readable(job.split.test),
        "epochs": config.epochs,
        "epochs_run": epochs_run,
        "stopped_early": epochs_run < config.epochs and not dry_run,
        "best_epoch": progress.best_epoch,
        "val_top1": (progress.chosen or {}).get("val_top1", progress.best_score),
        "attention_drift": _kept_row(progress).get("attention_drift"),
        **(_health(progress) if config.track_attention else {}),
        "seconds": round(time.perf_counter() - started, 2),
        "images_per_second": median_rate(progress.rows),
        "peak_memory_mb": round(max(job.processes.gather(job.compute.peak_memory_mb())), 1),
    }
    if job.kept.skipped():
        summary["skipped"] = len(job.kept.skipped())
    if dry_run:
        summary["dry_run"] = True
    return summary


def _kept_row(progress: Progress) -> dict[str, Any]:
    """Of the weights that were kept: the last row of their epoch."""
    kept = [r for r in progress.rows if r["epoch"] == progress.best_epoch]
    return kept[-1] if kept else {}


def _health(progress: Progress) -> dict[str, Any]:
    """What --track-attention says of them: the last block's share inside the objects, and theirs of
    the area."""
    figures = _kept_row(progress).get("attention")
    area = None if figures is None else figures["area"]
    return {"attention_inside": last_block(figures), "attention_area": area}
