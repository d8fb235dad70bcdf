"""The steps of `gta finetune`: from a validated config to a run folder and a summary."""

from __future__ import annotations

import logging
from typing import Any, cast

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.base import Record
from gtacli.errors import UsageError
from gtacli.finetuning.attention_tracker import inside_last_block
from gtacli.finetuning.decision import REGULARIZER, apply, decide, reason
from gtacli.finetuning.epochs import with_recorded_epochs
from gtacli.finetuning.folds import cross_validate, require_folds
from gtacli.finetuning.head_start import measure_probe
from gtacli.finetuning.held_out import log_held_out, with_held_out
from gtacli.finetuning.job import FinetuneJob, FinetuneStores
from gtacli.finetuning.per_class import log_balance, log_labels
from gtacli.finetuning.phases import average_with_start, run_phase, test
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.regularizer_start import needs_start
from gtacli.finetuning.results import (
    AverageWeight,
    BeforeTraining,
    CrossValidation,
    FinetuneSummary,
    SearchResult,
    ValidationAttention,
    ValidationLabels,
)
from gtacli.finetuning.search import (
    SEARCH_FILE,
    choices,
    read_search,
    report,
    require_search,
    search,
)
from gtacli.finetuning.source_average import Averaged
from gtacli.finetuning.suitability import Suitability, find_suitability
from gtacli.finetuning.trainable import require_learning_backbone
from gtacli.models.registers import registers_of
from gtacli.runtime.distribution import Processes
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.batch_parts import fit_batch
from gtacli.training.loop import Observer, SilentObserver
from gtacli.training.record import read_record
from gtacli.training.same_inputs import check_origin
from gtacli.training.selection import score_of
from gtacli.training.session import Session, open_session
from gtacli.training.state import Progress, read_progress

log = logging.getLogger(__name__)
_Begun = tuple[FinetuneJob, dict[str, Any] | None]
"""A job, and the state that it continues from."""

# Suits the demo's small network; whatever the user sets takes precedence.
DEMO = {"data": "demo", "model": "demo", "lr": 5e-4}


def finetune(
    config: FinetuneConfig,
    observer: Observer,
    dry_run: bool = False,
    processes: Processes | None = None,
) -> dict[str, Any]:
    """Fine-tune a ViT and return the content of the run folder's summary.json.

    Args:
        config: validated; see its fields.
        observer: gets steps and epochs in the first process.
        dry_run: run one batch of every phase and write nothing.
        processes: share the run; None: those that torchrun has started, all of which call this.

    Returns: a `gtacli.finetuning.results.FinetuneSummary`.

    Raises:
        GtaError: for invalid input, before the first step.
        RunError, Interrupted: see `gtacli.training.loop.Trainer.fit`.
        PeerLost: another process has ended.
    """
    with open_session(
        "finetune", config, observer, FinetuneSummary, dry_run, processes, with_demo
    ) as session:
        return session.conclude(lambda: _finetune(session))


def with_demo(config: FinetuneConfig) -> FinetuneConfig:
    """Fill in the built-in dataset and its source model where neither is given.

    Raises UsageError when only one of them is.
    """
    if config.data == "demo" and config.model is None:
        log.info("no `model`: using the built-in source model of the demo dataset")
        missing = {k: v for k, v in DEMO.items() if k not in config.model_fields_set}
        return config.model_copy(update=missing)
    if config.data is None and config.model is None:
        log.warning("no `data` and no `model`: using the built-in demo dataset and source model")
        missing = {k: v for k, v in DEMO.items() if k not in config.model_fields_set}
        return config.model_copy(update=missing)
    if config.data is None:
        raise UsageError("is required: a folder, a .csv, demo, ...", option="data")
    if config.model is None:
        text = "is required: what to start from, e.g. vit_small_patch16_224.dino"
        raise UsageError(text, option="model")
    return config


