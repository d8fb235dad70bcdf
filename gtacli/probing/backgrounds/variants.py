"""Images whose object or background is removed or exchanged, as in ImageNet-9.

Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition", arXiv
2006.09994; the boxes, strips and ties are those of its official code.

    original    the image as it is
    only-bg-b   the object's bounding box is black
    only-bg-t   the box shows background: the largest strip of the image above, below, left or right
                of the box, repeated from the top left corner
    no-fg       the object's pixels are black
    only-fg     all other pixels are black
    mixed-same  the object's pixels on the only-bg-t of another image of its class
    mixed-rand  ... of an image of a random class, each equally likely
    mixed-next  ... of an image of the next class, after the last one the first

    BG-Gap = accuracy(mixed-same) - accuracy(mixed-rand): the effect of the background's class.

Deviations: the box is that of a given mask, while the official code estimates it with GrabCut; a
background is resized to cover the image and cropped, while theirs are all of one size; and
backgrounds may come from other images than the objects (from training images, if only their
background predicts the class). As there, images without an object are skipped, and those whose box
leaves less than a tenth of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gtacli.data.inputs import InputImage
from gtacli.data.objects import GroundTruth
from gtacli.data.truth import read_record_truth, read_truth
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError, decode
from gtacli.images.preprocessing import make_eval_view

Variant = Literal[
    "original", "only-bg-b", "only-bg-t", "no-fg", "only-fg",
    "mixed-same", "mixed-rand", "mixed-next",
]  # fmt: skip
VARIANTS: tuple[Variant, ...] = get_args(Variant)
LARGEST_BOX = 0.9
"""Largest fraction of an image that an object's box may fill."""


class Scene(NamedTuple):
    """An image with the mask of its object.

    Attributes:
        image: (3, h, w) uint8.
        mask: (h, w) bool.
        label: class number.
    """

    image: Tensor
    mask: Tensor
    label: int

    def box(self) -> tuple[slice, slice] | None:
        """Return the object's rows and columns, None without an object."""
        sides = []
        for axis in (1, 0):
            where = self.mask.any(axis).nonzero()
            if not len(where):
                return None
            sides.append(slice(int(where[0]), int(where[-1]) + 1))
        return sides[0], sides[1]

    def is_usable(self) -> bool:
        """Return whether there is an object and a background beside it."""
        box = self.box()
        if box is None:
            return False
        rows, columns = box
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return area <= LARGEST_BOX * self.mask.numel()


class SceneSource(Protocol):
    """Scenes that are read on request; their labels are known before."""

    @property
    def labels(self) -> Sequence[int]: ...

    def __getitem__(self, index: int, /) -> Scene: ...


@dataclass(frozen=True)
class TensorScenes:
    """Scenes in memory: images (B, 3, h, w) uint8, masks (B, h, w) bool, labels (B,)."""

    images: Tensor
    masks: Tensor
    labels: Sequence[int]

    def __getitem__(self, index: int) -> Scene:
        return Scene(self.images[index], self.masks[index], self.labels[index])


@dataclass(frozen=True)
class ImageScenes:
    """Scenes of image files with masks, in a folder or of their dataset.

    Void pixels count as object, so that they do not appear in a background. Reading raises
    ImageError.

    Attributes:
        images: those without a dataset have the class 0.
        masks: folder of the masks, named like the images; None: the dataset's.
    """

    images: Sequence[InputImage]
    masks: Path | None = None

    @property
    def labels(self) -> Sequence[int]:
        return [0 if image.record is None else image.record.label for image in self.images]

    def __getitem__(self, index: int) -> Scene:
        image = self.images[index]
        pixels = F.pil_to_tensor(decode(image.source))
        size = pixels.shape[-2], pixels.shape[-1]
        if self.masks is not None:
            truth: GroundTruth | None = read_truth(
                self.masks, image.below, size, image.result_stem, image.source
            )
        else:
            truth = None if image.record is None else read_record_truth(image.record, size)
        if truth is None or truth.labels is None:
            raise ImageError(f"{image.path} has no mask")
        label = 0 if image.record is None else image.record.label
        return Scene(pixels, torch.from_numpy(truth.labels != 0), label)


