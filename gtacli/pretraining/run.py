"""The steps of `gta pretrain`: from a validated config to a run folder and a summary."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import torch

from gtacli.config.pretrain import PretrainConfig
from gtacli.data.base import ImageDataset
from gtacli.data.loader import Batch
from gtacli.data.streams.stream import ImageStream
from gtacli.discovery.maps.digests import digest
from gtacli.models.metadata import model_metadata
from gtacli.pretraining.map_source import StreamedMaps
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
from gtacli.training.recorded_images import RecordedImages
from gtacli.training.session import Session, open_session
from gtacli.training.state import Progress
from gtacli.training.streamed_images import StreamedImages

log = logging.getLogger(__name__)


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
    training = _training_images(job)
    lanes = {"lanes": training.count_lanes(job)} if isinstance(training, StreamedImages) else {}
    state = session.begin(job, job.encoder, _describe_split(job), inputs, resolved=lanes)
    job.task.processes = ALONE  # each tries by itself
    fit_batch(session, job, repeats=job.config.repeats, complete_batch=partial(add_maps, job))
    job.task.processes = job.processes
    knn = None
    if job.listed is not None:
        knn = OnlineKnn(job, job.listed)
    elif job.config.knn_every:
        log.info("`knn_every` has no effect: the labels of a stream are not read")
    phase = _make_phase(job, session.run, knn, session.dry_run)
    progress = train(job, phase, session.run, session.observer, state)
    return _summarize(session, job, progress, knn)


def _describe_split(job: PretrainJob) -> dict[str, Any]:
    """Return the content of split.json: the keys of listed images, the number of shards."""
    splits = {} if job.listed is None else job.listed.splits
    keys: dict[str, Any] = {name: [r.key for r in records] for name, records in splits.items()}
    shards = {"shards": len(job.dataset)} if isinstance(job.dataset, ImageStream) else {}
    return {"dataset": job.dataset.name, **keys, **shards}


def _training_images(job: PretrainJob) -> RecordedImages | StreamedImages:
    """Return the images of the training; all batches have one shape."""
    config, dataset = job.config, job.dataset
    if isinstance(dataset, ImageDataset):
        # An image that is skipped in this epoch is in the next one.
        return RecordedImages(records=dataset["train"], repeats=config.repeats, drop_last=True)
    assert config.epoch_images is not None
    return StreamedImages(
        stream=dataset,
        images=config.epoch_images,
        epochs=config.epochs,
        interpolation=job.encoder.interpolation,
        repeats=config.repeats,
        digest=digest if isinstance(job.map_source, StreamedMaps) else None,
    )


def _make_phase(job: PretrainJob, run: RunFolder, knn: OnlineKnn | None, dry_run: bool) -> Phase:
    """Describe the training of the whole run."""
    config, processes = job.config, job.processes
    previews, training = Previews(job), _training_images(job)
    # Of a batch, as the loader shares it.
    images = min(config.batch_size, training.count_views(job)) // config.repeats
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
        top1 = knn(1 if dry_run else None) if measured and knn is not None else None
        job.stores.share_skipped(processes)
        if isinstance(job.map_source, StreamedMaps):
            job.map_source.summarize()
        return {"knn_top1": top1}

    def save_weights() -> None:
        run.write_model(job.encoder.model, encoder_metadata)
        run.write_model(job.model.decoder, {"format": "pt", **metadata}, DECODER_FILE)

    return Phase(
        images=training,
        epochs=config.epochs,
        warmup=config.epochs / 20 if config.warmup is None else config.warmup,
        evaluate=evaluate,
        save_weights=save_weights,
        stop_after=1 if dry_run else config.epochs,
        max_batches=config.accumulate if dry_run else None,
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
    contents = None if batch.contents is None else batch.contents[places]
    return batch._replace(
        images=images, labels=labels, indices=indices, crops=crops, contents=contents
    )


def _count_images(job: PretrainJob) -> int:
    """Count the readable images of an epoch."""
    if job.listed is not None:
        return job.stores.count_readable(job.listed["train"])
    return _training_images(job).count_views(job) // job.config.repeats


def _summarize(
    session: Session[PretrainConfig], job: PretrainJob, progress: Progress, knn: OnlineKnn | None
) -> PretrainSummary:
    classified = 0
    if knn is not None and job.config.knn_every != 0:
        classified = job.stores.count_readable(knn.queries)
    last = progress.rows[-1] if progress.rows else {}
    return {
        "command": "pretrain",
        "run": str(session.run.path),
        "final_loss": last.get("train_loss"),
        "recon": last.get("recon"),
        "recon_fg": last.get("recon_fg"),
        "recon_bg": last.get("recon_bg"),
        "knn_top1": last.get("knn_top1"),
        "n_train": _count_images(job),
        "n_val": classified,
        "epochs": job.config.epochs,
        **session.costs(job, progress),
    }