def _finetune(session: Session[FinetuneConfig]) -> FinetuneSummary:
    """Train, refit and test."""
    config, run, processes = with_held_out(session.config), session.run, session.processes
    dry_run = session.dry_run
    idle = config.freeze_epochs + config.warmup
    if dry_run:  # one epoch of each kind
        config = config.model_copy(update={"freeze_epochs": min(config.freeze_epochs, 1)})
    if config.resume is not None:
        config = with_recorded_epochs(config, read_record(run))
    job = prepare(config, processes=processes)
    config = job.config
    session.observer.epochs = job.epochs
    if job.dataset.multi_label:
        log_labels(job.split.train, job.dataset.classes, config.balance)
    else:
        log_balance(job.split.info["classes"], config.balance)
    log_held_out(session.config, job.split)
    if config.track_attention and not job.observed:
        log.warning("`track_attention` has no effect: no class has 3 training images")
    if config.folds is not None:
        require_folds(job.split.train, config.folds, config.seed)
    if config.lam == "auto":
        require_learning_backbone(config.train, "lam")
        require_search(job.epochs, config.regularizer, len(job.split.val), idle)
    # While a run chooses its strength, only its candidates have states.
    choosing = config.lam == "auto" and not run.has_state()
    resolved = {"lr": job.optimizer.defaults["lr"], "epochs": job.epochs}
    resolved["strengths"] = _strengths(job)
    if job.source is not None and (registers := registers_of(job.source.model)):
        resolved["source_registers"] = registers.describe()
    state = session.begin(
        job, job.target, job.split.to_json(), has_state=not choosing, resolved=resolved
    )
    # Neither the cache is filled yet, nor have regularizers begun that learn from the images.
    source_cache, job.task.source_cache = job.task.source_cache, None
    active = job.task.active
    job.task.active = {name: one for name, one in active.items() if not needs_start(one)}
    fit_batch(session, job, least=1 if config.mix == "none" else 2)
    job.task.source_cache, job.task.active = source_cache, active
    batch = {"batch_size": job.config.batch_size, "accumulate": job.config.accumulate}
    # Handed over in lists that are emptied: what is still named here would not be freed there.
    begun = [(job, state)]
    del job, state, source_cache, active
    begun, beforehand = _before_training(session, begun)
    job, progress = _train(session, begun)
    averaged = None
    if config.average == "source":
        alpha = (progress.chosen or {}).get("alpha")
        averaged = average_with_start(job, run, dry_run, alpha, final=True)
    summary = _summarize(session, job, progress, averaged, beforehand)
    if config.folds is None:
        return summary
    stores = job.stores
    del job  # frees its networks and its optimizer
    found = cross_validate(with_held_out(session.config).model_copy(update=batch), stores, run)
    return {**summary, **found, "seconds": session.seconds()}


def _strengths(job: FinetuneJob) -> dict[str, float]:
    """Return the strengths of the regularizers, without one that is still to be chosen."""
    found = {name: one.options.lam for name, one in job.task.regularizers.items()}
    if job.config.lam == "auto" or job.config.leaves_attention_open:
        found.pop(next(iter(job.config.regularizer)), None)
    return found


def _before_training(
    session: Session[FinetuneConfig], begun: list[_Begun]
) -> tuple[list[_Begun], BeforeTraining]:
    """Measure the linear probe and choose the strength, where the program chooses it.

    Args:
        begun: the job and the state it continues from; emptied.

    Returns: likewise the job with this strength, and fields of the summary.
    """
    job, state = begun.pop()
    run, dry_run, processes = session.run, session.dry_run, session.processes
    config, stores, held_out, depth = job.config, job.stores, job.split.val, job.depth
    fields = cast(BeforeTraining, {**measure_probe(job, run, 1 if dry_run else None)})
    if config.leaves_attention_open:
        decision = decide(job, run, dry_run)
        if not decision:
            return [(job, state)], fields
        del job  # frees its networks and its optimizer
        config = apply(config, decision, depth)
        fields = cast(BeforeTraining, {**fields, **decision})
        return [(prepare(config, stores=stores, processes=processes), state)], fields
    if config.lam == "auto":
        found = None
        if next(iter(config.regularizer)) == REGULARIZER and not run.has(SEARCH_FILE):
            found = find_suitability(job, 1 if dry_run else None, of_source=True)
        del job
        choice = _choose_strength(config, stores, held_out, run, dry_run, found)
        config = config.model_copy(update={"lam": choice["chosen"]})
        job = prepare(config, stores=stores, processes=processes)
        state = None if dry_run else run.read_state()
        session.observer.catch_up(read_progress(state).rows if state else [])
        fields = {**fields, "lam": choice["chosen"], "lam_search": choice}
    return [(job, state)], fields


