"""`gta pretrain`: from a validated config to a run folder and a summary."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

import torch

from gtacli.config.pretrain import PretrainConfig
from gtacli.data.loader import Batch, make_loader
from gtacli.models.metadata import model_metadata
from gtacli.pretraining.online_knn import OnlineKnn
from gtacli.pretraining.prepare import Job, prepare
from gtacli.pretraining.previews import Previews
from gtacli.runtime.devices import choose_workers
from gtacli.runtime.distribution import Processes, join_processes
from gtacli.runtime.run_files import DECODER_FILE
from gtacli.runtime.run_folder import RunFolder, median_rate
from gtacli.training.begin import begin, folder_of, record_of, resumed_config
from gtacli.training.loggers import Loggers
from gtacli.training.loop import Observer, Plan, Unobserved, fit
from gtacli.training.optimization import make_schedule
from gtacli.training.state import Progress, make_ready
from gtacli.training.stores import prepare_training

log = logging.getLogger(__name__)


def pretrain(
    config: PretrainConfig,
    observer: Observer,
    dry_run: bool = False,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Pre-train a ViT and return the summary that also lies in the run folder.

    Args:
        config: validated; see its fields.
        observer: is told of steps and epochs; of several processes the first one's is.
        dry_run: one optimiser step and its measurements, nothing written.
        processes: that share the run; None: those that torchrun has started, which all call this.

    Raises:
        GtaError: anything found wrong before the first step.
        RunError, Interrupted: see `training.loop.fit`.
        PeerLost: another process has ended.
    """
    if processes is None:
        with join_processes() as processes:
            return pretrain(config, observer, dry_run, processes)
    if not processes.is_main:
        observer = Unobserved()
    started = time.perf_counter()
    given = config
    config = processes.run_on_main(lambda: resumed_config(given, "pretrain"))
    observer = loggers = Loggers(config.log, observer, config.epochs)
    if dry_run or not processes.is_main:
        loggers.active.clear()
    run = RunFolder(
        processes.run_on_main(lambda: folder_of(config, "pretrain")), dry_run, processes
    )
    job = prepare(config, processes)
    job.compute.reset_peak_memory()
    record = _begin(job, run)
    loggers.start(record["config"], run.path)
    state = None if config.resume is None else run.read_state()
    knn = OnlineKnn(job)
    progress = _train(job, run, observer, knn, state, dry_run)
    summary = _summarise(job, run, progress, knn, started, dry_run)
    run.write_json("summary.json", summary)
    loggers.finish(summary)
    return summary


def _begin(job: Job, run: RunFolder) -> dict[str, Any]:
    """Write down what the run is, or see that it is still the same; its record."""
    config, size = job.config, job.processes.size
    record = record_of("pretrain", config, job.dataset, job.encoder, job.fingerprint, size)
    identity: tuple[str, ...] = ("data", "model")
    if job.guide is not None:
        source = "maps" if config.maps is not None else "teacher"
        record[source] = {"fingerprint": job.guide.fingerprint}
        identity += (source,)
    keys = {split: [r.key for r in records] for split, records in job.dataset.splits.items()}
    begin(run, config, record, {"dataset": job.dataset.name, **keys}, identity)
    return record


def _train(
    job: Job,
    run: RunFolder,
    observer: Observer,
    knn: OnlineKnn,
    state: dict[str, Any] | None,
    dry_run: bool,
) -> Progress:
    """From the beginning, or from a saved state, to the end."""
    config, compute, processes = job.config, job.compute, job.processes
    views = len(job.train) * config.repeats
    # Whole batches, so that all have one shape; an image left out of this epoch is in the next.
    plan = Plan(
        epochs=config.epochs,
        images=max(views - views % config.batch_size, min(views, config.batch_size)),
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        clip_grad=config.clip_grad,
    )
    warmup = config.epochs / 20 if config.warmup is None else config.warmup
    steps = plan.epochs * plan.updates
    schedule = make_schedule(job.optimizer, steps, round(warmup * plan.updates))
    parts = (job.task, job.optimizer, compute, processes)
    scaler, restored = make_ready(*parts, state, config.compile)
    progress = restored or Progress()
    store = job.store(job.train, job.transform.load_size)
    prepare_training(store)
    workers = choose_workers(config.workers, compute.device, store.cached)
    previews = Previews(job)
    images = min(config.batch_size, views) // config.repeats  # of a batch, as the loader shares it
    share = config.repeats * len(range(images)[processes.rank :: processes.size])
    metadata = job.metadata
    encoder_metadata = {**model_metadata(job.encoder, ()), **metadata}

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
            drop_last=True,
            pin_memory=compute.device.type == "cuda",
            shard=(processes.rank, processes.size),
            repeats=config.repeats,
        ):
            if config.compile:
                batch = _filled(batch, share)
            maps = None
            if job.guide is not None:
                maps, shown = job.guide.maps(batch)
                batch = batch._replace(crops=shown)
            job.task.look(epoch, batch, maps)
            yield batch

    def evaluate() -> dict[str, Any]:
        epoch = progress.epoch
        measured = config.due(config.knn_every, epoch)
        if config.due(config.previews_every, epoch) and len(previews.batch.images):
            name = f"previews/epoch-{epoch + 1:04d}.png"
            run.write(name, lambda p: previews.draw(epoch).save(p, format="PNG"))
        top1 = knn(1 if dry_run else None) if measured else None
        job.stores.share_skipped(processes)
        return {"knn_top1": top1}

    def keep() -> None:
        run.write_model(job.encoder.model, encoder_metadata)
        run.write_model(job.model.decoder, {"format": "pt", **metadata}, DECODER_FILE)

    fit(
        job.task,
        batches,
        evaluate=evaluate,
        keep_best=keep,
        optimizer=job.optimizer,
        schedule=schedule,
        scaler=scaler,
        compute=compute,
        plan=plan,
        progress=progress,
        run=run,
        observer=observer,
        stop_after=1 if dry_run else config.epochs,
        last=config.accumulate if dry_run else None,
        processes=processes,
    )
    return progress


def _filled(batch: Batch, size: int) -> Batch:
    """A compiled step has one shape: an unreadable image is replaced by others of its batch."""
    count = len(batch.images)
    if not 0 < count < size:
        return batch
    again = torch.arange(size) % count
    return Batch(*(values[again.to(values.device)] for values in batch))


def _summarise(
    job: Job, run: RunFolder, progress: Progress, knn: OnlineKnn, started: float, dry_run: bool
) -> dict[str, Any]:
    last = progress.rows[-1] if progress.rows else {}
    summary: dict[str, Any] = {
        "command": "pretrain",
        "run": str(run.path),
        "final_loss": last.get("train_loss"),
        "recon": last.get("recon"),
        "recon_fg": last.get("recon_fg"),
        "recon_bg": last.get("recon_bg"),
        "knn_top1": last.get("knn_top1"),
        "n_train": job.stores.readable(job.train),
        "n_val": job.stores.readable(knn.queries) if job.config.knn_every != 0 else 0,
        "epochs": job.config.epochs,
        "seconds": round(time.perf_counter() - started, 2),
        "images_per_second": median_rate(progress.rows),
        "peak_memory_mb": round(max(job.processes.gather(job.compute.peak_memory_mb())), 1),
    }
    if skipped := job.stores.skipped():
        summary["skipped"] = len(skipped)
    if dry_run:
        summary["dry_run"] = True
    return summary
