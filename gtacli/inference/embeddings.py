"""Embeddings of a stream of images: a vector each, with what is known of the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from gtacli.data.base import NO_CLASS, ImageDataset, Record
from gtacli.data.inputs import InputImage
from gtacli.data.streams.samples import Unreadable
from gtacli.data.streams.stream import ImageStream
from gtacli.inference.features import FeatureExtractor
from gtacli.inference.stream import Failure, Stop, never, stream


class EmbeddedImage(NamedTuple):
    """An image with its embedding.

    Attributes:
        path: of the image, as it was given.
        label: its class, "" if none is known.
        split: of the dataset, "" for an image that was named.
        values: fp32 (columns x C,), the columns side by side.
    """

    path: str
    label: str
    split: str
    values: NDArray[np.float32]


class ImageSource(NamedTuple):
    """An image whose embedding is wanted; label and split as in `EmbeddedImage`."""

    record: Record
    label: str
    split: str


def sources_of(images: Iterable[InputImage]) -> Iterator[ImageSource]:
    """Yield images that were named as sources of embeddings."""
    for image in images:
        yield ImageSource(Record(image.path, -1, image.source), "", "")


def sources_in(dataset: ImageDataset) -> Iterator[ImageSource]:
    """Yield the images of a dataset with their classes and splits; a repeated one once."""
    labeled = dataset.classes != NO_CLASS
    for split, record in dataset.records():
        if record.first is None:
            yield ImageSource(record, dataset.classes[record.label] if labeled else "", split)


def sources_in_stream(stream: ImageStream) -> Iterator[ImageSource | Failure]:
    """Yield the images of shards with their classes and splits, and what cannot be read."""
    for item in stream.images():
        if isinstance(item, Unreadable):
            yield Failure(item.name, item.error)
        else:
            yield ImageSource(Record(item.image.name, -1, item.image), item.label, item.split)


def embed(
    extractor: FeatureExtractor,
    sources: Iterable[ImageSource | Failure],
    normalize: bool = False,
    stop: Stop = never,
) -> Iterator[EmbeddedImage | Failure]:
    """Yield the embedding of each image, in order and in constant memory.

    Args:
        normalize: scale each to length 1; one of zeros stays.

    Raises RunError if the model's output is not finite.
    """

    def made(columns: Tensor) -> Tensor:
        values = columns.flatten()
        return F.normalize(values, dim=0) if normalize else values

    def read(source: ImageSource) -> tuple[ImageSource, Tensor]:
        return source, extractor.read(source.record)

    def run(views: Sequence[tuple[ImageSource, Tensor]]) -> list[EmbeddedImage]:
        features = extractor.run([view for _, view in views])
        return [
            EmbeddedImage(str(source.record.path), source.label, source.split, made(one).numpy())
            for (source, _), one in zip(views, features, strict=True)
        ]

    yield from stream(
        sources,
        read,
        run,
        extractor.batch_size,
        per_core=extractor.per_core,
        threads=extractor.threads,
        name=lambda source: str(source.record.path),
        stop=stop,
    )
