"""A fingerprint of what the images of a dataset show, for edits that leave their sizes equal."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from gtacli.data.base import ImageDataset, Record
from gtacli.runtime.prefetch import ahead

IMAGES = 4000
"""Images that are read at most; of a larger dataset every n-th one."""
BLOCK = 256
"""Images whose times a thread looks up at once."""
EDGE = 1 << 15
"""Bytes that are read at the beginning and at the end of an image."""


def content_fingerprint(dataset: ImageDataset, threads: int | None = None) -> str:
    """Return a SHA-256 of the bytes of images: all of a small dataset, else some of each split."""
    records = [record for _, record in dataset.records()]
    chosen = records[:: -(-len(records) // IMAGES)]
    return _combine(chosen, [*ahead(_content, chosen, 64, threads)])


def time_fingerprint(dataset: ImageDataset, threads: int | None = None) -> str:
    """Return a SHA-256 of when all images were changed."""
    records = [record for _, record in dataset.records()]
    # Threads are for folders of a network: on a local disk handing over an image takes longer.
    blocks = (records[k : k + BLOCK] for k in range(0, len(records), BLOCK))
    return _combine(records, [*chain.from_iterable(ahead(_times, blocks, 64, threads))])


def is_sampled(dataset: ImageDataset) -> bool:
    """Return whether the dataset has images that `content_fingerprint` does not read."""
    return sum(len(records) for records in dataset.splits.values()) > IMAGES


def _combine(records: Sequence[Record], values: Sequence[str]) -> str:
    lines = sorted(f"{r.key}\0{value}" for r, value in zip(records, values, strict=True))
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _content(record: Record) -> str:
    try:
        with record.open() as file:
            digest = hashlib.sha256(file.read(EDGE))
            if file.seek(0, io.SEEK_END) > EDGE:
                file.seek(max(EDGE, file.tell() - EDGE))
                digest.update(file.read(EDGE))
        return digest.hexdigest()
    except Exception:  # its container may raise anything; it is reported when it is decoded
        return "unreadable"


def _times(records: Sequence[Record]) -> list[str]:
    return [_time(record) for record in records]


def _time(record: Record) -> str:
    try:
        if isinstance(record.path, Path):
            return str(os.stat(record.path).st_mtime_ns)
        return record.path.state() or ""
    except OSError:
        return "gone"
