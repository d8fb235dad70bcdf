"""Attention maps of a stream of images, drawn and written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gtacli.data.inputs import InputImage
from gtacli.discovery.maps.digests import ImageFile
from gtacli.images.decode import decode
from gtacli.inference.attention_maps.base import AttentionMap
from gtacli.inference.attention_maps.extractor import MapExtractor
from gtacli.inference.attention_maps.files import MapFiles, SourceImage
from gtacli.inference.journal import ResultJournal
from gtacli.inference.outputs import place_images
from gtacli.inference.results import AttentionMapFile
from gtacli.inference.stream import Failure, Stop, never, stream
from gtacli.runtime.batching import chunk_size, fits_one_core
from gtacli.runtime.devices import Compute

DECODED_PIXELS = 1 << 20
"""Pixels up to which an image waits decoded for its maps; a larger one is read twice."""


class ImageMaps(NamedTuple):
    """The maps of one image.

    Attributes:
        image: its name.
        lines: a line of JSON for each map.
        maps: by each model.
    """

    image: InputImage
    lines: list[AttentionMapFile]
    maps: list[list[AttentionMap]]


_Named = InputImage | Failure
"""An image, or one that is given twice."""


def export_maps(
    extractors: Sequence[MapExtractor],
    images: Iterable[InputImage],
    compute: Compute,
    files: MapFiles,
    batch_size: int = 32,
    threads: int | None = None,
    stop: Stop = never,
    journal: ResultJournal[_Named] | None = None,
) -> Iterator[ImageMaps | Failure]:
    """Extract, draw and write the maps of each image, in the order of `images`.

    Args:
        extractors: one or more; their models are moved to the device.
        batch_size: images at a time; on a CPU at most.
        threads: default: one per core; 0: none.
        stop: see `stream`.
        journal: open; the lines that it has are repeated, without maps, and those of the other
            images added.

    Raises RunError for a file that cannot be written.
    """
    for extractor in extractors:
        extractor.model.model.to(compute.device)
    patches = max(extractor.patches for extractor in extractors)
    on_cpu = compute.device.type == "cpu"

    def read(image: InputImage) -> tuple[SourceImage, list[Tensor]]:
        picture = decode(image.source)
        pixels = F.pil_to_tensor(picture)
        size = (pixels.shape[-2], pixels.shape[-1])
        kept = picture if size[0] * size[1] <= DECODED_PIXELS else None
        return SourceImage(image, size, kept), [one.view(pixels) for one in extractors]

    def run(
        batch: list[tuple[SourceImage, list[Tensor]]],
    ) -> list[tuple[SourceImage, list[list[AttentionMap]]]]:
        by_model = [
            extractor.extract([views[i] for _, views in batch], compute)
            for i, extractor in enumerate(extractors)
        ]
        by_image = map(list, zip(*by_model, strict=True))
        return [(source, maps) for (source, _), maps in zip(batch, by_image, strict=True)]

    def finish(item: tuple[SourceImage, list[list[AttentionMap]]]) -> ImageMaps:
        source, maps = item
        return ImageMaps(source.image, files.write(source, extractors, maps), maps)

    journal = journal or ResultJournal(None)
    placed = place_images(images, files.folder, [".*"])  # all maps of an image share its stem
    batch_size = chunk_size(batch_size, patches) if on_cpu else batch_size
    for entry in journal.replay(placed, _source, batch_size):
        yield _restore(entry)
    for result in stream(
        journal.rest,
        read,
        run,
        batch_size,
        finish=finish,
        per_core=fits_one_core(on_cpu, patches, threads),
        threads=threads,
        name=lambda image: image.path,
        stop=stop,
    ):
        if isinstance(result, Failure):
            journal.add(result.image, error=result.error)
        else:
            journal.add(result.image.path, lines=result.lines)
        yield result


def _source(item: InputImage | Failure) -> tuple[str, Sequence[ImageFile]]:
    if isinstance(item, Failure):
        return item.image, [Path(item.image)]
    return item.path, [item.source]


def _restore(entry: Mapping[str, Any]) -> ImageMaps | Failure:
    if "error" in entry:
        return Failure(entry["image"], entry["error"])
    path = entry["image"]
    return ImageMaps(InputImage(path, PurePath(path)), entry["lines"], [])
