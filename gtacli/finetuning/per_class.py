"""The balance of training images over the classes, and the accuracy by class."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from gtacli.data.base import Record
from gtacli.data.sampling import count_labels
from gtacli.finetuning.results import ClassResult, LabelResult
from gtacli.measures.multilabel import ClassScore

log = logging.getLogger(__name__)

FEW = 5
WORST = 5
UNEQUAL = 10
"""Ratio of the largest class to the smallest from which on a line tells of `balance`."""


def log_balance(classes: Mapping[str, Mapping[str, int]], balance: str = "none") -> None:
    """Log how many training images the classes have, and which have none.

    Args:
        classes: counts by class name, as in `split.json`.
        balance: the option; without it very unequal classes are told of it.
    """
    counts = {name: count["train"] for name, count in classes.items() if count["train"]}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    text = f"{sum(counts.values())} training images in {len(counts)} classes"
    if counts[least] == counts[most]:
        log.info("%s, %d in each", text, counts[most])
    else:
        log.info("%s%s", text, _describe_imbalance(counts, least, most))
        if balance == "none" and counts[most] >= UNEQUAL * counts[least]:
            log.info("`balance=loss` gives rare classes the weight of frequent ones")
    if len(counts) < len(classes):
        absent = [name for name in classes if name not in counts]
        log.warning("classes without training images, which cannot be predicted: %s",
                    _name_some(absent))  # fmt: skip


def class_weights(records: Sequence[Record], classes: int) -> Tensor:
    """Return N / (K n_c), (classes,): all classes count alike, and the mean over images is 1.

    K counts the classes with images; the others get 0.
    """
    counts = torch.bincount(torch.tensor([r.label for r in records]), minlength=classes)
    present = int((counts > 0).sum())
    weights = len(records) / (present * counts.clamp_min(1).double())
    return torch.where(counts > 0, weights, 0.0).float()


def positive_weights(records: Sequence[Record], classes: int) -> Tensor:
    """Return (N - n_c) / n_c, (classes,): of a class the images with and without it count alike.

    A class without images, or without others, has 1.
    """
    counts = count_labels(records)
    numbers = torch.tensor([counts[label] for label in range(classes)], dtype=torch.float64)
    images = sum(record.first is None for record in records)
    weights = (images - numbers) / numbers.clamp_min(1)
    return torch.where((numbers > 0) & (weights > 0), weights, 1.0).float()


def log_labels(records: Sequence[Record], classes: Sequence[str], balance: str = "none") -> None:
    """Like `log_balance`, for training images with any number of labels."""
    counts = {classes[label]: n for label, n in sorted(count_labels(records).items())}
    labels, empty = sum(counts.values()), sum(not record.every_label for record in records)
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    log.info(
        "%d training images with %.2f labels on average (%d without any) of %d classes%s",
        *(len(records), labels / len(records), empty, len(counts)),
        _describe_imbalance(counts, least, most) if counts[least] < counts[most] else "",
    )
    if balance == "none" and counts[most] >= UNEQUAL * counts[least]:
        log.info("`balance=loss` lets a class's images with and without it count alike")


def _describe_imbalance(counts: Mapping[str, int], least: str, most: str) -> str:
    text = (
        f", from {counts[least]} ({least}) to {counts[most]} ({most}), "
        f"imbalance {counts[most] / counts[least]:.1f}"
    )
    few = [name for name, count in counts.items() if count < FEW]
    return text + (f"; {_name_some(few)} with fewer than {FEW}" if few else "")


def _name_some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} ({shown}{', ...' if len(names) > 3 else ''})"


def mean_class_accuracy(by_class: Iterable[tuple[int, int]]) -> float | None:
    """Return the mean of the classes' accuracies, as Pets and Aircraft report; None without images.

    Args:
        by_class: (hits, images) of each class; classes without images do not count.
    """
    accuracies = [hits / images for hits, images in by_class if images]
    return sum(accuracies) / len(accuracies) if accuracies else None


def label_results(names: Sequence[str], by_class: Sequence[ClassScore | None]) -> list[LabelResult]:
    """Return the metrics of the classes that an image has, in the order of the classes."""
    return [
        {"class": name, "ap": score.ap, "f1": score.f1, "n_test": score.images}
        for name, score in zip(names, by_class, strict=True)
        if score is not None
    ]


def worst_classes(names: Sequence[str], by_class: Sequence[tuple[int, int]]) -> list[ClassResult]:
    """Return up to five classes with the lowest accuracy below 1, worst first."""
    rows: list[ClassResult] = [
        {"class": name, "top1": hits / images, "n_test": images}
        for name, (hits, images) in zip(names, by_class, strict=True)
        if hits < images
    ]
    return sorted(rows, key=lambda row: (row["top1"], -row["n_test"]))[:WORST]
