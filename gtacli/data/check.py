"""Check of a dataset: missing and unreadable images, duplicates, and published numbers."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from gtacli.data.base import SPLITS, ImageDataset, Record
from gtacli.data.readers.published import is_missing
from gtacli.images.decode import ImageError, decode
from gtacli.runtime.machine import usable_cores


class ImageCheck(NamedTuple):
    """The result for one image: the digest of its encoded bytes, or an error."""

    digest: bytes | None = None
    missing: bool = False
    error: str | None = None


def check_dataset(
    dataset: ImageDataset,
    quick: bool = False,
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Read every image and, unless `quick`, decode it.

    Args:
        dataset: the dataset to check.
        quick: do not decode the images.
        progress: called after every image.

    Returns:
        Numbers by split, `missing` and `unreadable` images, `duplicates` (groups of images with the
        same bytes in more than one split), and `wrong`, one line per problem.
    """
    records = list(dataset.records())
    missing: list[dict[str, Any]] = []
    unreadable: list[dict[str, Any]] = []
    by_content: dict[bytes, list[tuple[str, Record]]] = {}
    with ThreadPoolExecutor(min(16, usable_cores())) as pool:
        checks = pool.map(lambda pair: _check_image(pair[1], quick), records)
        for (split, record), found in zip(records, checks, strict=True):
            if found.digest is not None:
                by_content.setdefault(found.digest, []).append((split, record))
            if found.error is not None:
                row = {"part": split, "image": record.key, "error": found.error}
                (missing if found.missing else unreadable).append(row)
            if progress is not None:
                progress()
    duplicates = [
        [{"part": split, "image": record.key} for split, record in same]
        for same in by_content.values()
        if len({split for split, _ in same}) > 1
    ]
    report = {
        "name": dataset.name,
        "published": dataset.published.title if dataset.published else None,
        "images": len(records),
        "classes": len(dataset.classes),
        "parts": _count_by_split(dataset),
        "missing": missing,
        "unreadable": unreadable,
        "duplicates": duplicates,
    }
    wrong = list(_find_problems(dataset, missing, unreadable, duplicates))
    return {**report, "wrong": wrong, "ok": not wrong}


def _check_image(record: Record, quick: bool) -> ImageCheck:
    if is_missing(record):
        return ImageCheck(missing=True, error=f"no such image: {record.path}")
    try:
        with record.open() as stream:
            digest = hashlib.sha256(stream.read()).digest()
    except Exception as error:  # shards and tables raise errors of their own
        return ImageCheck(error=f"cannot read image {record.path}: {' '.join(str(error).split())}")
    if not quick:
        try:
            decode(record.path)
        except ImageError as error:
            return ImageCheck(digest, error=str(error))
    return ImageCheck(digest)


def _count_by_split(dataset: ImageDataset) -> dict[str, dict[str, int | None]]:
    """Count images, published images, classes, and the fewest and most images of a class."""
    expected = dataset.published.counts if dataset.published else {}
    counts: dict[str, dict[str, int | None]] = {}
    for split in SPLITS:
        sizes = Counter(record.label for record in dataset[split]).values()
        if sizes or split in expected:
            counts[split] = {
                "images": sum(sizes),
                "published": expected.get(split),
                "classes": len(sizes),
                "fewest": min(sizes, default=0),
                "most": max(sizes, default=0),
            }
    return counts


def _find_problems(
    dataset: ImageDataset,
    missing: list[dict[str, Any]],
    unreadable: list[dict[str, Any]],
    duplicates: list[list[dict[str, Any]]],
) -> Iterator[str]:
    published = dataset.published
    home = f"; {published.title} is published at {published.home}" if published else ""
    if missing:
        yield f"{_count_text(missing)} missing, first {missing[0]['image']}{home}"
    if unreadable:
        yield f"{_count_text(unreadable)} unreadable, first {unreadable[0]['image']}{home}"
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


def _count_text(rows: list[Any]) -> str:
    return "1 image is" if len(rows) == 1 else f"{len(rows):,} images are"
