"""Decoding of records to pixels at the loading size, with a cache in memory for small datasets.

The cache is one flat uint8 tensor. Forked workers share its pages, spawned ones receive it through
shared memory with a single descriptor, and no process copies it.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gtacli.data.base import Record
from gtacli.data.labels import label_tensor
from gtacli.images.decode import ImageError, load, open_image
from gtacli.images.loading import load_for_training
from gtacli.images.sizes import Size, cover_size
from gtacli.runtime.machine import available_memory
from gtacli.runtime.prefetch import AHEAD, ahead
from gtacli.runtime.repeated import RepeatedWarning

log = logging.getLogger(__name__)
CacheMode = Literal["auto", "ram", "none"]
AUTO_BYTES = 2 << 30
AUTO_FRACTION = 0.25
_SAMPLED = 64


class ImageNotes:
    """The images that could not be read, or not to their end; of each a line is logged.

    Args:
        most: images at most, so that notes of an endless stream do not grow; None: all.

    Attributes:
        skipped: reasons by the key of all unreadable images so far.
        damaged: lines by the key of images that were read although they lack their last bytes.
    """

    def __init__(self, most: int | None = None) -> None:
        self.skipped: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self._most = most
        self._warning = RepeatedWarning(log, "skipped: ")
        self._damage = RepeatedWarning(log)

    def note(self, key: str, reason: str) -> None:
        """Note an unreadable image and warn once; of many, see `summarize`."""
        if key not in self.skipped and len(self.skipped) != self._most:
            self.skipped[key] = reason
            self._warning.add(reason)

    def note_damaged(self, key: str, line: str) -> None:
        """Note a damaged image and warn once; of many, see `summarize`."""
        if key not in self.damaged and len(self.damaged) != self._most:
            self.damaged[key] = line
            self._damage.add(line)

    def summarize(self) -> None:
        """Log how many images were skipped, or are damaged, without a warning of their own."""
        self._warning.summarize()
        self._damage.summarize()


class ImageStore(ImageNotes):
    """The images of `records` as uint8 (3, h, w) that just cover `load_size` (an int: a square).

    Args:
        records: the records.
        load_size: size to cover.
        interpolation: of the resize.
        training: resize as training does, see `images.loading`; else as evaluation does.
        cache: "ram" keeps the decoded images, "none" decodes them anew each time, and "auto" keeps
            them if they are estimated to need less than 2 GiB and a quarter of the free memory. The
            pixels are the same.
    """

    shareable: ClassVar[bool] = True
    """False once processes could not share images on this machine."""

    def __init__(
        self,
        records: Sequence[Record],
        load_size: int | Size,
        *,
        interpolation: str = "bicubic",
        cache: CacheMode = "auto",
        training: bool = False,
    ) -> None:
        super().__init__()
        self.records = tuple(records)
        self.training = training
        self.cover = (load_size, load_size) if isinstance(load_size, int) else load_size
        self.interpolation = interpolation
        self.labels = label_tensor(self.records)
        self.cached = cache == "ram" or (cache == "auto" and self._fits())
        self._just_damaged: list[tuple[int, str]] = []
        self._pixels: Tensor | None = None
        self._places: list[tuple[int, int, int] | None] = []  # offset, height, width

    def __len__(self) -> int:
        return len(self.records)

    def get(self, index: int) -> Tensor:
        """Return the image at `index`, read-only. Raises ImageError if it is unreadable."""
        if self._pixels is None:
            return self._load(index)
        place = self._places[index]
        if place is None:
            raise ImageError(self.skipped[self.records[index].key])
        offset, height, width = place
        pixels = self._pixels[offset : offset + height * width * 3]
        return pixels.view(height, width, 3).permute(2, 0, 1)

    def skip(self, index: int, reason: str) -> None:
        """Note the image at `index` as unreadable."""
        self.note(self.records[index].key, reason)

    def take_damaged(self) -> list[tuple[int, str]]:
        """Return (index, line) of the damaged images that were read since the last call."""
        taken, self._just_damaged = self._just_damaged, []
        return sorted(taken)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Fill the cache, if it is enabled, and call `progress(done, total)` after each image.

        Threads suffice: Pillow decodes and resizes without the interpreter's lock.
        """
        if not self.cached or self._pixels is not None:
            return
        start = perf_counter()
        images: list[Tensor | None] = []
        for index, image in enumerate(ahead(self._try_load, range(len(self)), AHEAD)):
            if isinstance(image, str):
                self.skip(index, image)
            images.append(None if isinstance(image, str) else image)
            if progress is not None:
                progress(index + 1, len(self))
        for index, line in self.take_damaged():
            self.note_damaged(self.records[index].key, line)
        self.summarize()
        self._pixels = self._pack(images)
        size, seconds = len(self._pixels) / 2**20, perf_counter() - start
        log.info("%d images in memory: %.0f MiB, %.1f s", len(self), size, seconds)

    def _pack(self, images: list[Tensor | None]) -> Tensor:
        total = sum(image.numel() for image in images if image is not None)
        pixels = torch.empty(total, dtype=torch.uint8)
        offset = 0
        for index, image in enumerate(images):
            if image is None:
                self._places.append(None)
                continue
            self._places.append((offset, image.shape[1], image.shape[2]))
            flat = image.permute(1, 2, 0).reshape(-1)
            pixels[offset : offset + len(flat)] = flat
            offset += len(flat)
            images[index] = None  # so that the peak stays near one copy
        return pixels

    def _load(self, index: int) -> Tensor:
        tell = partial(self._tell, index)
        path = self.records[index].source
        if self.training:
            return load_for_training(path, self.cover, self.interpolation, tell)
        # In the memory layout (height, width, channel) torch's uint8 resize is fastest.
        pixels = load(path, self.cover, self.interpolation, tell)
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def _tell(self, index: int, line: str) -> None:
        self._just_damaged.append((index, line))

    def _try_load(self, index: int) -> Tensor | str:
        try:
            return self._load(index)
        except ImageError as error:
            return str(error)

    def _fits(self) -> bool:
        """Estimate from some headers whether the decoded images fit into memory."""
        free = available_memory()
        limit = AUTO_BYTES if free is None else min(AUTO_BYTES, AUTO_FRACTION * free)
        step = max(1, len(self.records) // _SAMPLED)
        sizes = [_pixels_of(record, self.cover) for record in self.records[::step]]
        return bool(sizes) and 3 * sum(sizes) / len(sizes) * len(self.records) < limit


def _pixels_of(record: Record, cover: Size) -> int:
    try:
        with open_image(record.source) as image:
            height, width = cover_size(image.height, image.width, cover)
            return height * width
    except Exception:  # reported when it is decoded
        return 0
