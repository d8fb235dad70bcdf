"""The phases of a fine-tuning (training, refit, test) and their measurements."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, cast

from gtacli.data.base import Record
from gtacli.finetuning.attention_tracker import AttentionTracker, inside_last_block
from gtacli.finetuning.evaluation import Evaluation, Evaluator
from gtacli.finetuning.frozen_features import evaluation_batches
from gtacli.finetuning.head_start import start_head
from gtacli.finetuning.job import FinetuneJob
from gtacli.finetuning.per_class import label_results, worst_classes
from gtacli.finetuning.regularizer_start import start_regularizers
from gtacli.finetuning.results import TestAttention, TestLabels, TestMetrics
from gtacli.finetuning.source_average import (
    HEADER,
    UNCHOSEN,
    Averaged,
    choose_alpha,
    mean_of,
)
from gtacli.finetuning.test_size import load_for_test, test_size_of
from gtacli.models.adapters import adapter_config, adapter_tensors
from gtacli.models.files import read_weights
from gtacli.models.loading import LoadedModel
from gtacli.models.lora import merge_adapters, merged_state
from gtacli.models.metadata import model_metadata
from gtacli.runtime.run_files import ADAPTER_CONFIG_FILE, ADAPTER_FILE, WEIGHTS_FILE
from gtacli.runtime.run_folder import RunFolder
from gtacli.runtime.tensor_parts import gather_whole, load_whole
from gtacli.training.engine import train
from gtacli.training.job import Batches, Phase
from gtacli.training.loop import Observer
from gtacli.training.recorded_images import RecordedImages
from gtacli.training.state import Progress

log = logging.getLogger(__name__)


def run_phase(
    job: FinetuneJob,
    run: RunFolder,
    observer: Observer,
    progress: Progress,
    state: dict[str, Any] | None,
    dry_run: bool,
    stop_after: int | None = None,
) -> Progress:
    """Run a training or a refit from `progress`, or from a saved state.

    A refit trains on the held-out images too. It is as long as the training whose weights were
    saved: to the end of the schedule, unless validation has shown that this does harm.

    Args:
        stop_after: epochs to train in all; default: to the end.

    Returns: where it ended.
    """
    config, task = job.config, job.task
    max_batches = config.accumulate if dry_run else None  # one optimizer step
    validate = make_evaluator(job, job.observed, job.drift)
    unseen = bool(job.split.val) and not job.refit
    if state is None:
        start_head(job, max_batches)
    start_regularizers(job, max_batches)
    if stop_after is None:
        chosen = progress.chosen
        stop_after = job.epochs if chosen is None else chosen["best_epoch"] + 1

    def fill_source_cache(batches: Batches) -> None:
        if task.source_cache is not None:
            task.source_cache.fill(batches, task.run_source, job.processes, max_batches)

    def evaluate(epoch: int) -> dict[str, Any]:
        found = validate(max_batches)
        job.stores.share_skipped(job.processes)
        inactive = (f"reg.{name}" for name in task.regularizers if name not in task.active)
        row: dict[str, Any] = dict.fromkeys(inactive)
        # Omitted where these images are trained on. The drift is a distance.
        row["val_top1"] = found.top1 if unseen else None
        if job.dataset.multi_label:
            row |= {f"val_{k}": v for k, v in _label_metrics(found, unseen).items()}
        row["val_loss"] = found.loss if unseen else None
        row["attention_drift"] = found.drift
        if config.track_attention:
            row["attention"] = found.attention
        return {**row, "phase": "refit"} if job.refit else row

    phase = Phase(
        images=RecordedImages(
            records=job.records,
            views=config.source_views,
            balanced=config.balance == "sampling",
        ),
        epochs=job.epochs,
        warmup=config.warmup,
        evaluate=evaluate,
        save_weights=lambda: save_weights(job, run),
        count_scored=lambda: job.stores.count_scored(job.split.val),
        stop_after=1 + config.freeze_epochs if dry_run else stop_after,
        max_batches=max_batches,
        freeze_epochs=config.freeze_epochs,
        patience=None if job.refit else config.patience,
        before_training=fill_source_cache,
    )
    return train(job, phase, run, observer, state, progress)


def _label_metrics(found: Evaluation, unseen: bool = True) -> dict[str, float | None]:
    """Return the metrics of any number of labels by name; None where there were no images."""
    scores = found.labels if unseen else None
    names = ("map", "f1_macro", "f1_micro")
    return {name: None if scores is None else getattr(scores, name) for name in names}


def save_weights(job: FinetuneJob, run: RunFolder) -> None:
    """Write the weights with the adapters merged into them, and the adapters alone if asked to."""
    model, spec = job.evaluated.model, job.target.spec
    metadata = _metadata(job)
    run.write_tensors(merged_state(model), metadata, WEIGHTS_FILE)
    if job.config.keep_adapter:
        run.write_tensors(adapter_tensors(model), metadata, ADAPTER_FILE)
        run.write_json(ADAPTER_CONFIG_FILE, adapter_config(model, spec))


def _metadata(job: FinetuneJob) -> dict[str, str]:
    return model_metadata(job.target, job.dataset.classes, test_size_of(job))


def make_evaluator(
    job: FinetuneJob, records: tuple[Record, ...], drift: bool, target: LoadedModel | None = None
) -> Evaluator:
    """Create the evaluation of the target on `records`, in its own evaluation view."""
    target, source = target or job.evaluated, job.source if drift else None
    batches = partial(evaluation_batches, job, records, again=True, target=target)
    tracker = None
    if job.config.track_attention:
        tracker = AttentionTracker(records, target, source, job.compute, job.processes)
    return Evaluator(target, source, batches, job.compute, job.processes, tracker)


def average_with_start(
    job: FinetuneJob, run: RunFolder, dry_run: bool, alpha: float | None, final: bool
) -> Averaged:
    """Average the saved weights with those before training, for `average=source`.

    Args:
        alpha: weight of the trained backbone if it is chosen already.
        final: save the mean, unless the run has done so before it was resumed.
    """
    model = job.evaluated.model
    merge_adapters(model)
    start, header = job.start, dict[str, str]()
    if run.dry:
        end = {k: v.clone() for k, v in gather_whole(model.state_dict()).items()}
    else:
        end, header = job.processes.run_on_main(lambda: read_weights(run.path / WEIGHTS_FILE))
    if HEADER in header:
        start, alpha = {}, float(header[HEADER])
    elif alpha is None and not job.split.val:
        alpha = UNCHOSEN
        log.info("`average=source`: alpha %g, as no image is held out to choose it by", alpha)
    validate = make_evaluator(job, job.observed, job.drift)
    averaged = choose_alpha(
        lambda weight: load_whole(model, mean_of(start, end, weight)),
        lambda: validate(1 if dry_run else None),
        alpha,
    )
    if final and HEADER not in header:
        run.write_model(model, {**_metadata(job), HEADER: f"{averaged.alpha:g}"})
    return averaged


def load_saved(job: FinetuneJob, run: RunFolder) -> LoadedModel:
    """Return the saved network, its adapters merged, at the size of the test.

    If that is the size of training, it is the network that is measured in training.
    """
    if test_size_of(job) is not None:
        return load_for_test(job, run)
    # The folder may be on another node.
    tensors = job.processes.run_on_main(lambda: read_weights(run.path / WEIGHTS_FILE)[0])
    merge_adapters(job.evaluated.model)
    load_whole(job.evaluated.model, tensors)
    return job.evaluated


def test(job: FinetuneJob, run: RunFolder, dry_run: bool) -> TestMetrics:
    """Measure the saved weights on the test images."""
    target = None if run.dry else load_saved(job, run)
    found = make_evaluator(job, job.split.test, False, target)(1 if dry_run else None)
    job.stores.share_skipped(job.processes)
    tracked: TestAttention = {}
    if job.config.track_attention:
        tracked["test_attention_inside"] = inside_last_block(found.attention)
    labels: TestLabels = {}
    if job.dataset.multi_label:
        labels = cast(TestLabels, {f"test_{k}": v for k, v in _label_metrics(found).items()})
        by_class = () if found.labels is None else found.labels.by_class
        labels["label_results"] = label_results(job.dataset.classes[: len(by_class)], by_class)
    return {
        "test_top1": found.top1,
        "test_top5": found.top5,
        "test_mean_class_top1": found.mean_class_top1,
        **tracked,
        **labels,
        "worst_classes": worst_classes(job.dataset.classes, found.by_class),
    }
