"""Where `gta probe background` has its images from: ImageNet-9's folders, or images with masks."""

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
from gtacli.probing.backgrounds.variants import VARIANTS, Drawing, ImageScenes, Variant

_IMAGENET_ID = re.compile(r"n\d{8}_\d+")
_NUMBERED = re.compile(r"(\d+)_.+")


class Drawn(NamedTuple):
    """One image of one variant.

    Attributes:
        key: the image whose object it shows, the same in every variant.
        label: its class; 0 where there are none.
        pixels: uint8 (3, h, w).
    """

    variant: Variant
    key: str
    label: int
    pixels: Tensor


class VariantSource(Protocol):
    """Images by variant, drawn when they are asked for."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the labels, an empty one where no image has it; none at all where the images
        have no classes."""
        ...

    @property
    def images(self) -> Sequence[InputImage]:
        """What `draw` takes, in order."""
        ...

    @property
    def pictures(self) -> int:
        """How many `draw` gives of all of them, at most."""
        ...

    def draw(self, index: int, /) -> list[Drawn]:
        """What image `index` gives; nothing where it shows no object, or no background beside it.
        Raises ImageError."""
        ...


class BuiltVariants:
    """Variants of images that have masks.

    Args:
        scenes: whose objects are shown.
        classes: names of their labels, none where they have no classes; the variants are then
            those that need none.
        backgrounds: the images that the backgrounds are of; None: the scenes' own.
        seed: of the choice of backgrounds.
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
        self.pictures = len(names) * len(scenes.images)
        self._draw = Drawing(scenes, names, backgrounds, seed)
        self._labels = scenes.labels

    def draw(self, index: int, /) -> list[Drawn]:
        drawn = self._draw(index) or {}
        key = str(self.images[index].below)
        return [Drawn(name, key, self._labels[index], image) for name, image in drawn.items()]


class _File(NamedTuple):
    variant: Variant
    key: str
    label: int


class FolderVariants:
    """Variants as ImageNet-9 publishes them: `DIR/mixed_same/val/00_dog/*.JPEG`, with or without
    `val`. Folders of other names are not read; neither need all variants be there.

    An image of a mixed variant is named after the object's image, or carries its ImageNet id before
    that of the background; so images are paired over the variants.

    Raises UsageError where there is no variant, or one without images.
    """

    def __init__(self, root: Path) -> None:
        found = _variant_folders(root)
        folders = {name: _class_folders(folder) for name, folder in found.items()}
        labels = _labels(sorted({c for by_class in folders.values() for c in by_class}))
        self.classes: list[str] = [""] * (1 + max(labels.values()))
        for of_class, label in labels.items():
            self.classes[label] = of_class
        self.images: list[InputImage] = []
        self._files: list[_File] = []
        for name, by_class in folders.items():
            for of_class, folder in sorted(by_class.items()):
                files = find_images(folder)
                keys = _keys(of_class, files)
                self.images += [InputImage(str(f), f.relative_to(root)) for f in files]
                self._files += [_File(name, key, labels[of_class]) for key in keys]
            if not any(file.variant == name for file in self._files):
                raise UsageError(f"--variants: {found[name]} holds no image")

    @property
    def pictures(self) -> int:
        return len(self.images)

    def draw(self, index: int, /) -> list[Drawn]:
        return [Drawn(*self._files[index], F.pil_to_tensor(decode(self.images[index].source)))]


def _variant_folders(root: Path) -> dict[Variant, Path]:
    if not root.is_dir():
        raise UsageError(f"--variants: no folder {root}")
    by_name = {folder.name.lower().replace("_", "-"): folder for folder in list_subfolders(root)}
    found = {name: by_name[name] for name in VARIANTS if name in by_name}
    if not found:
        raise UsageError(
            f"--variants: {root} holds none of the folders original, mixed_same, mixed_rand, ..."
        )
    return found


def _class_folders(variant: Path) -> dict[str, Path]:
    inner = variant / "val"
    folders = list_subfolders(inner if inner.is_dir() else variant)
    if not folders:
        raise UsageError(f"--variants: {variant} holds no class folder such as 00_dog")
    return {folder.name: folder for folder in folders}


def _labels(classes: Sequence[str]) -> dict[str, int]:
    """By the numbers in front of the names where all have one, so that a missing class moves no
    other; else in order."""
    numbers = {name: int(m[1]) for name in classes if (m := _NUMBERED.fullmatch(name))}
    if len(set(numbers.values())) == len(classes):
        return numbers
    return {name: number for number, name in enumerate(classes)}


def _keys(of_class: str, files: Sequence[Path]) -> list[str]:
    """A key for each file, no two alike."""
    keys: dict[str, None] = {}
    for file in files:
        ids = _IMAGENET_ID.search(file.name)
        key = f"{of_class}/{ids[0] if ids else file.stem}"
        keys[key if key not in keys else f"{of_class}/{file.name}"] = None
    return [*keys]
