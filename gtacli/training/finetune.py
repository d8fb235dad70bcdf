"""`gta finetune`: from a validated config to a run folder and a summary."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gtacli.config.base import build
from gtacli.config.finetune import FinetuneConfig
from gtacli.data.base import Record
from gtacli.data.loader import Batch, make_loader
from gtacli.data.transforms import EvalTransform
from gtacli.errors import GtaError, UsageError
from gtacli.models.weights import WEIGHTS_FILE, read_weights
from gtacli.training.classes import log_balance, worst_classes
from gtacli.training.devices import choose_workers
from gtacli.training.distribution import Processes, joined
from gtacli.training.evaluation import Evaluator
from gtacli.training.loggers import Loggers
from gtacli.training.loop import Observer, Plan, Progress, Unobserved, fit, restore
from gtacli.training.optimization import make_schedule
from gtacli.training.runs import (
    STATE_FILE,
    RunFolder,
    default_out,
    environment,
    model_metadata,
)
from gtacli.training.search import SEARCH_FILE, Search, choices, require_search, search
from gtacli.training.setup import Job, prepare

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
        with joined() as processes:
            return finetune(config, observer, dry_run, processes)
    if not processes.is_main:
        observer = Unobserved()
    started = time.perf_counter()
    given = config
    config = with_demo(processes.from_main(lambda: resumed_config(given)))
    if dry_run:  # one epoch of each kind
        config = config.model_copy(update={"freeze_epochs": min(config.freeze_epochs, 1)})
    observer = loggers = Loggers(config.log, observer, config.epochs)
    if dry_run or not processes.is_main:
        loggers.active.clear()
    run = RunFolder(processes.from_main(lambda: folder_of(config)), dry_run, processes)
    job = prepare(config, processes=processes)
    log_balance(job.split.info["classes"])
    if config.lam == "auto":
        require_search(config.epochs, config.regularizer, len(job.split.val), config.freeze_epochs)
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
    state: dict[str, Any] | None = None
    if config.resume is None:
        run.clear()
        run.write_json("run.json", record)
        run.write_json("split.json", job.split.to_json())
    else:
        before = run.read_json("run.json")
        for what in ("data", "model"):
            if before[what]["fingerprint"] != record[what]["fingerprint"]:
                at = getattr(config, what)
                raise GtaError(f"--resume: the {what} at {at} is not what the run began with")
        if config.lam != "auto" or run.has(STATE_FILE):
            state = run.read_state()
    loggers.start(record["config"], run.path)
    found: Search | None = None
    if config.lam == "auto":
        found = _search(config, job, run, dry_run)
        config = config.model_copy(update={"lam": found.chosen})
        job = prepare(config, stores=job.stores, processes=processes)
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
        stores = job.stores
        del job  # its networks and its optimiser
        job = prepare(config, refit=True, stores=stores, processes=processes)
        progress = run_phase(job, run, observer, progress, state, dry_run)
    epochs_run = sum("phase" not in row for row in progress.rows)  # a refit's rows have one
    summary = {
        "command": "finetune",
        "run": str(run.path),
        **test(job, run, dry_run),
        "n_train": job.readable(job.train),
        "n_val": job.readable(job.split.val),
        "n_test": job.readable(job.split.test),
        "epochs": config.epochs,
        "epochs_run": epochs_run,
        "stopped_early": epochs_run < config.epochs and not dry_run,
        "best_epoch": progress.best_epoch,
        "val_top1": (progress.chosen or {}).get("val_top1", progress.best_score),
        "attention_drift": _drift(progress),
        "seconds": round(time.perf_counter() - started, 2),
        "images_per_second": _median([r["images_per_second"] for r in progress.rows]),
        "peak_memory_mb": round(max(processes.gather(job.compute.peak_memory_mb())), 1),
    }
    if job.skipped():
        summary["skipped"] = len(job.skipped())
    if found is not None:
        summary |= {"lam": found.chosen, "lam_search": asdict(found)}
    if dry_run:
        summary["dry_run"] = True
    run.write_json("summary.json", summary)
    loggers.finish(summary)
    return summary


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
    free = {
        "resume",
        "device",
        "augment_device",
        "nproc",
        "workers",
        "cache",
        "log",
        "overwrite",
        "out",
    }
    for key in config.model_fields_set - free:
        if getattr(config, key) != getattr(before, key):
            raise UsageError(
                f"--resume: {key.replace('_', '-')} was {getattr(before, key)} in "
                f"{config.resume}; a resumed run keeps its configuration"
            )
    moved = {k: getattr(config, k) for k in config.model_fields_set & free}
    return before.model_copy(update=moved)


def _search(config: FinetuneConfig, job: Job, run: RunFolder, dry_run: bool) -> Search:
    """The strength that `--lam auto` chose before, or chooses now; the run then goes on from the
    state that the winner reached."""
    if config.resume is not None and run.has(SEARCH_FILE):
        return Search(**run.read_json(SEARCH_FILE))

    def train(lam: float, folder: RunFolder, stop: int) -> list[dict[str, Any]]:
        given = config.model_copy(update={"lam": lam})
        candidate = prepare(given, stores=job.stores, processes=job.processes)
        state = folder.read_state() if folder.has(STATE_FILE) else None
        progress = Progress()
        return run_phase(candidate, folder, Unobserved(), progress, state, dry_run, stop).rows

    candidates = choices(next(iter(config.regularizer)))
    found = search(candidates, config.epochs, len(job.split.val), run, train)
    log.log(logging.INFO if found.chosen else logging.WARNING, found.report(config.epochs))
    return found


def run_phase(
    job: Job,
    run: RunFolder,
    observer: Observer,
    progress: Progress,
    state: dict[str, Any] | None,
    dry_run: bool,
    stop_after: int | None = None,
) -> Progress:
    """Train from `progress`, or from a saved state, to the end or for `stop_after` epochs of the
    schedule in all; returns where it ended.

    A refit trains on the held-out images too, as long as validation found best.
    """
    config, target, compute = job.config, job.target, job.compute
    optimizer = job.optimizer
    plan = Plan(
        epochs=config.epochs,
        images=len(job.train),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        clip_grad=config.clip_grad,
    )
    schedule = make_schedule(
        optimizer,
        plan.epochs * plan.updates,
        round(config.warmup * plan.updates),
        config.freeze_epochs * plan.updates,
    )
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.loss_scaling)
    processes = job.processes
    if state is not None:
        progress = restore(state, job.task, optimizer, scaler, compute.device, processes)
    if config.compile:
        job.task.compile()
    if processes.size > 1:
        job.task.prepare_distributed([compute.device] if compute.device.type == "cuda" else None)
    store = job.store(job.train, job.transform.load_size)
    store.prepare()
    if len(store.skipped) == len(store):
        reason = next(iter(store.skipped.values()))
        raise GtaError(f"--data: none of the {len(store)} training images can be read; {reason}")
    workers = choose_workers(config.workers, compute.device, store.cached)
    source_views = job.task.source_views

    def batches(epoch: int, first: int) -> Iterable[Batch]:
        for batch in make_loader(
            store,
            job.transform,
            config.batch_size,
            train=True,
            seed=config.seed,
            epoch=epoch,
            start_batch=first,
            workers=workers,
            pin_memory=compute.device.type == "cuda",
            part=(processes.rank, processes.size),
            views=config.source_views,
        ):
            if source_views is not None:
                source_views.look(epoch, batch.indices)
            yield batch

    # A dry run takes one optimiser step.
    last = config.accumulate if dry_run else None
    if source_views is not None:
        source_views.fill(batches, job.task.read_source, processes, last)
    validate = evaluator(job, job.split.val, job.drift)
    metadata = model_metadata(target, job.dataset.classes)
    if stop_after is None:
        chosen = progress.chosen
        stop_after = config.epochs if chosen is None else chosen["best_epoch"] + 1

    def evaluate() -> dict[str, Any]:
        figures = validate("val", last)
        job.share_skipped()
        # What was trained on proves nothing; the drift is a distance, not a proof.
        proof = {k: None if job.refit else figures[k] for k in ("val_top1", "val_loss")}
        idle = (f"reg.{name}" for name in job.task.regularizers if name not in job.task.active)
        row = {**dict.fromkeys(idle), **proof, "attention_drift": figures["attention_drift"]}
        return {**row, "phase": progress.phase} if job.refit else row

    fit(
        job.task,
        batches,
        evaluate=evaluate,
        keep_best=lambda: run.write_model(job.evaluated.model, metadata),
        optimizer=optimizer,
        schedule=schedule,
        scaler=scaler,
        compute=compute,
        plan=plan,
        progress=progress,
        run=run,
        observer=observer,
        stop_after=1 + config.freeze_epochs if dry_run else stop_after,
        last=last,
        patience=None if job.refit else config.patience,
        processes=processes,
    )
    return progress


def evaluator(job: Job, records: tuple[Record, ...], drift: bool) -> Evaluator:
    """Measures the target on `records`, in its own evaluation view."""
    target, config = job.evaluated, job.config
    transform = EvalTransform(target.image_size, target.crop_pct, target.interpolation)
    store = job.store(records, transform.load_size)
    workers = choose_workers(config.workers, job.compute.device, store.cached)
    part = (job.processes.rank, job.processes.size)

    def batches() -> Iterable[Batch]:
        if not records:
            return ()
        # No gradients are kept, so twice the batch costs no more memory than training.
        size = 2 * config.batch_size
        return make_loader(store, transform, size, train=False, workers=workers, part=part)

    source = job.source if drift else None
    return Evaluator(target, source, batches, job.compute, job.processes)


def test(job: Job, run: RunFolder, dry_run: bool) -> dict[str, Any]:
    """One test at the end, with the weights that validation chose."""
    if not run.dry:
        # The folder may be on another node.
        tensors = job.processes.from_main(lambda: read_weights(run.path / WEIGHTS_FILE)[0])
        job.evaluated.model.load_state_dict(tensors)
    measure = evaluator(job, job.split.test, drift=False)
    figures = measure("test", 1 if dry_run else None)
    job.share_skipped()
    kept = {k: figures[k] for k in ("test_top1", "test_top5", "test_mean_class_top1")}
    return {**kept, "worst_classes": worst_classes(job.dataset.classes, measure.by_class)}


def _drift(progress: Progress) -> float | None:
    """Of the weights that were kept: the last row of their epoch."""
    kept = [r for r in progress.rows if r["epoch"] == progress.best_epoch]
    return kept[-1]["attention_drift"] if kept else None


def _median(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 2) if values else 0.0
