"""Augmentation of training images: crop and flip, timm's policies, color jitter, erasing.

As in `transforms`, drawing and applying are separate: all random values of an image come from its
own generator and are plain numbers (`ViewParams`). So the same values can be applied with Pillow
here or in batches on a GPU (`batched`), and a map can be cropped like its image.

The order is timm's: crop, flip, policy, jitter, erasing. Pixels stay uint8; each network normalizes
them later in its own way.
"""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from math import exp, log, sqrt
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment as timm_policies
from torch import Tensor

from gtacli.data.augment.transforms import Crop, RelativeCrop, TrainTransform
from gtacli.errors import UsageError
from gtacli.images.sizes import Size

# One resampling for shears, rotations and shifts on all devices.
RESAMPLE = Image.Resampling.BILINEAR
FUNCTIONS: dict[str, Any] = {f.__name__: f for f in timm_policies.NAME_TO_OP.values()}
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_TRIES = 10
# timm ignores a section that it cannot parse, or uses its default.
_SECTION = re.compile(r"t(weights|3aw?)|(?!t)[a-z]+\d.*")


class Op(NamedTuple):
    """A function of `timm.data.auto_augment` by name, with its arguments after the image."""

    name: str
    args: tuple[float, ...] = ()


class Erasure(NamedTuple):
    """A rectangle in pixels of the view, and the seed of its noise."""

    top: int
    left: int
    height: int
    width: int
    seed: int


class ViewParams(NamedTuple):
    """The random values of one view."""

    crop: Crop
    ops: tuple[Op, ...] = ()
    erasure: Erasure | None = None


@dataclass(frozen=True)
class Augmentation:
    """A random view of uint8 (3, H, W) as uint8 (3, *image_size).

    Args:
        crop: the random resized crop and flip.
        auto_augment: timm's name of a policy (`rand-m9-mstd0.5-inc1`, `original`, `3a`, ...), or
            "none". Its shears, rotations and shifts resample bilinearly and fill places outside of
            the image with the mean color.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor from
            [max(0, 1 - x), 1 + x], in random order (torchvision's ColorJitter).
        random_erasing: probability that a rectangle is erased (Zhong et al., 2020, with timm's
            fraction of the area, 0.02 to 1/3, and aspect ratio, 0.3 to 3.3).
        erasing_mode: "const" fills with the mean color, "pixel" with noise of the data's mean and
            deviation. For a network with this `mean` and `std` both equal timm's modes of the same
            name (zero, and standard normal after normalization), except for rounding and clipping
            to pixel values. Other networks get the same pixels.
        mean, std: of pixel values in 0..1.

    Raises UsageError for a policy that timm does not know.
    """

    crop: TrainTransform
    auto_augment: str = "none"
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    erasing_mode: Literal["pixel", "const"] = "pixel"
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if self.auto_augment != "none":
            _policy(self.auto_augment, min(self.image_size))

    @property
    def image_size(self) -> Size:
        return self.crop.image_size

    @property
    def load_size(self) -> Size:
        return self.crop.load_size

    @property
    def fill(self) -> tuple[int, ...]:
        """The mean color, which fills places outside of a shifted or rotated image."""
        return tuple(min(255, round(255 * v)) for v in self.mean)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> ViewParams:
        """Draw a view of a `height` x `width` image; its crop does not depend on the options."""
        crop = self.crop.draw(height, width, rng)
        ops: tuple[Op, ...] = ()
        if self.auto_augment != "none":
            ops += draw_policy(self.auto_augment, min(self.image_size), rng)
        if self.color_jitter:
            ops += draw_jitter(self.color_jitter, rng)
        erased = self.random_erasing and rng.random() < self.random_erasing
        return ViewParams(crop, ops, draw_erasure(*self.image_size, rng) if erased else None)

    def apply(self, image: Tensor, params: ViewParams) -> Tensor:
        """Return the view of `image` (3, H, W) with these values."""
        out = apply_ops(self.crop.apply(image, params.crop), params.ops, self.fill)
        if params.erasure is None:
            return out
        top, left, height, width, _ = params.erasure
        if not params.ops:
            out = out.clone()  # it may be the image itself
        out[:, top : top + height, left : left + width] = self.noise(params.erasure)
        return out

    def noise(self, erasure: Erasure) -> Tensor:
        """Return the pixels of an erased rectangle: uint8 (3, height, width)."""
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        shape = (3, erasure.height, erasure.width)
        pixels: NDArray[np.float32] = np.broadcast_to(mean, shape)
        if self.erasing_mode == "pixel":
            rng = np.random.default_rng(erasure.seed)
            pixels = rng.standard_normal(shape, np.float32) * std + mean
        return torch.from_numpy((255 * pixels).round().clip(0, 255).astype(np.uint8))

    def make_view(
        self, image: Tensor, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, RelativeCrop]:
        """Return a view and its crop, which ignores the policy's shifts and rotations."""
        if rng is None:
            raise ValueError("a training transform needs a random generator")
        height, width = image.shape[-2:]
        params = self.draw(height, width, rng)
        return self.apply(image, params), params.crop.relative(height, width)

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        return self.make_view(image, rng)[0]