def _train(session: Session[FinetuneConfig], begun: list[_Begun]) -> tuple[FinetuneJob, Progress]:
    """Run the training and the refit, or what is left of them.

    Args:
        begun: the job and the state it continues from; emptied.
    """
    job, state = begun.pop()
    config, run, dry_run = job.config, session.run, session.dry_run
    progress = Progress() if state is None else read_progress(state)
    if progress.phase == "train":
        progress = run_phase(job, run, session.observer, progress, state, dry_run)
        state = None
        if config.refit and job.split.info["validation"] == "held-out":
            score = "val_map" if job.dataset.multi_label else "val_top1"
            chosen = {"best_epoch": progress.best_epoch, score: progress.best_score}
            if config.average == "source":
                mean = average_with_start(job, run, dry_run, None, final=False)
                chosen |= {score: mean.found.score, "alpha": mean.alpha}
            progress = Progress("refit", rows=progress.rows, chosen=chosen)
    if progress.phase == "refit":
        stores = job.stores
        del job
        job = prepare(config, refit=True, stores=stores, processes=session.processes)
        progress = run_phase(job, run, session.observer, progress, state, dry_run)
    return job, progress


def _choose_strength(
    config: FinetuneConfig,
    stores: FinetuneStores,
    held_out: tuple[Record, ...],
    run: RunFolder,
    dry_run: bool,
    found: Suitability | None,
) -> SearchResult:
    """Choose the strength for `lam=auto`, unless the resumed run has chosen already.

    The run then continues from the state that the best candidate has reached.

    Args:
        found: the estimate of whether the source's attention suits the labels, if there is one.
    """
    if config.resume is not None and run.has(SEARCH_FILE):
        run.remove("search")  # should the run have ended just before this
        return read_search(run)

    def train(lam: float, folder: RunFolder, stop: int) -> list[dict[str, Any]]:
        candidate = config.model_copy(update={"lam": lam})
        job = prepare(candidate, stores=stores, processes=run.processes)
        state = None
        if folder.has_state():
            state = folder.read_state()
            recorded = read_record(run)["config"]
            check_origin(state, run, recorded, job.split.to_json())
        return run_phase(job, folder, SilentObserver(), Progress(), state, dry_run, stop).rows

    def count_held_out() -> int:
        return stores.count_scored(held_out)

    regularizer, epochs = next(iter(config.regularizer)), cast(int, config.epochs)
    candidates, why = choices(regularizer, found is not None), None
    released = found is not None and found.verdict < 0
    if found is not None and not dry_run:
        why = (
            f"the {'weaker' if released else 'stronger'} is taken where held-out images cannot "
            f"tell, as of the source's attention: {reason(found)}"
        )
        log.info("`lam=auto` tries 0 and %g; %s", candidates[-1], why)
    result = search(candidates, epochs, count_held_out, run, train, released, why)
    log.log(logging.INFO if result["chosen"] else logging.WARNING, report(result, epochs))
    return result


def _summarize(
    session: Session[FinetuneConfig],
    job: FinetuneJob,
    progress: Progress,
    averaged: Averaged | None,
    beforehand: BeforeTraining,
) -> FinetuneSummary:
    """Test the saved weights and return the summary, with what was measured `beforehand`."""
    config = job.config
    epochs_run = sum("phase" not in row for row in progress.rows)  # a refit's rows have one
    saved = [row for row in progress.rows if row["epoch"] == progress.best_epoch]
    last = dict(saved[-1]) if saved else {}
    score = progress.best_score
    mean: AverageWeight = {}
    if averaged is not None:
        mean["average_alpha"] = averaged.alpha
        last |= {"attention_drift": averaged.found.drift, "attention": averaged.found.attention}
        score = averaged.found.score if job.split.val else None
    if progress.chosen is not None:
        score = score_of(progress.chosen)
    several = job.dataset.multi_label
    validated: ValidationLabels = {"val_map": score} if several else {}
    tracked: ValidationAttention = {}
    if config.track_attention:
        attention = last.get("attention")
        tracked["attention_inside"] = inside_last_block(attention)
        tracked["attention_area"] = None if attention is None else attention["area"]
    return {
        "command": "finetune",
        "run": str(session.run.path),
        **test(job, session.run, session.dry_run),
        "n_train": job.stores.count_readable(job.records),
        "n_val": job.stores.count_readable(job.split.val),
        "n_test": job.stores.count_readable(job.split.test),
        "epochs": job.epochs,
        "epochs_run": epochs_run,
        "stopped_early": epochs_run < job.epochs and not session.dry_run,
        "best_epoch": progress.best_epoch,
        "val_top1": None if several else score,
        **validated,
        "attention_drift": last.get("attention_drift"),
        "trainable_parameters": job.learning,
        **tracked,
        **session.costs(job, progress),
        **mean,
        **beforehand,
        **CrossValidation(),  # measured afterwards
    }
