"""`gta probe robust`: ImageNet's classifiers on images that are unlike ImageNet's.

    imagenet    the validation images, for comparison
    v2          ImageNet-V2 (Recht et al., arXiv 1902.10811); its folders are numbers of classes
    sketch      ImageNet-Sketch (Wang et al., arXiv 1905.13549)
    r, a        ImageNet-R (Hendrycks et al., arXiv 2006.16241) and -A (arXiv 1907.07174), each of
                200 classes; as published, the other 800 outputs do not compete
    cue conflict (Geirhos et al., arXiv 1811.12231): the shape of one thing, the texture of another,
                in 16 classes; the mean probability of each one's ImageNet classes decides

    shape bias = told by shape / (told by shape + told by texture)

over the images whose shape and texture are of different classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data import ImageNetInfo
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gtacli.data.inputs import InputImage
from gtacli.errors import UsageError
from gtacli.images.decode import ImageError, decode
from gtacli.images.find import find_images, list_subfolders
from gtacli.inference.stream import Failure
from gtacli.inference.views import ModelViews
from gtacli.measures.statistics import share_difference
from gtacli.models.loading import LoadedModel
from gtacli.probing.class_map import matched, output_names
from gtacli.probing.features.evaluation import accuracy
from gtacli.runtime.batching import chunks
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead

SUBSETS = {"r": 200, "a": 200}
"""Sets whose classes alone compete, and how many there are."""
# Which of ImageNet's 1,000 classes each of the 16 is, as in Geirhos et al. (arXiv 1808.08750).
SIXTEEN = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444,671",
    "bird": "8,10-16,18-20,22-24,80-83,87-96,98-100,127-133,135-145",
    "boat": "472,554,625,814,914",
    "bottle": "440,720,737,898-899,901,907",
    "car": "436,511,817",
    "cat": "281-286",
    "chair": "423,559,765,857",
    "clock": "409,530,892",
    "dog": "152-191,193-203,205-226,228-241,243-250,252-257,259,261-263,265-268",
    "elephant": "385-386",
    "keyboard": "508,878",
    "knife": "499",
    "oven": "766",
    "truck": "555,569,656,675,717,734,864,867",
}
_CUES = re.compile(r"(?:.*_)?([a-z]+)\d+-([a-z]+)\d+")
Decide = Callable[[Tensor], Tensor]
"""Logits (B, K) -> int64 (B,) classes of a set, on the CPU."""


@dataclass(frozen=True)
class ImageSet:
    """Attributes:
    name: as above.
    images, labels: and the number of each one's class, of cue conflicts that of its shape.
    classes: names.
    textures: of cue conflicts the number of each one's texture.
    """

    name: str
    images: Sequence[InputImage]
    labels: Sequence[int]
    classes: Sequence[str]
    textures: Sequence[int] | None = None

    def decide(self, model: LoadedModel) -> Decide:
        """How a model answers. Raises UsageError for one that does not tell ImageNet's classes."""
        if self.textures is not None:
            return _Sixteen(model)
        found = matched(model, self.classes, restrict=self.name in SUBSETS)
        if found is None:
            raise UsageError(f"--model: {model.spec} has no classifier for ImageNet's classes")
        return found


def class_folders(name: str, root: Path) -> ImageSet:
    """A set of folders named after synsets (n01440764), or with the numbers of ImageNet's classes.
    Raises UsageError for another one."""
    option = "--imagenet-" + name if name in ("v2", *SUBSETS) else "--" + name
    if not root.is_dir():
        raise UsageError(f"{option}: no folder {root}")
    synsets = ImageNetInfo("imagenet1k").label_names()
    by_class: dict[str, list[Path]] = {}
    for folder in list_subfolders(root):
        # By number, not in the order of the names, in which 10 comes before 2.
        number = int(folder.name) if folder.name.isdigit() else -1
        synset = synsets[number] if 0 <= number < len(synsets) else folder.name
        if synset not in synsets:
            raise UsageError(f"{option}: {folder} is named after none of ImageNet's classes")
        by_class[synset] = find_images(folder)
    if not any(by_class.values()):
        raise UsageError(f"{option}: {root} holds no class folder with images")
    classes = sorted(by_class)
    files = [(file, label) for label, synset in enumerate(classes) for file in by_class[synset]]
    images = [InputImage(str(file), file.relative_to(root)) for file, _ in files]
    return ImageSet(name, images, [label for _, label in files], classes)


def cue_conflicts(root: Path) -> ImageSet:
    """Images named after their shape and texture (`cat1-elephant2.png`), in any folders. Raises
    UsageError for a folder without any."""
    if not root.is_dir():
        raise UsageError(f"--cue-conflict: no folder {root}")
    classes = [*SIXTEEN]
    images, shapes, textures = [], [], []
    for file in find_images(root):
        cues = _CUES.fullmatch(file.stem)
        if cues and cues[1] in SIXTEEN and cues[2] in SIXTEEN:
            images.append(InputImage(str(file), file.relative_to(root)))
            shapes.append(classes.index(cues[1]))
            textures.append(classes.index(cues[2]))
    if not images:
        raise UsageError(f"--cue-conflict: {root} holds no image named like cat1-elephant2.png")
    return ImageSet("cue-conflict", images, shapes, classes, textures)


