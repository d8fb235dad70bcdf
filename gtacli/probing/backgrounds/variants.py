"""Images with the object or its background taken away or exchanged, as ImageNet-9 has them.

Xiao et al., "Noise or Signal: The Role of Image Backgrounds in Object Recognition", arXiv
2006.09994; the boxes, strips and ties are those of its official code.

    original    the image as it is
    only-bg-b   the object's bounding box is black
    only-bg-t   the box shows background: the largest strip of the image above, below, left or right
                of the box, repeated from the top left corner
    no-fg       the object's pixels are black
    only-fg     all others are
    mixed-same  the object's pixels on the only-bg-t of another image of its class
    mixed-rand  ... of an image of any class, each as likely
    mixed-next  ... of an image of the next class, after the last one the first

    BG-Gap = accuracy(mixed-same) - accuracy(mixed-rand): what the background adds to the object.

Ours: masks are given, where the official code guesses them by GrabCut, so the box is the mask's;
another image's background covers the image and is cut to it, where theirs are all of one size; and
backgrounds may come from other images than the objects do (training images, where these tell the
class by the background and the test images do not). Images without an object, and those whose box
leaves less than a tenth of them, are left out, as there.
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
from gtacli.data.truth import GroundTruth, read_record_truth, read_truth
from gtacli.errors import GtaError
from gtacli.images.decode import ImageError, decode
from gtacli.images.sizes import cover_size

Variant = Literal[
    "original", "only-bg-b", "only-bg-t", "no-fg", "only-fg",
    "mixed-same", "mixed-rand", "mixed-next",
]  # fmt: skip
VARIANTS: tuple[Variant, ...] = get_args(Variant)
LARGEST_BOX = 0.9
"""Share of an image that an object's box may fill, so that there is a background."""


class Scene(NamedTuple):
    """One image.

    Attributes:
        image: (3, h, w) uint8.
        mask: (h, w) bool, of the object.
        label: number of its class.
    """

    image: Tensor
    mask: Tensor
    label: int

    def box(self) -> tuple[slice, slice] | None:
        """The object's rows and columns, None without an object."""
        sides = []
        for axis in (1, 0):
            where = self.mask.any(axis).nonzero()
            if not len(where):
                return None
            sides.append(slice(int(where[0]), int(where[-1]) + 1))
        return sides[0], sides[1]

    def fits(self) -> bool:
        """Whether there is an object and a background beside it."""
        box = self.box()
        if box is None:
            return False
        rows, columns = box
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        return area <= LARGEST_BOX * self.mask.numel()


class Scenes(Protocol):
    """Images by number, read when they are asked for; their labels are known before."""

    @property
    def labels(self) -> Sequence[int]: ...

    def __getitem__(self, index: int, /) -> Scene: ...


@dataclass(frozen=True)
class HeldScenes:
    """Scenes in memory: images (B, 3, h, w) uint8, masks (B, h, w) bool, labels (B,)."""

    images: Tensor
    masks: Tensor
    labels: Sequence[int]

    def __getitem__(self, index: int) -> Scene:
        return Scene(self.images[index], self.masks[index], self.labels[index])


