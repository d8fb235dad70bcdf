"""Check of a dataset: missing and unreadable images, duplicates, and published numbers."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict

from gtacli.data.base import NO_CLASS, SPLITS, ImageDataset, LeftOut, Record
from gtacli.data.learnable import describe_one_class
from gtacli.data.readers.published import is_missing
from gtacli.images.decode import ImageError, decode, read_bytes
from gtacli.runtime.prefetch import AHEAD, ahead
from gtacli.runtime.results import Doc


class SplitImage(TypedDict):
    """An image of a split."""

    part: Annotated[str, Doc("split: train, val or test")]
    image: Annotated[str, Doc("name of the image within the dataset")]


class ImageProblem(SplitImage):
    """An image that is missing or cannot be read."""

    error: Annotated[str, Doc("the reason, in one line")]


class SplitCounts(TypedDict):
    """Numbers of a split."""

    images: Annotated[int, Doc("number of images")]
    published: Annotated[int | None, Doc("published number of images; null: not known")]
    classes: Annotated[int, Doc("number of classes with images")]
    fewest: Annotated[int, Doc("images of the smallest class")]
    most: Annotated[int, Doc("images of the largest class")]
    labels: NotRequired[
        Annotated[float, Doc("mean number of labels of an image; only with `multi_label`")]
    ]
    unlabeled: NotRequired[Annotated[int, Doc("images without any label; only with `multi_label`")]]


class LeftOutCounts(TypedDict):
    """Files, rows or folders that a dataset does not use, for one reason."""

    kind: Annotated[str, Doc("files, images, folders or rows")]
    reason: Annotated[str, Doc("why they are not used")]
    count: Annotated[int, Doc("number of them")]
    suffixes: Annotated[dict[str, int], Doc("number by suffix; of files and images")]
    names: Annotated[list[str], Doc("all of them, named within the dataset")]


class DatasetReport(TypedDict):
    """The result of the check of a dataset."""

    name: Annotated[str, Doc("name of the dataset")]
    published: Annotated[str | None, Doc("title of the published dataset; null: none is known")]
    images: Annotated[int, Doc("number of images")]
    classes: Annotated[int, Doc("number of classes; 0 without labels")]
    parts: Annotated[dict[str, SplitCounts], Doc("numbers by split")]
    missing: Annotated[list[ImageProblem], Doc("images without a file")]
    unreadable: Annotated[list[ImageProblem], Doc("images that cannot be decoded")]
    incomplete: Annotated[
        list[ImageProblem], Doc("images that are read although they lack their last bytes")
    ]
    duplicates: Annotated[
        list[list[SplitImage]], Doc("groups of images with the same bytes in more than one split")
    ]
    left_out: Annotated[list[LeftOutCounts], Doc("what the dataset does not use")]
    unseen: Annotated[
        list[str], Doc("classes without training images, which commands that learn leave out")
    ]
    wrong: Annotated[list[str], Doc("the problems, one line each")]
    ok: Annotated[bool, Doc("whether there is no problem")]


class DataCheck(DatasetReport):
    """The JSON object of `gta data check`."""

    data: Annotated[str, Doc("the data spec")]


class ImageCheck(NamedTuple):
    """The result for one image: the digest of its encoded bytes, an error, what it lacks."""

    digest: bytes | None = None
    missing: bool = False
    error: str | None = None
    damage: str | None = None


def check_dataset(
    dataset: ImageDataset,
    quick: bool = False,
    progress: Callable[[], None] | None = None,
) -> DatasetReport:
    """Read every image and, unless `quick`, decode it.

    Args:
        dataset: the dataset to check.
        quick: do not decode the images.
        progress: called after every image.
    """
    records = list(dataset.records())
    missing: list[ImageProblem] = []
    unreadable: list[ImageProblem] = []
    incomplete: list[ImageProblem] = []
    by_content: dict[bytes, list[tuple[str, Record]]] = {}
    checks = ahead(lambda pair: _check_image(pair[1], quick), records, AHEAD)
    for (split, record), found in zip(records, checks, strict=True):
        if found.digest is not None:
            by_content.setdefault(found.digest, []).append((split, record))
        if found.error is not None:
            row: ImageProblem = {"part": split, "image": record.key, "error": found.error}
            (missing if found.missing else unreadable).append(row)
        if found.damage is not None:
            incomplete.append({"part": split, "image": record.key, "error": found.damage})
        if progress is not None:
            progress()
    duplicates: list[list[SplitImage]] = [
        [{"part": split, "image": record.key} for split, record in same]
        for same in by_content.values()
        if len({split for split, _ in same}) > 1
    ]
    wrong = list(_find_problems(dataset, missing, unreadable, incomplete, duplicates))
    return {
        "name": dataset.name,
        "published": dataset.published.title if dataset.published else None,
        "images": len(records),
        "classes": 0 if dataset.classes == NO_CLASS else len(dataset.classes),
        "parts": _count_by_split(dataset),
        "missing": missing,
        "unreadable": unreadable,
        "incomplete": incomplete,
        "duplicates": duplicates,
        "left_out": [_count_left_out(one) for one in dataset.left_out],
        "unseen": _unseen_classes(dataset),
        "wrong": wrong,
        "ok": not wrong,
    }


def _check_image(record: Record, quick: bool) -> ImageCheck:
    if is_missing(record):
        return ImageCheck(missing=True, error=f"no such image: {record.path}")
    try:
        digest = hashlib.sha256(read_bytes(record.source)).digest()
    except ImageError as error:
        return ImageCheck(error=str(error))
    damage: list[str] = []
    if not quick:
        try:
            decode(record.source, tell=damage.append)
        except ImageError as error:
            return ImageCheck(digest, error=str(error))
    return ImageCheck(digest, damage=damage[0] if damage else None)


def _count_by_split(dataset: ImageDataset) -> dict[str, SplitCounts]:
    """Count images, published images, classes, and the fewest and most images of a class."""
    expected = dataset.published.counts if dataset.published else {}
    counts: dict[str, SplitCounts] = {}
    for split in SPLITS:
        records = dataset[split]
        labels = (label for record in records for label in record.every_label)
        sizes = Counter(() if dataset.classes == NO_CLASS else labels).values()
        if records or split in expected:
            counts[split] = {
                "images": len(records),
                "published": expected.get(split),
                "classes": len(sizes),
                "fewest": min(sizes, default=0),
                "most": max(sizes, default=0),
            }
        if records and dataset.multi_label:
            counts[split]["labels"] = round(sum(sizes) / len(records), 3)
            counts[split]["unlabeled"] = sum(not record.every_label for record in records)
    return counts


def _find_problems(
    dataset: ImageDataset,
    missing: list[ImageProblem],
    unreadable: list[ImageProblem],
    incomplete: list[ImageProblem],
    duplicates: list[list[SplitImage]],
) -> Iterator[str]:
    for one in dataset.left_out:
        if one.wrong:
            yield f"left out: {one}"
    if len(dataset.classes) == 1 and dataset.classes != NO_CLASS and not dataset.multi_label:
        yield describe_one_class(dataset)
    published = dataset.published
    home = f"; {published.title} is published at {published.home}" if published else ""
    if missing:
        yield f"{_count_text(missing)} missing, first {missing[0]['image']}{home}"
    if unreadable:
        yield f"{_count_text(unreadable)} unreadable, first {unreadable[0]['image']}{home}"
    if incomplete:
        yield f"{_count_text(incomplete)} without the last bytes, first {incomplete[0]['image']}"
    if duplicates:
        places = " and ".join(f"{d['image']} ({d['part']})" for d in duplicates[0])
        yield f"{_count_text(duplicates)} in more than one split, first {places}"
    if published is None:
        return
    for split, count in published.counts.items():
        if len(dataset[split]) != count:
            numbers = f"{len(dataset[split]):,} images, {count:,} are published"
            yield f"the {split} split has {numbers}{home}"
    if len(dataset.classes) != published.classes:
        yield f"{len(dataset.classes)} classes, {published.classes} are published{home}"


def _count_left_out(one: LeftOut) -> LeftOutCounts:
    return {
        "kind": one.kind,
        "reason": one.reason,
        "count": len(one.names),
        "suffixes": one.suffixes,
        "names": list(one.names),
    }


def _unseen_classes(dataset: ImageDataset) -> list[str]:
    seen = {label for record in dataset["train"] for label in record.every_label}
    every = {label for _, record in dataset.records() for label in record.every_label}
    found = every - seen if seen else set()
    return [dataset.classes[label] for label in sorted(found)]


def _count_text(rows: list[Any]) -> str:
    return "1 image is" if len(rows) == 1 else f"{len(rows):,} images are"
