"""Means of weights: a soup of runs, and its mean with the source they started from.

    w = (1 - alpha) w_source + alpha mean(w_1, ..., w_K)

K = 1 is WiSE-FT (Wortsman et al., arXiv 2109.01903); alpha = 1 is a model soup (Wortsman et al.,
arXiv 2203.05482), uniform, or greedy: in the order of their held-out accuracy, runs join whose
addition does not lower it. The classifiers are new, so that only the backbone is averaged with the
source. Weights average well where the runs started from one model; from several they do not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor

from gtacli.config.merge import MergeConfig
from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import ImageDataset, Record
from gtacli.data.loader import Batch, make_loader
from gtacli.data.spec import load_dataset
from gtacli.data.store import CacheMode, ImageStore
from gtacli.errors import UsageError
from gtacli.finetuning.evaluation import Evaluation, Evaluator
from gtacli.finetuning.source_average import choose_alpha, mean_of, start_weights
from gtacli.images.depth import reading_by_default
from gtacli.models.card import read_card
from gtacli.models.loading import LoadedModel, load_folder, load_model
from gtacli.models.metadata import model_metadata
from gtacli.runtime.devices import Compute, choose_workers
from gtacli.runtime.fetching import recorded_specs
from gtacli.runtime.run_folder import RunFolder, environment
from gtacli.trained.results import MergedLabels, MergedRun, MergeSummary
from gtacli.trained.runs import TrainedRun, check_alike, common_held_out, read_run, test_images

log = logging.getLogger(__name__)
Weights = dict[str, Tensor]
UNCHOSEN = 0.5
"""Alpha where no image can choose it: the advice of WiSE-FT's paper."""


def merge(
    config: MergeConfig, paths: Sequence[Any], folder: RunFolder, compute: Compute
) -> MergeSummary:
    """Merge runs into the model of a new run folder.

    Raises UsageError for runs that cannot be averaged, GtaError for unreadable ones.
    """
    runs = [read_run(path) for path in paths]
    with reading_by_default(runs[0].config.bands, runs[0].config.value_range):
        return _merge(config, runs, folder, compute)


def _merge(
    config: MergeConfig, runs: Sequence[TrainedRun], folder: RunFolder, compute: Compute
) -> MergeSummary:
    began = perf_counter()
    first = runs[0]
    _, header = first.weights()
    card = read_card(header, str(first.path))
    # The mean is of the weights as they are in the files: for the size of training.
    target = load_folder(first.path, card.image_size)
    weights = [check_alike(first, header, run) for run in runs]
    with recorded_specs("the record of a run", config.allow_fetch):
        dataset = _dataset(config, first)
        alpha = config.alpha if config.alpha is not None else ("auto" if len(runs) == 1 else 1.0)
        start = {} if alpha == 1.0 else _start(config, first, target)
    held_out = () if dataset is None else common_held_out(runs, dataset)
    measure = partial(_measure, target, _evaluator(target, compute, config, held_out, again=True))
    scores = [measure(w).score for w in weights] if held_out else [None] * len(runs)
    kept = _greedy(weights, scores, measure) if config.greedy else [*range(len(runs))]
    soup = mean_weights([weights[i] for i in kept])
    averaged = choose_alpha(
        lambda each: _load(target, mean_of(start, soup, each)),
        measure,
        _fixed(alpha, held_out),
    )
    tested = () if dataset is None else test_images(first, dataset)
    _write(folder, config, target, first, dataset, held_out, tested, card.test_size)
    if card.test_size is not None:
        target = load_folder(folder.path)
    found = _evaluator(target, compute, config, tested, again=False)()
    return {
        "command": "merge",
        "run": str(folder.path),
        "runs": [_describe(run, i in kept, scores[i]) for i, run in enumerate(runs)],
        "alpha": averaged.alpha,
        "val_top1": averaged.found.top1,
        "test_top1": found.top1,
        "test_top5": found.top5,
        "test_mean_class_top1": found.mean_class_top1,
        "n_val": len(held_out),
        "n_test": len(tested),
        "seconds": round(perf_counter() - began, 2),
        **_label_scores(averaged.found, found),
    }


def _label_scores(held_out: Evaluation, tested: Evaluation) -> MergedLabels:
    """Return the metrics of any number of labels; none of one class per image."""
    if held_out.labels is None and tested.labels is None:
        return {}
    return {"val_map": held_out.score, "test_map": tested.score}


def _describe(run: TrainedRun, kept: bool, score: float | None) -> MergedRun:
    """Return the row of a run; `score` is on the common held-out images."""
    own: MergedRun = {"run": str(run.path), "kept": kept, "val_top1": score, "test_top1": None}
    own["test_top1"] = run.summary.test_top1
    if run.config.multi_label:
        own |= {"val_top1": None, "val_map": score, "test_map": run.summary.test_map}
    return own


