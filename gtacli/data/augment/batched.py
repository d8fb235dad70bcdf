"""Augmentation in batches on a device: workers draw and cut out, the device does the rest.

Every image keeps its own draws (`Augmentation.draw`), made in the workers from the image's own
generator. So a run sees the views that it would see without this, but for how each is rounded.

The crop: an antialiased resize is separable, so it is two matrix products with weights of each
image's own; a flip reverses one of them. kornia crops a batch without antialiasing, or image by
image. Policies: kornia's per-image functions, once for all images that drew the same operation.
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
    """What a worker makes of an image."""

    pixels: Tensor
    """uint8 (3, h, w): what the crop's box shows."""
    view: ViewParams


class CroppedBatch(NamedTuple):
    """A batch on its way to the device: few tensors, whatever the number of images."""

    pixels: Tensor
    """uint8 (B, 3, H, W): the cuts, each in the upper left corner."""
    boxes: Tensor
    """int64 (B, 3): height, width, and whether it is mirrored."""
    noise: Tensor
    """uint8: what erased rectangles show, one after the other."""
    views: list[ViewParams]


@dataclass(frozen=True)
class BatchedAugmentation:
    """An augmentation in two halves: called on an image and `pack` in a worker, `finish` in the
    training process, on `device`."""

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
        """Draws the view of `image` (3, H, W) and keeps what its crop needs; and what it shows."""
        if rng is None:
            raise ValueError("a training transform needs a random generator")
        view = self.augmentation.draw(image.shape[-2], image.shape[-1], rng)
        top, left, height, width, _ = view.crop
        cut = CroppedImage(image[:, top : top + height, left : left + width], view)
        return cut, view.crop.relative(image.shape[-2], image.shape[-1])

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> CroppedImage:
        return self.make_view(image, rng)[0]

    def pack(self, cuts: Sequence[CroppedImage]) -> CroppedBatch:
        """One canvas for all of them, as large as the largest box."""
        views = [cut.view for cut in cuts]
        boxes = torch.tensor(
            [(v.crop.height, v.crop.width, v.crop.flip) for v in views], dtype=torch.int64
        ).view(-1, 3)
        height, width, _ = boxes.amax(0).tolist() if cuts else (1, 1, 0)
        pixels = torch.zeros(len(cuts), 3, height, width, dtype=torch.uint8)
        for canvas, cut in zip(pixels, cuts, strict=True):
            canvas[:, : cut.pixels.shape[1], : cut.pixels.shape[2]] = cut.pixels
        noise = [self.augmentation.noise(v.erasure).flatten() for v in views if v.erasure]
        return CroppedBatch(
            pixels, boxes, torch.cat(noise) if noise else pixels.new_empty(0), views
        )

    @torch.no_grad()
    def finish(self, cuts: CroppedBatch) -> Tensor:
        """The views: uint8 (B, 3, *image_size), on the device."""
        pixels, boxes, noise = (
            x.to(self.device, non_blocking=True) for x in (cuts.pixels, cuts.boxes, cuts.noise)
        )
        crop = self.augmentation.crop
        images = resize_crops(pixels, boxes, self.image_size, crop.interpolation)
        self._recolour(images, cuts.views)
        start = 0
        for image, view in zip(images, cuts.views, strict=True):
            if view.erasure is not None:
                top, left, h, w, _ = view.erasure
                image[:, top : top + h, left : left + w] = noise[start:][: 3 * h * w].view(3, h, w)
                start += 3 * h * w
        return images.to(torch.uint8)

    def _recolour(self, images: Tensor, views: Sequence[ViewParams]) -> None:
        """Everyone's first operation, then everyone's second, ..."""
        for place in range(max((len(view.ops) for view in views), default=0)):
            drawn: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
            for index, view in enumerate(views):
                if place < len(view.ops):
                    name, args = view.ops[place]
                    drawn.setdefault(name, []).append((index, args))
            for name, entries in drawn.items():
                where = to_device([index for index, _ in entries], self.device)
                given = [args for _, args in entries]
                images[where] = apply_op(name, images[where], given, self.augmentation.fill)


def resize_crops(pixels: Tensor, boxes: Tensor, size: Size, interpolation: str) -> Tensor:
    """Each box of a canvas at `size`, antialiased, mirrored where it says so.

    Args:
        pixels: uint8 (B, 3, H, W).
        boxes: int64 (B, 3): height, width (the box lies in the upper left corner), mirrored.
        interpolation: bilinear, bicubic or nearest, as torchvision's.

    Returns: fp32 (B, 3, *size), whole numbers 0..255.
    """
    rows = resampling_weights(boxes[:, 0], size[0], pixels.shape[2], interpolation)
    columns = resampling_weights(boxes[:, 1], size[1], pixels.shape[3], interpolation)
    columns = torch.where(boxes[:, 2, None, None] != 0, columns.flip(1), columns)
    # torchvision rounds and clips in between, too: a clipped overshoot is more than rounding.
    wide = (pixels.float() @ columns[:, None].mT).round_().clamp_(0, 255)
    return (rows[:, None] @ wide).round_().clamp_(0, 255)


def resampling_weights(lengths: Tensor, size: int, canvas: int, interpolation: str) -> Tensor:
    """(B, size, canvas): every output pixel's weights on a line whose first `lengths` (B,) pixels
    are resampled to `size`; those of Pillow, which torchvision's antialiased resize has too."""
    scale = (lengths.float() / size)[:, None, None]
    out = torch.arange(size, device=lengths.device)[:, None]
    pixel = torch.arange(canvas, device=lengths.device)
    if interpolation == "nearest":
        return (pixel == (out * scale).floor()).float()
    support = {"bilinear": 1.0, "bicubic": 2.0}[interpolation]
    stretch = scale.clamp(min=1)
    centre = (out + 0.5) * scale
    x = ((pixel + 0.5 - centre) / stretch).abs_()
    if interpolation == "bilinear":
        weights = (1 - x).clamp_(min=0)
    else:  # Keys's cubic, a = -1/2
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((2.5 - 0.5 * x) * x - 4) * x + 2
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    low = (centre - support * stretch + 0.5).floor()
    high = (centre + support * stretch + 0.5).floor().clamp(max=lengths[:, None, None])
    weights = torch.where((pixel >= low) & (pixel < high), weights, 0.0)
    return weights / weights.sum(-1, keepdim=True)


def place_augmentation(
    augmentation: Augmentation, where: str, device: torch.device
) -> Augmentation | BatchedAugmentation:
    """The augmentation in the workers, or (`--augment-device cuda`) in batches on the GPU.

    Raises UsageError for a GPU that is not there.
    """
    if where == "cpu":
        return augmentation
    if not torch.cuda.is_available():
        raise UsageError("--augment-device: there is no cuda here; `gta doctor` shows why")
    return BatchedAugmentation(
        augmentation, device if device.type == "cuda" else torch.device("cuda")
    )
