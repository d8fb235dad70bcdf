"""From a classifier's outputs to the classes of a data set that are not, or not all, its own.

The outputs are matched by name: a run's class names, or ImageNet's synsets (n01440764), which data
sets made for ImageNet's classifiers have as folders. Coarser classes need a mapping file, as
ImageNet-9 has one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from gtacli.errors import UsageError
from gtacli.inference.predict import has_classifier
from gtacli.models.loading import LoadedModel

log = logging.getLogger(__name__)
NO_CLASS = -1


@dataclass(frozen=True)
class ClassMap:
    """What a classifier's outputs mean.

    Attributes:
        of_output: (K,) int64, the class of each output, NO_CLASS for none.
        restrict: outputs without a class do not compete; else an image that is taken for one is
            wrong.
    """

    of_output: Tensor
    restrict: bool = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits (B, K) -> int64 (B,) classes, on the CPU."""
        if self.restrict:
            outside = (self.of_output == NO_CLASS).to(logits.device)
            logits = logits.masked_fill(outside, -torch.inf)
        return self.of_output[logits.argmax(-1).cpu()]


def matched(model: LoadedModel, classes: Sequence[str], restrict: bool = False) -> ClassMap | None:
    """The outputs of `model` that are called like `classes`, of which a nameless one is in no
    image; without names of its own and with as many outputs as classes, one after the other. None
    where neither fits, or there is no classifier."""
    if not has_classifier(model):
        return None
    names = output_names(model)
    if not names and outputs(model) == len(classes):
        log.info("%s does not name its classes: taken in the data's order", model.spec)
        return ClassMap(torch.arange(len(classes)))
    labels = {name: label for label, name in enumerate(classes) if name}
    if not labels or not labels.keys() <= set(names):
        return None
    return ClassMap(torch.tensor([labels.get(name, NO_CLASS) for name in names]), restrict)


def mapped(model: LoadedModel, file: Path, classes: Sequence[str]) -> ClassMap:
    """The classes that a mapping file gives the outputs of `model`: a JSON object from the number
    of each output to the number of its class, -1 for none (`in_to_in9.json`).

    Raises UsageError for a file that is none, or is another classifier's.
    """
    given = _mapping(file)
    width = outputs(model)
    if set(given) != set(range(width)):
        raise UsageError(
            f"--mapping: {file} maps {len(given)} outputs, {model.spec} has {width}; "
            "it is another classifier's"
        )
    if not any(0 <= value < len(classes) for value in given.values()):
        raise UsageError(f"--mapping: {file} maps no output to any of the {len(classes)} classes")
    return ClassMap(torch.tensor([given[number] for number in range(width)]))


def output_names(model: LoadedModel) -> tuple[str, ...]:
    """What the outputs are called: as in the weights, else ImageNet's synsets, else nothing."""
    if model.classes:
        return model.classes
    subset = infer_imagenet_subset(model.model)
    return tuple(ImageNetInfo(subset).label_names()) if subset else ()


def outputs(model: LoadedModel) -> int:
    """How many classes the model tells apart."""
    return int(getattr(model.model, "num_classes", 0))


def _mapping(file: Path) -> dict[int, int]:
    try:
        read: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--mapping: no such file: {file}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"--mapping: {file} is no JSON file ({error})") from error
    wanted = 'an object from output to class such as {"0": -1, "1": 4}'
    if not isinstance(read, dict) or not read:
        raise UsageError(f"--mapping: {file} is not {wanted}")
    try:
        return {int(key): _class(value) for key, value in read.items()}
    except ValueError as error:
        raise UsageError(f"--mapping: {file} is not {wanted}: {error}") from error


def _class(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < NO_CLASS:
        raise ValueError(f"{value!r} is no class")
    return value