class VariantDrawer:
    """Draws the variants of scenes.

    Args:
        scenes: with the objects.
        names: of the variants.
        backgrounds: scenes with the backgrounds; None: `scenes`, an image's own background only if
            no other is usable.
        seed: for choosing backgrounds; the choice for an image depends only on the seed and its
            number.

    Attributes:
        without_background: classes drawn so far of which no scene has a background.
    """

    def __init__(
        self,
        scenes: SceneSource,
        names: Sequence[Variant] = VARIANTS,
        backgrounds: SceneSource | None = None,
        seed: int = 0,
    ) -> None:
        self.scenes, self.names = scenes, names
        self.without_background: set[int] = set()
        self._choose_background = _BackgroundChooser(
            backgrounds or scenes, own=backgrounds is None, seed=seed
        )

    def __call__(self, index: int) -> dict[Variant, Tensor] | None:
        """Draw the variants of one scene, (3, h, w) uint8; None if it is not usable.

        An unreadable background is replaced by another, and a class without any by the next one.
        Without one in its own class a scene has no mixed-same, and `without_background` has the
        class. Raises GtaError if no scene has a background, and what reading the scene raises.
        """
        scene = self.scenes[index]
        if not scene.is_usable():
            return None
        drawn: dict[Variant, Tensor] = {}
        for name in self.names:
            if not name.startswith("mixed"):
                drawn[name] = _draw(name, scene)
                continue
            donor = self._choose_background(name, index, scene.label)
            if donor is None:
                self.without_background.add(scene.label)
            else:
                drawn[name] = _draw_mixed(scene, donor)
        return drawn


def draw_variants(
    scenes: SceneSource,
    names: Sequence[Variant] = VARIANTS,
    backgrounds: SceneSource | None = None,
    seed: int = 0,
) -> Iterator[tuple[int, dict[Variant, Tensor]]]:
    """Yield the number of each usable scene with its variants; see `VariantDrawer`."""
    draw = VariantDrawer(scenes, names, backgrounds, seed)
    for index in range(len(scenes.labels)):
        drawn = draw(index)
        if drawn is not None:
            yield index, drawn


def _draw(name: Variant, scene: Scene) -> Tensor:
    image, mask = scene.image, scene.mask
    if name == "original":
        return image
    if name == "only-bg-b":
        boxed = image.clone()
        box = scene.box()
        assert box is not None
        boxed[:, *box] = 0
        return boxed
    if name == "only-bg-t":
        return remove_object(scene)
    if name == "no-fg":
        return image.masked_fill(mask, 0)
    return image.masked_fill(~mask, 0)  # only-fg


def _draw_mixed(scene: Scene, donor: Scene) -> Tensor:
    image = scene.image
    background = _resize_to_cover(remove_object(donor), (image.shape[-2], image.shape[-1]))
    return torch.where(scene.mask, image, background)


def remove_object(scene: Scene) -> Tensor:
    """Draw only-bg-t: fill the object's box with the largest strip beside it, (3, h, w) uint8."""
    box = scene.box()
    assert box is not None
    image = scene.image
    strip = _largest_strip(image, *box)
    rows, columns = (
        torch.arange(side.start, side.stop) % length
        for side, length in zip(box, strip.shape[-2:], strict=True)
    )
    filled = image.clone()
    filled[:, *box] = strip[:, rows][:, :, columns]
    return filled


def _largest_strip(image: Tensor, rows: slice, columns: slice) -> Tensor:
    """Return the largest part of the image on one side of the box.

    Ties go to the lower one, then to the right one.
    """
    height, width = image.shape[-2:]
    above, below = rows.start, height - rows.stop
    left, right = columns.start, width - columns.stop
    if max(left, right) * height > max(above, below) * width:
        return image[..., :left] if left > right else image[..., columns.stop :]
    return image[:, :above] if above > below else image[:, rows.stop :]


def _resize_to_cover(background: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a background to cover (h, w), keeping its aspect ratio, and crop the center."""
    return make_eval_view(background, size, 1.0, "bilinear")


class _BackgroundChooser:
    """Chooses the scene whose background an object is shown on."""

    def __init__(self, scenes: SceneSource, own: bool, seed: int) -> None:
        self.scenes, self.own, self.seed = scenes, own, seed
        self.members: dict[int, list[int]] = {}
        for index, label in enumerate(scenes.labels):
            self.members.setdefault(label, []).append(index)
        self.classes = sorted(self.members)

    def __call__(self, name: Variant, index: int, label: int) -> Scene | None:
        """Return a scene; None for mixed-same where the class has none with a background."""
        rng = np.random.default_rng((self.seed, VARIANTS.index(name), index))
        for wanted in self._classes(name, label, rng):
            members = [int(member) for member in rng.permutation(self.members.get(wanted, []))]
            if self.own:
                members.sort(key=index.__eq__)  # its own background only if there is no other
            for member in members:
                try:
                    scene = self.scenes[member]
                except ImageError:
                    continue
                if scene.is_usable():
                    return scene
        if name == "mixed-same":
            return None
        raise GtaError(f"no image has a background beside its object, for {name}")

    def _classes(self, name: Variant, label: int, rng: np.random.Generator) -> Iterator[int]:
        """Yield the classes to take a background from, until one has some."""
        if name == "mixed-same":
            yield label
        elif name == "mixed-next":
            yield from (c for c in self.classes if c > label)
            yield from (c for c in self.classes if c <= label)
        else:
            yield self.classes[rng.integers(len(self.classes))]
            yield from rng.permutation(self.classes).tolist()