class _Sixteen:
    def __init__(self, model: LoadedModel) -> None:
        synsets = ImageNetInfo("imagenet1k").label_names()
        places = {name: number for number, name in enumerate(output_names(model))}
        if not places.keys() >= set(synsets):
            raise UsageError(f"--model: {model.spec} has no classifier for ImageNet's classes")
        self.members = [[places[synsets[n]] for n in _numbers(of)] for of in SIXTEEN.values()]

    def __call__(self, logits: Tensor) -> Tensor:
        shares = logits.double().softmax(-1).cpu()
        means = [shares[:, members].mean(-1) for members in self.members]
        return torch.stack(means, -1).argmax(-1)


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


class _Item(NamedTuple):
    number: int
    views: tuple[Tensor, ...]


class Asked:
    """Asks models about the images of one set.

    Attributes:
        answers: of each model {number of the image: class}.
    """

    def __init__(self, models: Sequence[LoadedModel], images: ImageSet, compute: Compute) -> None:
        self.models, self.images, self.compute = models, images, compute
        self.deciders = [images.decide(model) for model in models]
        self.answers: list[dict[int, int]] = [{} for _ in models]
        self._views = ModelViews(models, compute)

    def see(
        self, batch_size: int = 32, threads: int | None = None, most: int | None = None
    ) -> Iterator[Failure | int]:
        """Yields an image that cannot be read, or how many have just been seen."""
        numbers = range(len(self.images.images))[:most]
        for batch in chunks(ahead(self._read, numbers, 2 * batch_size, threads), batch_size):
            good = [item for item in batch if isinstance(item, _Item)]
            yield from (item for item in batch if isinstance(item, Failure))
            if good:
                self._look(good)
                yield len(good)

    def _read(self, index: int) -> _Item | Failure:
        image = self.images.images[index]
        try:
            return _Item(index, self._views.make(F.pil_to_tensor(decode(image.source))))
        except ImageError as error:
            return Failure(image.path, str(error))

    @torch.no_grad()
    def _look(self, batch: Sequence[_Item]) -> None:
        for m, model in enumerate(self.models):
            inputs = self._views.batch(m, [item.views for item in batch])
            with self.compute.autocast():
                logits = model.model(inputs).float()
            said = self.deciders[m](logits).tolist()
            self.answers[m] |= {item.number: n for item, n in zip(batch, said, strict=True)}

    def results(self) -> list[dict[str, Any]]:
        """Of each model `top1`, its interval and `n_test`, of cue conflicts `figures_of_cues`; from
        the second on with `compared`, against the first."""
        rights = [self._right(answers) for answers in self.answers]
        found = []
        for m, right in enumerate(rights):
            result = {**accuracy("top1", right), "n_test": len(right)}
            tests = {"top1": share_difference(right, rights[0])} if m else {}
            if self.images.textures is not None:
                figures, shape = self._cues(self.answers[m])
                result |= figures
                if m:
                    tests |= _both_told(shape, self._cues(self.answers[0])[1])
            if m:
                result["compared"] = {name: test._asdict() for name, test in tests.items()}
            found.append(result)
        return found

    def _right(self, answers: dict[int, int]) -> NDArray[np.bool_]:
        return np.array([said == self.images.labels[i] for i, said in answers.items()], bool)

    def _cues(self, answers: dict[int, int]) -> tuple[dict[str, Any], dict[int, bool]]:
        """`shape_bias` with its interval, `by_shape` and `by_texture` as shares of the `n_conflict`
        images; and of those that one of both told, whether it was the shape."""
        assert self.images.textures is not None
        cues = {i: (self.images.labels[i], self.images.textures[i]) for i in answers}
        conflicts = {i: both for i, both in cues.items() if both[0] != both[1]}
        shape = {i: answers[i] == both[0] for i, both in conflicts.items() if answers[i] in both}
        n = len(conflicts)
        figures = {
            **accuracy("shape_bias", [*shape.values()]),
            "by_shape": sum(shape.values()) / n if n else None,
            "by_texture": (len(shape) - sum(shape.values())) / n if n else None,
            "n_conflict": n,
        }
        return figures, shape


def _both_told(shape: dict[int, bool], reference: dict[int, bool]) -> dict[str, Any]:
    """The difference in shape bias, on the images that both networks told by shape or texture."""
    common = [i for i in shape if i in reference]
    if not common:
        return {}
    test = share_difference([shape[i] for i in common], [reference[i] for i in common])
    return {"shape_bias": test}
