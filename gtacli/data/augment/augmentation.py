"""What a training image goes through: crop and flip, timm's policies, colour jitter, erasing.

As in `transforms`, a draw is kept apart from its application: what is drawn for an image is plain
values (`ViewParams`), all from the image's own generator. So the same draws can be applied by
Pillow here or in batches on a GPU (`batched`), and a map can still travel with its image.

The order is timm's: crop, flip, policy, jitter, erasing. Pixels stay uint8 throughout, since each
network normalises them its own way, later.
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

# One resampling for shears, rotations and shifts, wherever they are applied.
RESAMPLE = Image.Resampling.BILINEAR
FUNCTIONS = {f.__name__: f for f in timm_policies.NAME_TO_OP.values()}
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)
_TRIES = 10
# timm ignores a section that it cannot read, or takes its default.
_SECTION = re.compile(r"t(weights|3aw?)|(?!t)[a-z]+\d.*")


class Op(NamedTuple):
    """A function of `timm.data.auto_augment` by name, and what it takes beside the image."""

    name: str
    args: tuple[float, ...] = ()


class Erasure(NamedTuple):
    """A rectangle in pixels of the view, and the seed of the noise in it."""

    top: int
    left: int
    height: int
    width: int
    seed: int


class ViewParams(NamedTuple):
    """All that is drawn for an image."""

    crop: Crop
    ops: tuple[Op, ...] = ()
    erasure: Erasure | None = None


@dataclass(frozen=True)
class Augmentation:
    """uint8 (3, H, W) to an augmented uint8 (3, *image_size). With every option off: the crop's.

    Args:
        crop: the random resized crop and flip.
        auto_augment: timm's name of a policy (`rand-m9-mstd0.5-inc1`, `original`, `3a`, ...);
            "none": no policy. Its shears, rotations and shifts resample bilinearly and show the
            mean colour where they leave the image.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor from
            [max(0, 1 - x), 1 + x], in random order (torchvision's ColorJitter).
        random_erasing: probability that a rectangle is erased (Zhong et al., 2020, with timm's
            share of the area, 0.02 to 1/3, and aspect ratio, 0.3 to 3.3).
        erasing_mode: "const": mean colour; "pixel": noise of the data's mean and deviation. For
            the network that has this `mean` and `std` both are timm's modes of the same name
            (zero, and standard normal after normalising), but for the rounding to pixel values
            and the clipping to what a pixel can be. Other networks see the same pixels.
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
        """The mean colour: what a shifted or turned image leaves open."""
        return tuple(min(255, round(255 * v)) for v in self.mean)

    def draw(self, height: int, width: int, rng: np.random.Generator) -> ViewParams:
        """The view of a `height` x `width` image; its crop does not depend on the options."""
        crop = self.crop.draw(height, width, rng)
        ops: tuple[Op, ...] = ()
        if self.auto_augment != "none":
            ops += draw_policy(self.auto_augment, min(self.image_size), rng)
        if self.color_jitter:
            ops += draw_jitter(self.color_jitter, rng)
        erased = self.random_erasing and rng.random() < self.random_erasing
        return ViewParams(crop, ops, draw_erasure(*self.image_size, rng) if erased else None)

    def apply(self, image: Tensor, view: ViewParams) -> Tensor:
        """`view` of `image` (3, H, W)."""
        out = apply_ops(self.crop.apply(image, view.crop), view.ops, self.fill)
        if view.erasure is None:
            return out
        top, left, height, width, _ = view.erasure
        if not view.ops:
            out = out.clone()  # it may be the image itself
        out[:, top : top + height, left : left + width] = self.noise(view.erasure)
        return out

    def noise(self, erasure: Erasure) -> Tensor:
        """What an erased rectangle shows: uint8 (3, height, width)."""
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
        """The view, and what its crop shows; policies may shift and turn that a little."""
        if rng is None:
            raise ValueError("a training transform needs a random generator")
        height, width = image.shape[-2:]
        view = self.draw(height, width, rng)
        return self.apply(image, view), view.crop.relative(height, width)

    def __call__(self, image: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        return self.make_view(image, rng)[0]


def draw_policy(policy: str, side: int, rng: np.random.Generator) -> tuple[Op, ...]:
    """What timm's `policy` does to one image of that shorter side. timm itself draws it."""
    with _global_seed(rng):
        return _policy(policy, side)(())


def draw_jitter(strength: float, rng: np.random.Generator) -> tuple[Op, ...]:
    """Factors of brightness, contrast and saturation, in random order."""
    names = rng.permutation(["brightness", "contrast", "color"])
    low, high = max(0.0, 1 - strength), 1 + strength
    return tuple(Op(str(name), (float(rng.uniform(low, high)),)) for name in names)


def draw_erasure(height: int, width: int, rng: np.random.Generator) -> Erasure | None:
    """A rectangle of a `height` x `width` view; None where none fits in ten tries."""
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
    """timm's functions, on Pillow, one after the other: uint8 (3, h, w) to the same."""
    if not ops:
        return image
    # Resized images lie in memory as height, width, channel: nothing is copied on the way there.
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    for name, args in ops:
        picture = FUNCTIONS[name](picture, *args, fillcolor=fill, resample=RESAMPLE)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


@contextmanager
def _global_seed(rng: np.random.Generator) -> Iterator[None]:
    """Python's and numpy's global generators, which timm draws from, seeded by `rng` and put back
    as they were."""
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
    """timm's policy, whose operations note what they would do: () -> a tuple of Op."""
    if policy.startswith("augmix"):
        raise UsageError("--auto-augment: augmix is not supported; use e.g. rand-m9-mstd0.5-inc1")
    rand = policy.startswith("rand")
    build = timm_policies.rand_augment_transform if rand else timm_policies.auto_augment_transform
    # A fixed interpolation: else timm would draw one while it applies.
    settings = {"translate_const": int(0.45 * side), "interpolation": RESAMPLE}
    try:
        for section in policy.split("-")[1:]:
            if not _SECTION.fullmatch(section):
                raise ValueError(f"no such setting: '{section}'")
        made = build(policy, settings)
        for op in made.ops if rand else [op for part in made.policy for op in part]:
            op.aug_fn = partial(_note, op.aug_fn.__name__)
        with _global_seed(np.random.default_rng(0)):
            made(())  # some mistakes show only now
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        reason = f" ({error})" if str(error) else ""
        raise UsageError(
            f"--auto-augment: timm knows no policy '{policy}'{reason}; "
            "use e.g. rand-m9-mstd0.5-inc1, original, v0, 3a"
        ) from error
    return made


def _note(name: str, drawn: tuple[Op, ...], *args: float, **_: object) -> tuple[Op, ...]:
    if name == "gaussian_blur_rand":  # the one function that would draw while it applies
        name, args = "gaussian_blur", (random.uniform(0.1, 2.0 * args[0]),)
    elif name == "posterize":  # timm may ask for no bit at all, which Pillow refuses
        args = (max(1, args[0]),)
    return (*drawn, Op(name, args))
