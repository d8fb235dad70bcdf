"""Pictures of reconstructions, of the same images and masks every time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gtacli.data.augment.map_crops import crop_maps
from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import ImageDataset, Record
from gtacli.data.loader import Batch
from gtacli.data.streams.names import is_for_training
from gtacli.data.streams.samples import ShardImage
from gtacli.data.streams.stream import ImageStream
from gtacli.discovery.maps.digests import digest, stack
from gtacli.images.decode import ImageError, load
from gtacli.models.patches import mask_order, patchify, unpatchify
from gtacli.models.windows import run_in
from gtacli.pretraining.guidance import normalize_maps
from gtacli.pretraining.noise import image_noise
from gtacli.pretraining.prepare import PretrainJob
from gtacli.rendering.heatmap import overlay_map, resize_map, value_range
from gtacli.rendering.sheet import SheetRow, draw_sheet

IMAGES = 8
SHARDS = 8
"""Shards of a stream in which images are looked for."""
GRAY = 128
_STREAM = 2  # of noise; training has others for its masks and shuffles


class Previews:
    """A sheet of training images: whole, masked, reconstructed, and their maps.

    Args:
        job: the run; images are shown in its encoder's evaluation view.

    Attributes:
        batch: the images; empty if none could be read.
    """

    def __init__(self, job: PretrainJob) -> None:
        self.job = job
        encoder = job.encoder
        self._transform = EvalTransform(encoder.image_size, encoder.crop_pct, encoder.interpolation)
        self.batch = self._read()

    @torch.no_grad()
    def draw(self, epoch: int) -> Image.Image:
        """Draw the sheet after an epoch. `batch` must not be empty."""
        job = self.job
        device, model = job.compute.device, job.model
        images = job.encoder.view(device)(self.batch.images.to(device))
        maps = self._maps()
        patches = model.grid[0] * model.grid[1]
        noise = image_noise(self.batch.indices.to(device), patches, job.config.seed, 0, _STREAM)
        guide = None if maps is None else normalize_maps(maps.flatten(1))
        chosen = model.chosen(job.config.mask_share[1])
        order = mask_order(noise, guide, job.config.mask, chosen)
        with job.compute.autocast():
            reconstructed = run_in(model, model.reconstruct, images, order)
        visible = torch.zeros(len(images), patches, 1, dtype=torch.bool, device=device)
        visible.scatter_(1, order[:, : model.visible, None], True)
        whole = self.batch.images.to(device)
        masked = patchify(whole, model.patch).where(visible, torch.tensor(GRAY).to(whole))
        columns = [whole, unpatchify(masked, model.grid, model.patch), self._pixels(reconstructed)]
        titles = ["image", "masked", f"after epoch {epoch + 1}"]
        pictures = [[F.to_pil_image(image.cpu()) for image in column] for column in columns]
        if maps is not None:
            titles.append("map")
            values = maps.cpu().numpy()
            pictures.append([_draw_map(p, m) for p, m in zip(pictures[0], values, strict=True)])
        return draw_sheet([SheetRow(row) for row in zip(*pictures, strict=True)], titles)

    def _read(self) -> Batch:
        """Read the images; unreadable ones are skipped."""
        dataset = self.job.dataset
        contents: list[bytes] = []
        found = (
            self._listed(dataset["train"])
            if isinstance(dataset, ImageDataset)
            else self._streamed(dataset, contents)
        )
        views, crops, indices = [], [], []
        for place, pixels in found:
            view, crop = self._transform.make_view(pixels)
            views.append(view)
            crops.append(crop)
            indices.append(place * self.job.config.repeats)
        empty = torch.empty(0, 3, *self.job.encoder.image_size, dtype=torch.uint8)
        numbers = torch.tensor(indices, dtype=torch.int64)
        return Batch(
            images=torch.stack(views) if views else empty,
            labels=numbers,  # not used
            indices=numbers,
            crops=torch.tensor(crops, dtype=torch.float32).view(-1, 5),
            contents=torch.from_numpy(stack(contents).copy()) if contents else None,
        )

    def _listed(self, records: tuple[Record, ...]) -> Iterator[tuple[int, Tensor]]:
        """Yield images from the whole training split with their places in it."""
        places = np.linspace(0, len(records) - 1, min(IMAGES, len(records))).round().astype(int)
        chosen = tuple(records[place] for place in places.tolist())
        store = self.job.stores.get(chosen, self._transform.load_size)
        for number, place in enumerate(places.tolist()):
            with suppress(ImageError):  # the training logs it
                yield place, store.get(number)

    def _streamed(self, stream: ImageStream, contents: list[bytes]) -> Iterator[tuple[int, Tensor]]:
        """Yield the first images of the first shards; add their digests to `contents`."""
        if self.job.config.previews_every == 0:
            return
        for shard in filter(is_for_training, islice(stream.names, SHARDS)):
            for item in stream.read(shard, labels=False):
                if len(contents) == IMAGES:
                    return
                if not isinstance(item, ShardImage):
                    continue
                with suppress(ImageError):
                    pixels = load(
                        item.image, self._transform.load_size, self._transform.interpolation
                    )
                    contents.append(digest(item.image.data))
                    yield len(contents) - 1, torch.from_numpy(pixels).permute(2, 0, 1)

    def _maps(self) -> Tensor | None:
        if self.job.map_source is None:
            return None
        maps, crops = self.job.map_source.maps(self.batch)
        return crop_maps(maps.to(self.job.compute.device), crops, self.job.model.grid)

    def _pixels(self, images: Tensor) -> Tensor:
        """Convert normalized images to uint8."""
        encoder = self.job.encoder
        std, mean = (images.new_tensor(v).view(-1, 1, 1) for v in (encoder.std, encoder.mean))
        return ((images.float() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _draw_map(picture: Image.Image, values: NDArray[np.float32]) -> Image.Image:
    size = (picture.height, picture.width)
    return overlay_map(picture, resize_map(values, size, value_range(values)), "plasma")
