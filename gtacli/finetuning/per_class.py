"""How the images spread over the classes, and which classes a network tells worst."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

FEW = 5
WORST = 5


def log_balance(classes: Mapping[str, Mapping[str, int]]) -> None:
    """One line on the training images of each class, one more where a class has none.

    Args:
        classes: counts by class name, as in `split.json`.
    """
    counts = {name: count["train"] for name, count in classes.items() if count["train"]}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    text = f"{sum(counts.values())} training images in {len(counts)} classes"
    if counts[least] == counts[most]:
        log.info("%s, %d in each", text, counts[most])
    else:
        log.info("%s%s", text, _uneven(counts, least, most))
    if len(counts) < len(classes):
        unseen = [name for name in classes if name not in counts]
        log.warning("without any training image: %s; no test image of them can be right",
                    _some(unseen))  # fmt: skip


def _uneven(counts: Mapping[str, int], least: str, most: str) -> str:
    text = (
        f", from {counts[least]} ({least}) to {counts[most]} ({most}), "
        f"imbalance {counts[most] / counts[least]:.1f}"
    )
    few = [name for name, count in counts.items() if count < FEW]
    return text + (f"; {_some(few)} with fewer than {FEW}" if few else "")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{len(names)} ({shown}{', ...' if len(names) > 3 else ''})"


def mean_class_accuracy(by_class: Iterable[tuple[int, int]]) -> float | None:
    """Mean over the classes of their accuracies, which Pets and Aircraft report; None without
    images.

    Args:
        by_class: (hits, images) of each class; classes without images do not count.
    """
    shares = [hits / images for hits, images in by_class if images]
    return sum(shares) / len(shares) if shares else None


def worst_classes(
    names: Sequence[str], by_class: Sequence[tuple[int, int]]
) -> list[dict[str, Any]]:
    """`class`, `top1`, `n_test` of the classes with the most confusion, worst first; at most five,
    none that is always right."""
    rows: list[dict[str, Any]] = [
        {"class": name, "top1": hits / images, "n_test": images}
        for name, (hits, images) in zip(names, by_class, strict=True)
        if hits < images
    ]
    return sorted(rows, key=lambda row: (row["top1"], -row["n_test"]))[:WORST]
