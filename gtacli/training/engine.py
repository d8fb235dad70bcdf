"""The one way from a prepared job to trained weights, shared by all commands that train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gtacli.data.loader import Batch, make_loader
from gtacli.runtime.devices import choose_workers
from gtacli.runtime.limits import explain_limit
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.image_stores import prepare_training
from gtacli.training.job import Phase, TrainingJob
from gtacli.training.loop import Observer, Plan, Trainer
from gtacli.training.optimization import make_schedule
from gtacli.training.state import Progress, make_ready


def train(
    job: TrainingJob,
    phase: Phase,
    run: RunFolder,
    observer: Observer,
    state: dict[str, Any] | None,
    progress: Progress | None = None,
) -> Progress:
    """Train from the beginning, or from a saved state, to the end of the phase.

    Args:
        state: the content of state.pt.
        progress: where to begin without a state; default: a new run.

    Returns: where the training ended.

    Raises RunError and Interrupted, see `Trainer.fit`.
    """
    config, compute, processes = job.config, job.compute, job.processes
    views = len(phase.records) * phase.repeats
    if phase.drop_last:
        whole = config.batch_size * job.parts
        views = max(views - views % whole, min(views, whole))
    plan = Plan(phase.epochs, views, config.batch_size, config.accumulate)
    schedule = make_schedule(
        job.optimizer,
        plan.epochs * plan.updates,
        round(phase.warmup * plan.updates),
        phase.freeze_epochs * plan.updates,
    )
    scaler, restored = make_ready(
        job.task, job.optimizer, compute, processes, state, config.compile, job.sharded
    )
    store = job.stores.get(phase.records, job.transform.load_size, training=True)
    prepare_training(store)
    workers = choose_workers(config.workers, compute.device, store.cached)

    def batches(epoch: int, first: int) -> Iterable[Batch]:
        loader = make_loader(
            store,
            job.transform,
            config.batch_size,
            train=True,
            seed=config.seed,
            epoch=epoch,
            start_batch=first,
            workers=workers,
            drop_last=phase.drop_last,
            parts=job.parts,
            pin_memory=compute.device.type == "cuda",
            shard=(processes.rank, processes.size),
            views=phase.views,
            repeats=phase.repeats,
            balanced=phase.balanced,
        )
        return loader if phase.complete_batch is None else map(phase.complete_batch, loader)

    if phase.before_training is not None:
        phase.before_training(batches)
    progress = restored or progress or Progress()
    try:
        Trainer(job, phase, plan, schedule, scaler, batches, progress, run, observer).fit()
    except Exception as error:  # said with the numbers that were found, see `batch_parts`
        limit = explain_limit(error, config.batch_size, workers, config.fit_memory)
        if limit is None:
            raise
        raise limit from error
    return progress