@dataclass(frozen=True)
class ImageScenes:
    """Scenes of images with masks: of a folder, or their data set's own. What annotators left open
    counts as object, so that no background shows it.

    Reading raises ImageError.

    Attributes:
        images: those of no data set are all of the class 0.
        masks: folder of the masks, named like the images; None: the data set's.
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
            truth: GroundTruth | None = read_truth(self.masks, image.below, size)
        else:
            truth = None if image.record is None else read_record_truth(image.record, size)
        if truth is None or truth.labels is None:
            raise ImageError(f"{image.path} has no mask, and its background is not known")
        label = 0 if image.record is None else image.record.label
        return Scene(pixels, torch.from_numpy(truth.labels != 0), label)


class Drawing:
    """Draws the variants of scenes.

    Args:
        scenes: whose objects are shown.
        names: of the variants.
        backgrounds: where backgrounds come from; None: the scenes, an image's own only if no
            other fits.
        seed: of the choice of backgrounds; that of an image depends on nothing but it and its
            number.
    """

    def __init__(
        self,
        scenes: Scenes,
        names: Sequence[Variant] = VARIANTS,
        backgrounds: Scenes | None = None,
        seed: int = 0,
    ) -> None:
        self.scenes, self.names = scenes, names
        self._donors = _Donors(backgrounds or scenes, own=backgrounds is None, seed=seed)

    def __call__(self, index: int) -> dict[Variant, Tensor] | None:
        """The variants of one scene, (3, h, w) uint8; None of a scene that does not fit.

        Raises GtaError where a class has no image with a background, and what reading the scene
        raises. A background that cannot be read is left for another.
        """
        scene = self.scenes[index]
        if not scene.fits():
            return None
        return {
            name: _mixed(scene, self._donors(name, index, scene.label))
            if name.startswith("mixed")
            else _draw(name, scene)
            for name in self.names
        }


def variants(
    scenes: Scenes,
    names: Sequence[Variant] = VARIANTS,
    backgrounds: Scenes | None = None,
    seed: int = 0,
) -> Iterator[tuple[int, dict[Variant, Tensor]]]:
    """The number of each scene that fits, and its variants; see `Drawing`."""
    draw = Drawing(scenes, names, backgrounds, seed)
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
        return without_object(scene)
    if name == "no-fg":
        return image.masked_fill(mask, 0)
    return image.masked_fill(~mask, 0)  # only-fg


def _mixed(scene: Scene, donor: Scene) -> Tensor:
    image = scene.image
    ground = _covering(without_object(donor), (image.shape[-2], image.shape[-1]))
    return torch.where(scene.mask, image, ground)


def without_object(scene: Scene) -> Tensor:
    """only-bg-t: (3, h, w) uint8, the object's box filled with the largest strip beside it."""
    box = scene.box()
    assert box is not None
    image = scene.image
    strip = _strip(image, *box)
    rows, columns = (
        torch.arange(side.start, side.stop) % length
        for side, length in zip(box, strip.shape[-2:], strict=True)
    )
    filled = image.clone()
    filled[:, *box] = strip[:, rows][:, :, columns]
    return filled


def _strip(image: Tensor, rows: slice, columns: slice) -> Tensor:
    """The largest part of the image on one side of the box; of equal ones the lower, the right."""
    height, width = image.shape[-2:]
    above, below = rows.start, height - rows.stop
    left, right = columns.start, width - columns.stop
    if max(left, right) * height > max(above, below) * width:
        return image[..., :left] if left > right else image[..., columns.stop :]
    return image[:, :above] if above > below else image[:, rows.stop :]


def _covering(ground: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of a background, resized to cover (h, w) in its own shape."""
    height, width = ground.shape[-2:]
    covering = cover_size(height, width, size, enlarge=True)
    if covering != (height, width):
        ground = F.resize(ground, list(covering), antialias=True)
    return F.center_crop(ground, list(size))


class _Donors:
    """Chooses whose background an object is shown on."""

    def __init__(self, scenes: Scenes, own: bool, seed: int) -> None:
        self.scenes, self.own, self.seed = scenes, own, seed
        self.members: dict[int, list[int]] = {}
        for index, label in enumerate(scenes.labels):
            self.members.setdefault(label, []).append(index)
        self.classes = sorted(self.members)

    def __call__(self, name: Variant, index: int, label: int) -> Scene:
        rng = np.random.default_rng((self.seed, VARIANTS.index(name), index))
        if name == "mixed-rand":
            wanted = self.classes[rng.integers(len(self.classes))]
        elif name == "mixed-next":
            wanted = next((c for c in self.classes if c > label), self.classes[0])
        else:
            wanted = label
        members = [int(member) for member in rng.permutation(self.members.get(wanted, []))]
        if self.own:
            members.sort(key=index.__eq__)  # its own background only if there is no other
        for member in members:
            try:
                scene = self.scenes[member]
            except ImageError:
                continue
            if scene.fits():
                return scene
        raise GtaError(f"no image of class {wanted} shows a background for {name}")
