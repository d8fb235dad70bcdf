"""Augmentation in batches: workers draw and crop, and a device computes the rest.

The random values of an image are drawn in the workers, from its own generator
(`Augmentation.draw`), so that the views are those of the CPU except for rounding.

An antialiased resize is separable, so a crop is two matrix products with weights for each image;
a flip reverses one of them. (kornia crops batches without antialiasing, or image by image.)
Policies apply kornia's per-image functions once to all images that drew the same operation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gtacli.data.augment.augmentation import Augmentation, ViewParams
from gtacli.data.augment.batched_ops import apply_op, to_device
from gtacli.data.augment.transforms import RelativeCrop
from gtacli.errors import UsageError
from gtacli.images.sizes import Size


class CroppedImage(NamedTuple):
    """A crop that a worker has made, and the values for the rest of the view."""

    pixels: Tensor
    """uint8 (3, h, w): the pixels in the crop."""
    params: ViewParams


class CroppedBatch(NamedTuple):
    """A batch of crops for the device, in few tensors."""

    pixels: Tensor
    """uint8 (B, 3, H, W): the crops, each in the upper left corner."""
    boxes: Tensor
    """int64 (B, 3): height, width, and whether the crop is mirrored."""
    noise: Tensor
    """uint8: the pixels of erased rectangles, one after the other."""
    params: list[ViewParams]


@dataclass(frozen=True)
class BatchedAugmentation:
    """An augmentation in two steps.

    A worker crops every image and packs a batch; the training process finishes it on `device`.
    """

    augmentation: Augmentation
    device: torch.device

    @property
    def image_size(self) -> Size:
        return self.augmentation.image_size

    @property
    def load_size(self) -> Size:
        return self.augmentation.load_size

    def make_view(
        self, image: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[CroppedImage, RelativeCrop]:
        """Draw a view of `image` (3, H, W); return the cropped pixels and the crop."""
        if rng is None:
            raise ValueError("a training transform needs a random generator")
        params = self.augmentation.draw(image.shape[-2], image.shape[-1], rng)
        top, left, height, width, _ = params.crop
        cropped = CroppedImage(image[:, top : top + height, left : left + width], params)
        return cropped, params.crop.relative(image.shape[-2], image.shape[-1])

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> CroppedImage:
        return self.make_view(image, rng)[0]

    def pack(self, images: Sequence[CroppedImage]) -> CroppedBatch:
        """Copy the crops to one canvas, which is as large as the largest one."""
        params = [image.params for image in images]
        boxes = torch.tensor(
            [(p.crop.height, p.crop.width, p.crop.flip) for p in params], dtype=torch.int64
        ).view(-1, 3)
        height, width, _ = boxes.amax(0).tolist() if images else (1, 1, 0)
        pixels = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
        for canvas, image in zip(pixels, images, strict=True):
            canvas[:, : image.pixels.shape[1], : image.pixels.shape[2]] = image.pixels
        noise = [self.augmentation.noise(p.erasure).flatten() for p in params if p.erasure]
        return CroppedBatch(
            pixels, boxes, torch.cat(noise) if noise else pixels.new_empty(0), params
        )

    @torch.no_grad()
    def finish(self, batch: CroppedBatch) -> Tensor:
        """Return the views, uint8 (B, 3, *image_size), on the device."""
        pixels, boxes, noise = (
            x.to(self.device, non_blocking=True) for x in (batch.pixels, batch.boxes, batch.noise)
        )
        crop = self.augmentation.crop
        images = resize_crops(pixels, boxes, self.image_size, crop.interpolation)
        self._apply_ops(images, batch.params)
        start = 0
        for image, params in zip(images, batch.params, strict=True):
            if params.erasure is not None:
                top, left, h, w, _ = params.erasure
                image[:, top : top + h, left : left + w] = noise[start:][: 3 * h * w].view(3, h, w)
                start += 3 * h * w
        return images.to(torch.uint8)

    def _apply_ops(self, images: Tensor, params: Sequence[ViewParams]) -> None:
        """Apply the first operation of every image, then the second, and so on, in place."""
        for step in range(max((len(view.ops) for view in params), default=0)):
            drawn: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
            for index, view in enumerate(params):
                if step < len(view.ops):
                    name, args = view.ops[step]
                    drawn.setdefault(name, []).append((index, args))
            for name, entries in drawn.items():
                chosen = to_device([index for index, _ in entries], self.device)
                arguments = [args for _, args in entries]
                images[chosen] = apply_op(name, images[chosen], arguments, self.augmentation.fill)


def resize_crops(pixels: Tensor, boxes: Tensor, size: Size, interpolation: str) -> Tensor:
    """Resize the crop of each canvas to `size`, with antialiasing, and mirror it if requested.

    Args:
        pixels: uint8 (B, 3, H, W).
        boxes: int64 (B, 3): height, width (of the upper left corner), mirrored.
        size: (height, width) of the result.
        interpolation: bilinear, bicubic or nearest, as torchvision's.

    Returns:
        fp32 (B, 3, *size), integers 0..255.
    """
    rows = resampling_weights(boxes[:, 0], size[0], pixels.shape[2], interpolation)
    columns = resampling_weights(boxes[:, 1], size[1], pixels.shape[3], interpolation)
    columns = torch.where(boxes[:, 2, None, None] != 0, columns.flip(1), columns)
    # torchvision also rounds and clips in between; clipping an overshoot is more than rounding.
    wide = (pixels.float() @ columns[:, None].mT).round_().clamp_(0, 255)
    return (rows[:, None] @ wide).round_().clamp_(0, 255)


def resampling_weights(lengths: Tensor, size: int, canvas: int, interpolation: str) -> Tensor:
    """Compute weights (B, size, canvas) that resample the first `lengths` (B,) pixels to `size`.

    They are Pillow's, which torchvision's antialiased resize uses too.
    """
    scale = (lengths.float() / size)[:, None, None]
    out = torch.arange(size, device=lengths.device)[:, None]
    pixel = torch.arange(canvas, device=lengths.device)
    if interpolation == "nearest":
        return (pixel == (out * scale).floor()).float()
    support = {"bilinear": 1.0, "bicubic": 2.0}[interpolation]
    stretch = scale.clamp(min=1)
    center = (out + 0.5) * scale
    x = ((pixel + 0.5 - center) / stretch).abs_()
    if interpolation == "bilinear":
        weights = (1 - x).clamp_(min=0)
    else:  # Keys's cubic, a = -1/2
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((2.5 - 0.5 * x) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    low = (center - support * stretch + 0.5).floor()
    high = (center + support * stretch + 0.5).floor().clamp(max=lengths[:, None, None])
    weights = torch.where((pixel >= low) & (pixel < high), weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)


def place_augmentation(
    augmentation: Augmentation, where: str, device: torch.device
) -> Augmentation | BatchedAugmentation:
    """Return the augmentation for the CPU, or (`augment_device=cuda`) for batches on the GPU.

    Raises UsageError if there is no GPU.
    """
    if where == "cpu":
        return augmentation
    if not torch.cuda.is_available():
        raise UsageError("there is no cuda here; `gta doctor` shows why", option="augment_device")
    return BatchedAugmentation(
        augmentation, device if device.type == "cuda" else torch.device("cuda")
    )