def draw_policy(policy: str, side: int, rng: np.random.Generator) -> tuple[Op, ...]:
    """Draw the operations of timm's `policy` for an image with this shorter side, with timm."""
    with _global_seed(rng):
        return _policy(policy, side)(())


def draw_jitter(strength: float, rng: np.random.Generator) -> tuple[Op, ...]:
    """Draw factors of brightness, contrast and saturation, in random order."""
    names = rng.permutation(["brightness", "contrast", "color"])
    low, high = max(0.0, 1 - strength), 1 + strength
    return tuple(Op(str(name), (float(rng.uniform(low, high)),)) for name in names)


def draw_erasure(height: int, width: int, rng: np.random.Generator) -> Erasure | None:
    """Draw a rectangle of a `height` x `width` view; None if none fits in ten attempts."""
    low, high = (log(v) for v in _ERASED_ASPECT)
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*_ERASED_AREA)
        aspect = exp(rng.uniform(low, high))
        h, w = round(sqrt(area * aspect)), round(sqrt(area / aspect))
        if 0 < h < height and 0 < w < width:
            top, left = rng.integers(0, (height - h + 1, width - w + 1))
            return Erasure(int(top), int(left), h, w, int(rng.integers(2**63)))
    return None


def apply_ops(image: Tensor, ops: tuple[Op, ...], fill: tuple[int, ...]) -> Tensor:
    """Apply timm's functions with Pillow, one after the other, to uint8 (3, h, w)."""
    if not ops:
        return image
    # Resized images have the memory layout (height, width, channel): nothing is copied here.
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    for name, args in ops:
        picture = FUNCTIONS[name](picture, *args, fillcolor=fill, resample=RESAMPLE)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@contextmanager
def _global_seed(rng: np.random.Generator) -> Iterator[None]:
    """Seed Python's and NumPy's global generators, which timm uses, and restore them afterward."""
    python, legacy = random.getstate(), np.random.get_state()
    first, second = rng.integers(0, 2**32, 2)
    random.seed(int(first))
    np.random.seed(int(second))
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@cache
def _policy(policy: str, side: int) -> Any:
    """Return timm's policy with operations that record themselves: () -> a tuple of Op."""
    if policy.startswith("augmix"):
        raise UsageError(
            "augmix is not supported; use e.g. rand-m9-mstd0.5-inc1", option="auto_augment"
        )
    rand = policy.startswith("rand")
    build = timm_policies.rand_augment_transform if rand else timm_policies.auto_augment_transform
    # Fix the interpolation, which timm would draw when it applies the operation.
    settings = {"translate_const": int(0.45 * side), "interpolation": RESAMPLE}
    try:
        for section in policy.split("-")[1:]:
            if not _SECTION.fullmatch(section):
                raise ValueError(f"no such setting: '{section}'")
        made = build(policy, settings)
        for op in made.ops if rand else [op for part in made.policy for op in part]:
            op.aug_fn = partial(_record_op, op.aug_fn.__name__)
        with _global_seed(np.random.default_rng(0)):
            made(())  # some errors occur only when it is applied
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = f" ({error})" if str(error) else ""
        raise UsageError(
            f"timm has no policy '{policy}'{reason}; "
            "use e.g. rand-m9-mstd0.5-inc1, original, v0, 3a",
            option="auto_augment",
        ) from error
    return made


def _record_op(name: str, drawn: tuple[Op, ...], *args: float, **_: object) -> tuple[Op, ...]:
    if name == "gaussian_blur_rand":  # the only function that draws when it is applied
        name, args = "gaussian_blur", (random.uniform(0.1, 2.0 * args[0]),)
    elif name == "posterize":  # timm may keep 0 bits, which Pillow rejects
        args = (max(1, args[0]),)
    return (*drawn, Op(name, args))
