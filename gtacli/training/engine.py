"""The one way from a prepared job to trained weights, shared by all commands that train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gtacli.data.loader import Batch
from gtacli.runtime.limits import explain_limit
from gtacli.runtime.run_folder import RunFolder
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
    views = phase.images.count_views(job)
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
    images = phase.images.load(job, state)

    def batches(epoch: int, first: int) -> Iterable[Batch]:
        loaded = images.batches(epoch, first)
        return loaded if phase.complete_batch is None else map(phase.complete_batch, loaded)

    if phase.before_training is not None:
        phase.before_training(batches)
    progress = restored or progress or Progress()
    trainer = Trainer(
        job, phase, plan, schedule, scaler, batches, images.state, progress, run, observer
    )
    try:
        trainer.fit()
    except Exception as error:  # said with the numbers that were found, see `batch_parts`
        limit = explain_limit(error, config.batch_size, images.workers, config.fit_memory)
        if limit is None:
            raise
        raise limit from error
    finally:
        images.close()
    return progress
