"""The demands of learning: at least two classes, and no class without training images.

Other commands need neither: retrieval searches among classes that no training has seen.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from gtacli.data.base import ImageDataset, Record
from gtacli.errors import UsageError

log = logging.getLogger(__name__)


def without_unseen(dataset: ImageDataset, quiet: bool = False) -> ImageDataset:
    """Return the dataset without the classes that only its val and test splits have.

    A dataset without training images is returned as it is, and so are classes without any image.
    Images with several labels stay, without those of such classes.
    """
    trained = {label for record in dataset["train"] for label in record.every_label}
    unseen = {label for _, record in dataset.records() for label in record.every_label} - trained
    if not trained or not unseen:
        return dataset
    kept_labels = (label for label in range(len(dataset.classes)) if label not in unseen)
    labels = {old: new for new, old in enumerate(kept_labels)}
    classes = tuple(dataset.classes[old] for old in labels)
    if dataset.multi_label:
        if not quiet:
            names = _names(dataset, unseen)
            log.warning("left out: labels of classes without a training image: %s", names)
        renumbered = {
            split: tuple(
                replace(r, labels=tuple(labels[old] for old in r.every_label if old in labels))
                for r in records
            )
            for split, records in dataset.splits.items()
        }
        return replace(dataset, classes=classes, splits=renumbered)
    splits: dict[str, tuple[Record, ...]] = {}
    for split, records in dataset.splits.items():
        kept = tuple(
            record if labels[record.label] == record.label
            else replace(record, label=labels[record.label])
            for record in records if record.label in labels
        )  # fmt: skip
        lost = len(records) - len(kept)
        if lost and not quiet:
            log.warning(
                "left out: %s of %s, whose classes have no training image: %s",
                "1 image" if lost == 1 else f"{lost:,} images", split, _names(dataset, unseen),
            )  # fmt: skip
        if kept:
            splits[split] = kept
    return replace(dataset, classes=classes, splits=splits)


def require_seen(dataset: ImageDataset) -> ImageDataset:
    """Like `without_unseen`; raise UsageError if that leaves nothing of a split."""
    found = without_unseen(dataset, quiet=True)
    if lost := [split for split in dataset.splits if dataset[split] and not found[split]]:
        text = (
            f"{dataset.name}: no class of {' and '.join(lost)} has a training image, so that none "
            "can be learned; `gta probe retrieval` measures unseen classes"
        )
        raise UsageError(text, option="data")
    return without_unseen(dataset)


def require_classes(dataset: ImageDataset) -> ImageDataset:
    """Like `require_seen`; raise UsageError for training images of a single class, too.

    A single class of images with any number of labels is one that an image has or has not.
    """
    found = require_seen(dataset)
    if found["train"] and len(found.classes) == 1 and not found.multi_label:
        raise UsageError(describe_one_class(found), option="data")
    return found


def describe_one_class(dataset: ImageDataset) -> str:
    """Describe a dataset with a single class, and where its classes may be."""
    hint = dataset.hint or "give a folder with a subfolder for each class"
    return f"{dataset.name} has one class alone, '{dataset.classes[0]}': {hint}"


def _names(dataset: ImageDataset, labels: set[int]) -> str:
    names = [f"'{dataset.classes[label]}'" for label in sorted(labels)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
