"""The steps of `gta pretrain`: from a validated config to a run folder and a summary."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from gtacli.config.pretrain import PretrainConfig
from gtacli.data.loader import Batch
from gtacli.models.metadata import model_metadata
from gtacli.pretraining.online_knn import OnlineKnn
from gtacli.pretraining.prepare import PretrainJob, prepare
from gtacli.pretraining.previews import Previews
from gtacli.pretraining.results import PretrainSummary
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.run_files import DECODER_FILE
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.batch_parts import fit_batch
from gtacli.training.engine import train
from gtacli.training.job import Phase
from gtacli.training.loop import Observer
from gtacli.training.session import Session, open_session
from gtacli.training.state import Progress


def pretrain(
    config: PretrainConfig,
    observer: Observer,
    dry_run: bool = False,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Pre-train a ViT and return the content of the run folder's summary.json.

    Args:
        config: validated; see its fields.
        observer: gets steps and epochs in the first process.
        dry_run: run one optimizer step and its measurements, and write nothing.
        processes: share the run; None: those that torchrun has started, all of which call this.

    Returns: a `gtacli.pretraining.results.PretrainSummary`.

    Raises:
        GtaError: for invalid input, before the first step.
        RunError, Interrupted: see `gtacli.training.loop.Trainer.fit`.
        PeerLost: another process has ended.
    """
    with open_session("pretrain", config, observer, PretrainSummary, dry_run, processes) as session:
        return session.conclude(lambda: _pretrain(session))


def _pretrain(session: Session[PretrainConfig]) -> PretrainSummary:
    """Train and return the summary."""
    job = prepare(session.config, session.processes)
    inputs = {}
    if job.map_source is not None:
        option = "maps" if job.config.maps is not None else "teacher"
        inputs[option] = job.map_source.fingerprint
    keys = {split: [r.key for r in records] for split, records in job.dataset.splits.items()}
    state = session.begin(job, job.encoder, {"dataset": job.dataset.name, **keys}, inputs)
    job.task.processes = ALONE  # each tries by itself
    fit_batch(session, job, repeats=job.config.repeats, complete_batch=partial(add_maps, job))
    job.task.processes = job.processes
    knn = OnlineKnn(job)
    phase = _make_phase(job, session.run, knn, session.dry_run)
    progress = train(job, phase, session.run, session.observer, state)
    return _summarize(session, job, progress, knn)


def _make_phase(job: PretrainJob, run: RunFolder, knn: OnlineKnn, dry_run: bool) -> Phase:
    """Describe the training of the whole run."""
    config, processes = job.config, job.processes
    previews = Previews(job)
    views = len(job.records) * config.repeats
    images = min(config.batch_size, views) // config.repeats  # of a batch, as the loader shares it
    own_views = config.repeats * len(range(images)[processes.rank :: processes.size])
    metadata = job.metadata
    encoder_metadata = {**model_metadata(job.encoder, ()), **metadata}

    def complete_batch(batch: Batch) -> Batch:
        if config.compile:
            batch = fill_batch(batch, own_views)
        return add_maps(job, batch)

    def evaluate(epoch: int) -> dict[str, Any]:
        if config.due(config.previews_every, epoch) and len(previews.batch.images):
            name = f"previews/epoch-{epoch + 1:04d}.png"
            sheet = previews.draw(epoch)  # in all processes: they may share the weights
            run.write(name, lambda p: sheet.save(p, format="PNG"))
        measured = config.due(config.knn_every, epoch)
        top1 = knn(1 if dry_run else None) if measured else None
        job.stores.share_skipped(processes)
        return {"knn_top1": top1}

    def save_weights() -> None:
        run.write_model(job.encoder.model, encoder_metadata)
        run.write_model(job.model.decoder, {"format": "pt", **metadata}, DECODER_FILE)

    return Phase(
        records=job.records,
        epochs=config.epochs,
        warmup=config.epochs / 20 if config.warmup is None else config.warmup,
        evaluate=evaluate,
        save_weights=save_weights,
        stop_after=1 if dry_run else config.epochs,
        max_batches=config.accumulate if dry_run else None,
        repeats=config.repeats,
        # All batches have one shape; an image that is skipped in this epoch is in the next one.
        drop_last=True,
        complete_batch=complete_batch,
    )


def add_maps(job: PretrainJob, batch: Batch) -> Batch:
    """Add the object maps to a batch, if the run has any."""
    if job.map_source is None:
        return batch
    maps, crops = job.map_source.maps(batch)
    return batch._replace(maps=maps, crops=crops)


def fill_batch(batch: Batch, size: int) -> Batch:
    """Repeat images of a batch in place of unreadable ones: a compiled step has one shape."""
    count = len(batch.images)
    if not 0 < count < size:
        return batch
    places = torch.arange(size) % count
    images, labels, indices, crops = (t[places.to(t.device)] for t in batch[:4])
    return batch._replace(images=images, labels=labels, indices=indices, crops=crops)


def _summarize(
    session: Session[PretrainConfig], job: PretrainJob, progress: Progress, knn: OnlineKnn
) -> PretrainSummary:
    last = progress.rows[-1] if progress.rows else {}
    return {
        "command": "pretrain",
        "run": str(session.run.path),
        "final_loss": last.get("train_loss"),
        "recon": last.get("recon"),
        "recon_fg": last.get("recon_fg"),
        "recon_bg": last.get("recon_bg"),
        "knn_top1": last.get("knn_top1"),
        "n_train": job.stores.count_readable(job.records),
        "n_val": job.stores.count_readable(knn.queries) if job.config.knn_every != 0 else 0,
        "epochs": job.config.epochs,
        **session.costs(job, progress),
    }
