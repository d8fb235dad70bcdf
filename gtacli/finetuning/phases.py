"""One phase of a run, training or refit, and the measurements in and after it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import Record
from gtacli.data.loader import Batch, make_loader
from gtacli.finetuning.attention_track import AttentionTrack, last_block
from gtacli.finetuning.evaluation import Evaluator
from gtacli.finetuning.per_class import worst_classes
from gtacli.finetuning.prepare import Job
from gtacli.models.metadata import model_metadata
from gtacli.models.weights import read_weights
from gtacli.runtime.devices import choose_workers
from gtacli.runtime.run_files import WEIGHTS_FILE
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.loop import Observer, Plan, fit
from gtacli.training.optimization import make_schedule
from gtacli.training.state import Progress, make_ready
from gtacli.training.stores import prepare_training


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
    processes = job.processes
    scaler, restored = make_ready(job.task, optimizer, compute, processes, state, config.compile)
    progress = restored or progress
    store = job.store(job.train, job.transform.load_size)
    prepare_training(store)
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
            shard=(processes.rank, processes.size),
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
        job.kept.share_skipped(processes)
        # What was trained on proves nothing; the drift is a distance, not a proof.
        proof = {k: None if job.refit else figures[k] for k in ("val_top1", "val_loss")}
        idle = (f"reg.{name}" for name in job.task.regularizers if name not in job.task.active)
        row = {**dict.fromkeys(idle), **proof, "attention_drift": figures["attention_drift"]}
        if config.track_attention:
            row["attention"] = figures["attention"]
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
        patient_from=config.freeze_epochs,
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
        return make_loader(store, transform, size, train=False, workers=workers, shard=part)

    source = job.source if drift else None
    track = None
    if config.track_attention:
        track = AttentionTrack(records, target, source, job.compute, job.processes)
    return Evaluator(target, source, batches, job.compute, job.processes, track)


def test(job: Job, run: RunFolder, dry_run: bool) -> dict[str, Any]:
    """One test at the end, with the weights that validation chose."""
    if not run.dry:
        # The folder may be on another node.
        tensors = job.processes.run_on_main(lambda: read_weights(run.path / WEIGHTS_FILE)[0])
        job.evaluated.model.load_state_dict(tensors)
    measure = evaluator(job, job.split.test, drift=False)
    figures = measure("test", 1 if dry_run else None)
    job.kept.share_skipped(job.processes)
    kept = {k: figures[k] for k in ("test_top1", "test_top5", "test_mean_class_top1")}
    if job.config.track_attention:
        kept["test_attention_inside"] = last_block(figures["attention"])
    return {**kept, "worst_classes": worst_classes(job.dataset.classes, measure.by_class)}
