"""Cross-validation (`folds`): every training image is classified by a network that never saw it.

Where images are too few to hold any out, they are cut into K folds, by class and seed. For each of
them a network is trained on the others, by the options of the run and to the last epoch, and
classifies the fold. So all images tell how good the method is, and none is lost to the run's own
training. The estimate is of networks that see (K - 1)/K of the images: it is rather too low.

Images with any number of labels are spread over the folds by `gtacli.data.stratification`. Their
mean average precision ranks the images of all folds together: in one fold alone, rare classes
have hardly an image.

The strength of the attention's penalty, where the program decides it, is decided for each fold by
the images that it is trained on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from gtacli.config.finetune import FinetuneConfig
from gtacli.data.base import Record
from gtacli.data.labels import label_tensor, multi_hot
from gtacli.data.sampling import Split, split_folds
from gtacli.errors import GtaError, Interrupted, UsageError
from gtacli.finetuning.decision import DECISION_FILE, apply, decide
from gtacli.finetuning.frozen_features import extract_features
from gtacli.finetuning.job import FinetuneJob, FinetuneStores
from gtacli.finetuning.per_class import mean_class_accuracy
from gtacli.finetuning.phases import average_with_start, load_saved, run_phase
from gtacli.finetuning.prepare import prepare
from gtacli.finetuning.results import CrossValidation
from gtacli.inference.prediction_table import CsvTable, TableShape, join_labels, label_separator
from gtacli.inference.predictions import THRESHOLD, predictions
from gtacli.measures.multilabel import map_interval, score_labels
from gtacli.measures.statistics import wilson_interval
from gtacli.models.files import read_weights
from gtacli.models.loading import LoadedModel
from gtacli.runtime.repeated import hide_repeated
from gtacli.runtime.run_files import FOLDS_FILE, FOLDS_TABLE
from gtacli.runtime.run_folder import RunFolder
from gtacli.training.loop import SilentObserver
from gtacli.training.record import read_record
from gtacli.training.same_inputs import check_origin
from gtacli.training.state import Progress, read_progress

log = logging.getLogger(__name__)

FOLDER = "folds"
REPEATED = (
    "data.store", "finetuning.decision", "finetuning.loaded_head", "finetuning.prepare",
    "finetuning.source", "models.loading",
)  # fmt: skip
"""Modules that have logged of the run itself what they would log of each fold."""
TOP = 5
"""Classes of an image in the table, as many as `gta predict` has by default."""


class FoldLogits(NamedTuple):
    """The logits of images by networks of folds that have not seen them.

    Attributes:
        values: logits (n, classes), fp32.
        rows: int64 (n,), the images' numbers in `split.json`'s `train`.
    """

    values: Tensor
    rows: Tensor


def require_folds(records: tuple[Record, ...], folds: int, seed: int) -> None:
    """Raise UsageError if there are fewer images to leave out than folds."""
    left_out = set(split_folds(records, folds, seed).values())
    if len(left_out) < folds:
        text = (
            f"{folds} are more than the {len(left_out)} images that can be left out (of classes "
            "with two or more)"
        )
        raise UsageError(text, option="folds")


def cross_validate(
    config: FinetuneConfig, stores: FinetuneStores, run: RunFolder
) -> CrossValidation:
    """Train a network for each fold and classify that fold; finished folds are not repeated.

    Args:
        config: of the run, before the program decided anything but the parts of a batch.
        stores: of the run.
        run: its folder; gets the table and the logits.

    Returns: fields of the summary.

    Raises:
        Interrupted: with the way to resume.
        RunError: if the training of a fold fails.
    """
    assert config.folds is not None
    split, metric = stores.split, "mAP " if stores.dataset.multi_label else ""
    fold_of = split_folds(split.train, config.folds, split.info["seed"])
    found: list[FoldLogits] = []
    by_fold: list[float | None] = []
    log.info("cross-validation: %d networks, each trained without one fold", config.folds)
    for number in range(1 if run.dry else config.folds):
        rows = [i for i, r in enumerate(split.train) if fold_of.get(r.key) == number]
        with hide_repeated(*REPEATED):
            found.append(_logits_of(number, rows, config, stores, run))
        by_fold.append(_score(found[-1], stores))
        score = "no label" if by_fold[-1] is None else f"{metric}{100 * by_fold[-1]:.1f} %"
        log.info(
            *("fold %d of %d: %s of %d images", number + 1, config.folds),
            *(score, len(found[-1].rows)),
        )
    logits = FoldLogits(*(torch.cat(column) for column in zip(*found, strict=True)))
    folds = torch.cat([torch.full_like(one.rows, n) for n, one in enumerate(found)])
    _write(run, stores, logits, folds)
    run.remove(FOLDER)
    return _measure(logits, stores, split.info["seed"], by_fold)


def _measure(
    logits: FoldLogits, stores: FinetuneStores, seed: int, by_fold: list[float | None]
) -> CrossValidation:
    labels = label_tensor(stores.split.train)[logits.rows]
    classes = len(stores.dataset.classes)
    if stores.dataset.multi_label:
        truth = multi_hot(labels, classes)
        scores = score_labels(logits.values, truth)
        return {
            "folds_map": scores.map,
            "folds_interval": map_interval(logits.values, truth, seed),
            "folds_f1_macro": scores.f1_macro,
            "folds_f1_micro": scores.f1_micro,
            "folds_map_by_fold": by_fold,
            "n_folds": len(labels),
        }
    hits = logits.values.argmax(1) == labels
    right, n = int(hits.sum()), len(hits)
    counts = (labels[hits].bincount(minlength=classes), labels.bincount(minlength=classes))
    by_class = zip(*(count.tolist() for count in counts), strict=True)
    low, high = wilson_interval(right, n)
    return {
        "folds_top1": right / n,
        "folds_interval": [low, high],
        "folds_mean_class_top1": mean_class_accuracy(by_class),
        "folds_top1_by_fold": cast("list[float]", by_fold),
        "n_folds": n,
    }


def _score(logits: FoldLogits, stores: FinetuneStores) -> float | None:
    """Return the accuracy of a fold, or its mAP; None if none of its images has a label."""
    labels = label_tensor(stores.split.train)[logits.rows]
    if stores.dataset.multi_label:
        return score_labels(logits.values, multi_hot(labels, logits.values.shape[1])).map
    return float((logits.values.argmax(1) == labels).double().mean())


def _logits_of(
    number: int,
    rows: list[int],
    config: FinetuneConfig,
    stores: FinetuneStores,
    run: RunFolder,
) -> FoldLogits:
    """Return the logits of one fold, trained and classified unless the run has them already."""
    file = f"{FOLDER}/{number + 1}.safetensors"
    if config.resume is not None and run.has(file):
        tensors = run.processes.run_on_main(lambda: read_weights(run.path / file)[0])
        return _checked(tensors, run.path / file, rows, len(stores.dataset.classes))
    folder = run.subfolder(f"{FOLDER}/{number + 1}")
    job, progress, state = _prepare(rows, config, stores, run, folder)
    limit = 1 if run.dry else None
    try:
        run_phase(job, folder, SilentObserver(), progress, state, run.dry)
    except Interrupted:
        raise Interrupted(
            f"stopped in fold {number + 1} of {config.folds}; continue with `resume` {run.path}"
        ) from None
    if config.average == "source":
        average_with_start(job, folder, run.dry, None, final=True)
    target = job.evaluated if run.dry else load_saved(job, folder)
    left_out = tuple(stores.split.train[row] for row in rows)
    read = _classifier(job, target)
    features = extract_features(job, left_out, limit, read=read, target=target)
    found = FoldLogits(features.values, torch.tensor(rows)[features.indices])
    run.write_tensors(found._asdict(), {}, file)
    run.remove(f"{FOLDER}/{number + 1}")
    return found


def _prepare(
    rows: list[int],
    config: FinetuneConfig,
    stores: FinetuneStores,
    run: RunFolder,
    folder: RunFolder,
) -> tuple[FinetuneJob, Progress, dict[str, Any] | None]:
    """Return the job that trains on all images but those of a fold, and where it goes on."""
    out = set(rows)
    whole = stores.split
    # Without validation images its last epoch is saved: the fold must not choose its own network.
    train = tuple(record for row, record in enumerate(whole.train) if row not in out)
    split = Split(train, (), (), {**whole.info, "validation": "none"})
    own = FinetuneStores(
        interpolation=stores.interpolation,
        cache=config.cache,
        dataset=stores.dataset,
        split=split,
    )
    quiet = {"drift": False, "track_attention": False, "keep_adapter": False, "folds": None}
    config = config.model_copy(update=quiet)
    state = None
    if config.resume is not None and folder.has_state():
        state = folder.read_state()
        check_origin(state, run, read_record(run)["config"], whole.to_json())
    job = prepare(config, stores=own, processes=run.processes)
    if config.leaves_attention_open and (decision := decide(job, folder, run.dry)):
        before = run.read_json(DECISION_FILE) if run.has(DECISION_FILE) else {}
        if decision["kept_blocks"] != before.get("kept_blocks"):
            log.info("%s", decision.get("why", ""))
        config, depth = job.config, job.depth
        del job
        job = prepare(apply(config, decision, depth), stores=own, processes=run.processes)
    return job, Progress() if state is None else read_progress(state), state


def _classifier(job: FinetuneJob, target: LoadedModel) -> Callable[[Tensor], Tensor]:
    """Return a function from uint8 images (B, 3, H, W) to a network's logits."""
    model, device = target.model.eval(), job.compute.device
    view = target.view(device)

    def classify(images: Tensor) -> Tensor:
        with job.compute.autocast():
            logits: Tensor = model(view(images.to(device)))
        return logits.float()

    return classify


