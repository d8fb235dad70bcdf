"""Sources of images for `gta probe background`: ImageNet-9's folders, or images with masks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gtacli.data.inputs import InputImage
from gtacli.errors import UsageError
from gtacli.images.decode import decode
from gtacli.images.find import find_images, list_subfolders
from gtacli.probing.backgrounds.variants import VARIANTS, ImageScenes, Variant, VariantDrawer

_IMAGENET_ID = re.compile(r"n\d{8}_\d+")
_NUMBERED = re.compile(r"(\d+)_.+")


class VariantImage(NamedTuple):
    """One image of one variant.

    Attributes:
        key: of the image whose object it shows, the same in every variant.
        label: its class; 0 without classes.
        pixels: uint8 (3, h, w).
    """

    variant: Variant
    key: str
    label: int
    pixels: Tensor


class VariantSource(Protocol):
    """Images by variant, drawn on request."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels, empty for a label without images; () for images without classes."""
        ...

    @property
    def images(self) -> Sequence[InputImage]:
        """The images, in the order of `draw`'s indices."""
        ...

    @property
    def max_variants(self) -> int:
        """Most variants that all images give."""
        ...

    def draw(self, index: int, /) -> list[VariantImage]:
        """Draw the variants of image `index`; none without an object or a background beside it.

        Raises ImageError.
        """
        ...


class MaskedImageVariants:
    """Variants of images that have masks.

    Args:
        scenes: images with the objects.
        classes: names of their labels; without classes only variants that need none are drawn.
        backgrounds: images with the backgrounds; None: those of the scenes.
        seed: for choosing backgrounds.
    """

    def __init__(
        self,
        scenes: ImageScenes,
        classes: Sequence[str],
        backgrounds: ImageScenes | None = None,
        seed: int = 0,
    ) -> None:
        names: Sequence[Variant] = VARIANTS if classes else ("original", "mixed-rand")
        self.classes, self.images = classes, scenes.images
        self.max_variants = len(names) * len(scenes.images)
        self._draw = VariantDrawer(scenes, names, backgrounds, seed)
        self._labels = scenes.labels

    def without_own_background(self) -> list[str]:
        """Return the classes drawn so far of which no image has a background, for mixed-same."""
        return [self.classes[label] for label in sorted(self._draw.without_background)]

    def draw(self, index: int, /) -> list[VariantImage]:
        drawn = self._draw(index) or {}
        image = self.images[index]
        key = str(image.below) if image.stem is None else image.path
        return [
            VariantImage(name, key, self._labels[index], image) for name, image in drawn.items()
        ]


class _File(NamedTuple):
    variant: Variant
    key: str
    label: int


class FolderVariants:
    """Variants as published for ImageNet-9: `DIR/mixed_same/val/00_dog/*.JPEG`, or without `val`.

    Folders with other names are ignored, and variants may be missing. An image of a mixed variant
    is named after the object's image, or has its ImageNet id before that of the background; this
    pairs images over the variants.

    Raises UsageError without a variant, or for one without images.
    """

    def __init__(self, root: Path) -> None:
        found = _variant_folders(root)
        folders = {name: _class_folders(folder) for name, folder in found.items()}
        labels = _labels(sorted({c for by_class in folders.values() for c in by_class}))
        self.classes: list[str] = [""] * (1 + max(labels.values()))
        for class_name, label in labels.items():
            self.classes[label] = class_name
        self.images: list[InputImage] = []
        self._files: list[_File] = []
        for name, by_class in folders.items():
            for class_name, folder in sorted(by_class.items()):
                files = find_images(folder)
                keys = _keys(class_name, files)
                self.images += [InputImage(str(f), f.relative_to(root)) for f in files]
                self._files += [_File(name, key, labels[class_name]) for key in keys]
            if not any(file.variant == name for file in self._files):
                raise UsageError(f"{found[name]} holds no image", option="variants")

    @property
    def max_variants(self) -> int:
        return len(self.images)

    def draw(self, index: int, /) -> list[VariantImage]:
        return [
            VariantImage(*self._files[index], F.pil_to_tensor(decode(self.images[index].source)))
        ]


def _variant_folders(root: Path) -> dict[Variant, Path]:
    if not root.is_dir():
        raise UsageError(f"no folder {root}", option="variants")
    by_name = {folder.name.lower().replace("_", "-"): folder for folder in list_subfolders(root)}
    found = {name: by_name[name] for name in VARIANTS if name in by_name}
    if not found:
        raise UsageError(
            f"{root} holds none of the folders original, mixed_same, mixed_rand, ...",
            option="variants",
        )
    return found


def _class_folders(variant: Path) -> dict[str, Path]:
    inner = variant / "val"
    folders = list_subfolders(inner if inner.is_dir() else variant)
    if not folders:
        raise UsageError(f"{variant} holds no class folder such as 00_dog", option="variants")
    return {folder.name: folder for folder in folders}


def _labels(classes: Sequence[str]) -> dict[str, int]:
    """Return class numbers: the prefixes of the names if all have one, else in order.

    With prefixes a missing class does not shift the others.
    """
    numbers = {name: int(m[1]) for name in classes if (m := _NUMBERED.fullmatch(name))}
    if len(set(numbers.values())) == len(classes):
        return numbers
    return {name: number for number, name in enumerate(classes)}


def _keys(class_name: str, files: Sequence[Path]) -> list[str]:
    """Return a unique key for each file."""
    keys: dict[str, None] = {}
    for file in files:
        ids = _IMAGENET_ID.search(file.name)
        key = f"{class_name}/{ids[0] if ids else file.stem}"
        keys[key if key not in keys else f"{class_name}/{file.name}"] = None
    return [*keys]
