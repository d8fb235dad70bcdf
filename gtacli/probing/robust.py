"""`gta probe robust`: accuracy of ImageNet classifiers on other distributions of images.

    imagenet    the validation images, for comparison
    v2          ImageNet-V2 (Recht et al., arXiv 1902.10811); its folders are class numbers
    sketch      ImageNet-Sketch (Wang et al., arXiv 1905.13549)
    r, a        ImageNet-R (Hendrycks et al., arXiv 2006.16241) and -A (arXiv 1907.07174), each of
                200 classes; as published, the other 800 outputs are ignored
    cue conflict (Geirhos et al., arXiv 1811.12231): the shape of one class, the texture of another,
                in 16 classes; the prediction is the class with the highest mean probability over
                its ImageNet classes

    shape bias = shape predictions / (shape predictions + texture predictions)

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
from gtacli.images.decode import decode
from gtacli.images.find import find_images, list_subfolders
from gtacli.inference.stream import Failure, Stop, never, stream
from gtacli.inference.views import ModelViews
from gtacli.measures.statistics import Difference, paired_fraction_difference
from gtacli.models.loading import LoadedModel
from gtacli.probing.class_map import match_outputs, output_names
from gtacli.probing.features.evaluation import accuracy_metrics
from gtacli.runtime.devices import Compute

SUBSETS = {"r": 200, "a": 200}
"""Datasets of a subset of the classes, to which predictions are restricted, and its size."""
# The ImageNet classes of each of the 16, as in Geirhos et al. (arXiv 1808.08750).
SHAPE_CLASSES = {
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
Classify = Callable[[Tensor], Tensor]
"""Returns the classes (B,) of a dataset, int64 on the CPU, of logits (B, K)."""


@dataclass(frozen=True)
class ImageSet:
    """A dataset of the probe.

    Attributes:
        name: as above.
        images, labels: and the class number of each, for cue conflicts that of the shape.
        classes: names.
        textures: for cue conflicts the class number of each texture.
    """

    name: str
    images: Sequence[InputImage]
    labels: Sequence[int]
    classes: Sequence[str]
    textures: Sequence[int] | None = None

    def make_classifier(self, model: LoadedModel) -> Classify:
        """Return the rule from a model's logits to these classes.

        Raises UsageError for a model without a classifier of ImageNet's classes.
        """
        if self.textures is not None:
            return _ShapeClassifier(model)
        found = match_outputs(model, self.classes, restrict=self.name in SUBSETS)
        if found is None:
            raise _no_classifier(model)
        return found


def read_class_folders(name: str, root: Path) -> ImageSet:
    """List the images in folders of synsets (n01440764), or of the numbers of ImageNet's classes.

    Raises UsageError for other folders.
    """
    option = f"imagenet_{name}" if name in ("v2", *SUBSETS) else name
    if not root.is_dir():
        raise UsageError(f"no folder {root}", option=option)
    synsets = ImageNetInfo("imagenet1k").label_names()
    by_class: dict[str, list[Path]] = {}
    for folder in list_subfolders(root):
        # By number, not in the order of the names, in which 10 comes before 2.
        number = int(folder.name) if folder.name.isdigit() else -1
        synset = synsets[number] if 0 <= number < len(synsets) else folder.name
        if synset not in synsets:
            raise UsageError(f"{folder} is not named after an ImageNet class", option=option)
        by_class[synset] = find_images(folder)
    if not any(by_class.values()):
        raise UsageError(f"{root} holds no class folder with images", option=option)
    classes = sorted(by_class)
    files = [(file, label) for label, synset in enumerate(classes) for file in by_class[synset]]
    images = [InputImage(str(file), file.relative_to(root)) for file, _ in files]
    return ImageSet(name, images, [label for _, label in files], classes)


def read_cue_conflicts(root: Path) -> ImageSet:
    """List images named after their shape and texture (`cat1-elephant2.png`), in any folders.

    Raises UsageError for a folder without any.
    """
    if not root.is_dir():
        raise UsageError(f"no folder {root}", option="cue_conflict")
    classes = [*SHAPE_CLASSES]
    images, shapes, textures = [], [], []
    for file in find_images(root):
        cues = _CUES.fullmatch(file.stem)
        if cues and cues[1] in SHAPE_CLASSES and cues[2] in SHAPE_CLASSES:
            images.append(InputImage(str(file), file.relative_to(root)))
            shapes.append(classes.index(cues[1]))
            textures.append(classes.index(cues[2]))
    if not images:
        raise UsageError(
            f"{root} holds no image named like cat1-elephant2.png", option="cue_conflict"
        )
    return ImageSet("cue-conflict", images, shapes, classes, textures)


def _no_classifier(model: LoadedModel) -> UsageError:
    return UsageError(f"{model.spec} has no classifier for ImageNet's classes", option="model")


class _ShapeClassifier:
    def __init__(self, model: LoadedModel) -> None:
        synsets = ImageNetInfo("imagenet1k").label_names()
        outputs = {name: number for number, name in enumerate(output_names(model))}
        if not outputs.keys() >= set(synsets):
            raise _no_classifier(model)
        self.members = [
            [outputs[synsets[n]] for n in _read_ranges(ranges)] for ranges in SHAPE_CLASSES.values()
        ]

    def __call__(self, logits: Tensor) -> Tensor:
        probabilities = logits.double().softmax(-1).cpu()
        means = [probabilities[:, members].mean(-1) for members in self.members]
        return torch.stack(means, -1).argmax(-1)


def _read_ranges(text: str) -> list[int]:
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


class _RobustInput(NamedTuple):
    number: int
    views: tuple[Tensor, ...]


class RobustProbe:
    """Classifies the images of one dataset with several models.

    Attributes:
        predictions: by model, {number of the image: class}.
    """

    def __init__(self, models: Sequence[LoadedModel], images: ImageSet, compute: Compute) -> None:
        self.models, self.images, self.compute = models, images, compute
        self.classifiers = [images.make_classifier(model) for model in models]
        self.predictions: list[dict[int, int]] = [{} for _ in models]
        self._views = ModelViews(models, compute)

    def run(
        self,
        batch_size: int = 32,
        threads: int | None = None,
        most: int | None = None,
        stop: Stop = never,
    ) -> Iterator[int | Failure]:
        """Yield the number of each image once it has been classified; see `stream`."""
        return stream(
            range(len(self.images.images))[:most],
            self._read,
            self._classify,
            batch_size,
            threads=threads,
            name=lambda number: self.images.images[number].path,
            stop=stop,
        )

    def _read(self, number: int) -> _RobustInput:
        pixels = F.pil_to_tensor(decode(self.images.images[number].source))
        return _RobustInput(number, self._views.make(pixels))

    @torch.no_grad()
    def _classify(self, batch: list[_RobustInput]) -> list[int]:
        numbers = [item.number for item in batch]
        for m, model in enumerate(self.models):
            inputs = self._views.batch(m, [item.views for item in batch])
            with self.compute.autocast():
                logits = model.model(inputs).float()
            classes = self.classifiers[m](logits).tolist()
            self.predictions[m] |= dict(zip(numbers, classes, strict=True))
        return numbers

    def results(self) -> list[dict[str, Any]]:
        """Return the metrics of each model, see `results.RobustResult`.

        From the second model on with `compared`, the test against the first.
        """
        correct = [self._correct(predictions) for predictions in self.predictions]
        results = []
        for m, right in enumerate(correct):
            result = {**accuracy_metrics("top1", right), "n_test": len(right)}
            tests = {"top1": paired_fraction_difference(right, correct[0])} if m else {}
            if self.images.textures is not None:
                metrics, shape = self._shape_bias(self.predictions[m])
                result |= metrics
                if m:
                    tests |= _compare_shape_bias(shape, self._shape_bias(self.predictions[0])[1])
            if m:
                result["compared"] = {name: test._asdict() for name, test in tests.items()}
            results.append(result)
        return results

    def _correct(self, predictions: dict[int, int]) -> NDArray[np.bool_]:
        labels = self.images.labels
        return np.array([label == labels[i] for i, label in predictions.items()], bool)

    def _shape_bias(self, predictions: dict[int, int]) -> tuple[dict[str, Any], dict[int, bool]]:
        """Return the metrics of cue conflicts, and by image whether the shape was predicted.

        The latter without images for which neither shape nor texture was.
        """
        assert self.images.textures is not None
        cues = {i: (self.images.labels[i], self.images.textures[i]) for i in predictions}
        conflicts = {i: both for i, both in cues.items() if both[0] != both[1]}
        shape = {
            i: predictions[i] == both[0] for i, both in conflicts.items() if predictions[i] in both
        }
        n = len(conflicts)
        metrics = {
            **accuracy_metrics("shape_bias", [*shape.values()]),
            "by_shape": sum(shape.values()) / n if n else None,
            "by_texture": (len(shape) - sum(shape.values())) / n if n else None,
            "n_conflict": n,
        }
        return metrics, shape


def _compare_shape_bias(
    shape: dict[int, bool], reference: dict[int, bool]
) -> dict[str, Difference]:
    """Compare the shape bias on the images for which both models predicted shape or texture."""
    common = [i for i in shape if i in reference]
    if not common:
        return {}
    test = paired_fraction_difference([shape[i] for i in common], [reference[i] for i in common])
    return {"shape_bias": test}
