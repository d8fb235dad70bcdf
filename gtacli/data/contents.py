"""A fingerprint of what the images of a dataset show, for edits that leave their sizes equal."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Sequence

from gtacli.data.base import ImageDataset, Record
from gtacli.images.packed import PackedImage
from gtacli.images.sources import Source
from gtacli.runtime.prefetch import ahead, ahead_in_blocks

IMAGES = 4000
"""Images that are read at most; of a larger dataset every n-th one."""
EDGE = 1 << 15
"""Bytes that are read at the beginning and at the end of an image."""


def content_fingerprint(dataset: ImageDataset, threads: int | None = None) -> str:
    """Return a SHA-256 of the bytes of images: all of a small dataset, else some of each split."""
    records = [record for _, record in dataset.records()]
    chosen = records[:: -(-len(records) // IMAGES)]
    return _combine(chosen, ahead(_content, chosen, 64, threads))


def time_fingerprint(dataset: ImageDataset, threads: int | None = None) -> str:
    """Return a SHA-256 of when all images were changed."""
    records = [record for _, record in dataset.records()]
    times = ahead_in_blocks(_time, (record.path for record in records), threads)
    return _combine(records, times)


def is_sampled(dataset: ImageDataset) -> bool:
    """Return whether the dataset has images that `content_fingerprint` does not read."""
    return sum(len(records) for records in dataset.splits.values()) > IMAGES


def _combine(records: Sequence[Record], values: Iterable[str]) -> str:
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


def _time(source: Source) -> str:
    try:
        if isinstance(source, PackedImage):
            return source.state() or ""
        return str(os.stat(source).st_mtime_ns)
    except OSError:
        return "gone"