def mean_weights(weights: Sequence[Mapping[str, Tensor]]) -> Weights:
    """Return the mean of each tensor, summed in float64; counters are those of the first."""
    first = weights[0]
    if len(weights) == 1:
        return dict(first)
    return {
        key: torch.stack([w[key].double() for w in weights]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in first.items()
    }


def _greedy(
    weights: Sequence[Weights],
    scores: Sequence[float | None],
    measure: Callable[[Weights], Evaluation],
) -> list[int]:
    """Return the runs of the greedy soup, by number."""
    if None in scores:
        text = "needs images that no run has learned from, and these runs have none in common"
        raise UsageError(text, option="greedy")
    order = sorted(range(len(weights)), key=lambda i: -cast(float, scores[i]))
    kept, best = order[:1], cast(float, scores[order[0]])
    for i in order[1:]:
        score = measure(mean_weights([weights[j] for j in (*kept, i)])).score or 0.0
        if score >= best:
            kept, best = [*kept, i], score
    log.info("greedy soup: %d of %d runs", len(kept), len(weights))
    return sorted(kept)


def _fixed(alpha: float | str, held_out: Sequence[Record]) -> float | None:
    """Return alpha unless it is to be chosen."""
    if isinstance(alpha, float | int):
        return float(alpha)
    if held_out:
        return None
    log.warning("`alpha`: %g, as the run has held out no image to choose it by", UNCHOSEN)
    return UNCHOSEN


def _dataset(config: MergeConfig, run: TrainedRun) -> ImageDataset | None:
    spec = config.data if config.data is not None else run.config.data
    return None if spec is None else load_dataset(spec, run.config.multi_label)


def _start(config: MergeConfig, run: TrainedRun, target: LoadedModel) -> Weights:
    """Return the backbone of the model that the runs started from."""
    spec = config.source or run.config.source or run.config.model
    if spec is None:
        raise UsageError(f"{run.path} does not say what it started from", option="source")
    source = load_model(spec, num_classes=len(target.classes), image_size=target.image_size)
    if not source.report.loaded:
        raise UsageError(f"{spec} has random weights, with which a mean is meaningless",
                         option="source")  # fmt: skip
    start = start_weights(source)
    own = target.model.state_dict()
    wrong = [k for k, v in start.items() if k not in own or own[k].shape != v.shape]
    if wrong:
        text = f"{spec} is another network than that of {run.path}: {wrong[0]} does not fit"
        raise UsageError(text, option="source")
    return start


def _load(target: LoadedModel, weights: Mapping[str, Tensor]) -> None:
    target.model.load_state_dict(weights)


def _measure(
    target: LoadedModel, evaluate: Callable[[], Evaluation], weights: Weights | None = None
) -> Evaluation:
    """Evaluate weights, or those that are loaded."""
    if weights is not None:
        _load(target, weights)
    return evaluate()


def _evaluator(
    target: LoadedModel,
    compute: Compute,
    config: MergeConfig,
    records: tuple[Record, ...],
    again: bool,
) -> Callable[[], Evaluation]:
    """Return the evaluation of the network as it is on images; empty without any.

    Args:
        again: it is called several times, so that the images should be cached.
    """
    if not records:
        return Evaluation
    target.model.to(compute.device)
    transform = EvalTransform(target.image_size, target.crop_pct, target.interpolation)
    how = target.interpolation
    cache: CacheMode = "auto" if again else "none"
    store = ImageStore(records, transform.load_size, interpolation=how, cache=cache)
    workers = choose_workers(config.workers, compute.device, store.cached)

    def batches() -> Iterator[Batch]:
        loader = make_loader(store, transform, config.batch_size, train=False, workers=workers)
        yield from (batch for batch in loader if len(batch.images))

    return Evaluator(target, None, batches, compute)


def _write(
    folder: RunFolder,
    config: MergeConfig,
    target: LoadedModel,
    run: TrainedRun,
    dataset: ImageDataset | None,
    held_out: Sequence[Record],
    tested: Sequence[Record],
    test_size: tuple[int, int] | None,
) -> None:
    settings = config.model_dump(mode="json")
    settings["model"] = run.config.model
    settings["multi_label"] = run.config.multi_label
    settings["data"] = config.data if config.data is not None else run.config.data
    record: dict[str, Any] = {"command": "merge", "config": settings, **environment()}
    if dataset is not None:
        record["data"] = {"name": dataset.name, "fingerprint": dataset.fingerprint()}
    folder.write_json("run.json", record)
    split = {"val": [r.key for r in held_out], "test": [r.key for r in tested]}
    folder.write_json("split.json", split)
    folder.write_model(target.model, model_metadata(target, target.classes, test_size))
