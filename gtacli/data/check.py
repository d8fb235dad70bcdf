"""Whether a data set is whole: every image there and readable, none in two parts, and as many as
were published (a subset of a published set is told so)."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from gtacli.data.base import SPLITS, ImageDataset, Record
from gtacli.data.readers.published import is_missing
from gtacli.images.decode import ImageError, decode
from gtacli.runtime.machine import usable_cores


class Looked(NamedTuple):
    """One image: the digest of its encoded bytes, or what is wrong with it."""

    digest: bytes | None = None
    missing: bool = False
    error: str | None = None


def check(
    dataset: ImageDataset,
    quick: bool = False,
    progress: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Reads every image and, unless `quick`, decodes it.

    `progress()` is called after each. Gives figures a part, `missing` and `unreadable` images,
    `duplicates` (groups of images with the same bytes that lie in more than one part), and `wrong`:
    a line for whatever is not as it should be.
    """
    records = list(dataset.records())
    missing: list[dict[str, Any]] = []
    unreadable: list[dict[str, Any]] = []
    by_content: dict[bytes, list[tuple[str, Record]]] = {}
    with ThreadPoolExecutor(min(16, usable_cores())) as pool:
        looked = pool.map(lambda pair: _look(pair[1], quick), records)
        for (split, record), found in zip(records, looked, strict=True):
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
        "parts": _parts(dataset),
        "missing": missing,
        "unreadable": unreadable,
        "duplicates": duplicates,
    }
    wrong = list(_wrong(dataset, missing, unreadable, duplicates))
    return {**report, "wrong": wrong, "ok": not wrong}


def _look(record: Record, quick: bool) -> Looked:
    if is_missing(record):
        return Looked(missing=True, error=f"no such image: {record.path}")
    try:
        with record.open() as stream:
            digest = hashlib.sha256(stream.read()).digest()
    except Exception as error:  # a shard or a table can fail in its own ways
        return Looked(error=f"cannot read image {record.path}: {' '.join(str(error).split())}")
    if not quick:
        try:
            decode(record.path)
        except ImageError as error:
            return Looked(digest, error=str(error))
    return Looked(digest)


def _parts(dataset: ImageDataset) -> dict[str, dict[str, int | None]]:
    """Images, what was published of them, classes that occur, and the least and most a class."""
    expected = dataset.published.counts if dataset.published else {}
    parts: dict[str, dict[str, int | None]] = {}
    for split in SPLITS:
        sizes = Counter(record.label for record in dataset[split]).values()
        if sizes or split in expected:
            parts[split] = {
                "images": sum(sizes),
                "published": expected.get(split),
                "classes": len(sizes),
                "fewest": min(sizes, default=0),
                "most": max(sizes, default=0),
            }
    return parts


def _wrong(
    dataset: ImageDataset,
    missing: list[dict[str, Any]],
    unreadable: list[dict[str, Any]],
    duplicates: list[list[dict[str, Any]]],
) -> Iterator[str]:
    published = dataset.published
    home = f"; {published.title} is published at {published.home}" if published else ""
    if missing:
        yield f"{_images(missing)} missing, first {missing[0]['image']}{home}"
    if unreadable:
        yield f"{_images(unreadable)} unreadable, first {unreadable[0]['image']}{home}"
    if duplicates:
        places = " and ".join(f"{d['image']} ({d['part']})" for d in duplicates[0])
        yield f"{_images(duplicates)} in more than one part, first {places}"
    if published is None:
        return
    for split, count in published.counts.items():
        if len(dataset[split]) != count:
            have = f"{len(dataset[split]):,} images, published are {count:,}"
            yield f"the {split} part has {have}{home}"
    if len(dataset.classes) != published.classes:
        yield f"{len(dataset.classes)} classes, published are {published.classes}{home}"


def _images(rows: list[Any]) -> str:
    return "1 image is" if len(rows) == 1 else f"{len(rows):,} images are"