def _checked(tensors: dict[str, Tensor], path: Path, rows: list[int], classes: int) -> FoldLogits:
    """Return the logits of a fold's file. Raises GtaError for a file of other content."""
    values, own = tensors.get("values"), tensors.get("rows")
    if (
        values is None
        or own is None
        or values.dtype != torch.float32
        or values.shape != (len(own), classes)
        or own.dtype != torch.int64
        or not {*own.tolist()} <= {*rows}
    ):
        text = f"{path} is damaged: it does not hold the logits of this fold; remove it"
        raise GtaError(text, option="resume")
    return FoldLogits(values, own)


def _write(run: RunFolder, stores: FinetuneStores, logits: FoldLogits, folds: Tensor) -> None:
    """Write the logits, and a table of the predictions in the order of the training images."""
    records, names = stores.split.train, stores.dataset.classes
    order = logits.rows.argsort()
    values, rows, folds = logits.values[order], logits.rows[order], folds[order]
    labels = label_tensor(records)[rows]
    tensors = {"logits": values, "labels": labels, "rows": rows, "folds": folds}
    run.write_tensors(tensors, {}, FOLDS_FILE)
    several = stores.dataset.multi_label
    shape = TableShape(
        classes=min(TOP, len(names)),
        separator=label_separator(names) if several else None,
        known=("fold", "true_labels" if several else "label"),
    )
    own = [records[row] for row in rows.tolist()]
    found = predictions(
        [record.key for record in own],
        (values.sigmoid() if several else values.softmax(1)).numpy(),
        names.__getitem__,
        TOP,
        threshold=THRESHOLD if several else None,
    )
    lines: list[str] = []
    table = CsvTable(lines.append, shape)
    for one, record, fold in zip(found, own, folds.tolist(), strict=True):
        truth = [names[label] for label in record.every_label]
        table.add(one, (str(fold + 1), join_labels(truth, shape) if several else truth[0]))
    content = "\n".join([*lines, ""]).encode("utf-8", "surrogateescape")  # names need not be text
    run.write(FOLDS_TABLE, lambda draft: draft.write_bytes(content))
