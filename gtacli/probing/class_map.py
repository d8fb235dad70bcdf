"""The mapping from a classifier's outputs to the classes of a dataset that differ from its own.

Outputs are matched by name: the class names of a run, or ImageNet's synsets (n01440764), which
datasets for ImageNet's classifiers have as folders. Coarser classes need a mapping file, as
published for ImageNet-9.
"""

from __future__ import annotations

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
from gtacli.models.class_order import other_order
from gtacli.models.loading import LoadedModel
from gtacli.runtime.strict_json import read_json, reason_of

log = logging.getLogger(__name__)
NO_CLASS = -1


@dataclass(frozen=True)
class ClassMap:
    """The classes of a classifier's outputs.

    Attributes:
        class_of_output: (K,) int64, the class of each output, NO_CLASS for none.
        restrict: ignore outputs without a class; otherwise a prediction of such an output is wrong.
    """

    class_of_output: Tensor
    restrict: bool = False

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the predicted classes (B,) int64 on the CPU of logits (B, K)."""
        if self.restrict:
            outside = (self.class_of_output == NO_CLASS).to(logits.device)
            logits = logits.masked_fill(outside, -torch.inf)
        return self.class_of_output[logits.argmax(-1).cpu()]


def match_outputs(
    model: LoadedModel, classes: Sequence[str], restrict: bool = False
) -> ClassMap | None:
    """Match outputs to classes by name; None without a classifier, or if names do not match.

    A class with an empty name is never predicted. If the model does not name its outputs and has as
    many as there are classes, they are matched in order.
    """
    if not has_classifier(model):
        return None
    names = output_names(model)
    if not names and count_outputs(model) == len(classes):
        caution = other_order(classes)
        text = "%s does not name its classes: using the order of the dataset's%s"
        log.log(logging.WARNING if caution else logging.INFO, text, model.spec, caution)
        return ClassMap(torch.arange(len(classes)))
    labels = {name: label for label, name in enumerate(classes) if name}
    if not labels or not labels.keys() <= set(names):
        return None
    return ClassMap(torch.tensor([labels.get(name, NO_CLASS) for name in names]), restrict)


def read_class_map(model: LoadedModel, file: Path, classes: Sequence[str]) -> ClassMap:
    """Read a mapping file: a JSON object from output number to class number, -1 for none.

    As `in_to_in9.json` of ImageNet-9. Raises UsageError for another file, or another classifier's.
    """
    mapping = _read_json(file)
    width = count_outputs(model)
    if set(mapping) != set(range(width)):
        raise UsageError(
            f"{file} maps {len(mapping)} outputs, but {model.spec} has {width}", option="mapping"
        )
    if not any(0 <= value < len(classes) for value in mapping.values()):
        raise UsageError(
            f"{file} maps no output to any of the {len(classes)} classes", option="mapping"
        )
    return ClassMap(torch.tensor([mapping[number] for number in range(width)]))


def output_names(model: LoadedModel) -> tuple[str, ...]:
    """Return the names of the outputs: those of the weights, else ImageNet's synsets, else none."""
    if model.classes:
        return model.classes
    subset = infer_imagenet_subset(model.model)
    return tuple(ImageNetInfo(subset).label_names()) if subset else ()


def count_outputs(model: LoadedModel) -> int:
    """Return the number of classes of the model."""
    return int(getattr(model.model, "num_classes", 0))


def _read_json(file: Path) -> dict[int, int]:
    try:
        content: Any = read_json(file)
    except FileNotFoundError as error:
        raise UsageError(f"no such file: {file}", option="mapping") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({reason_of(error)})", option="mapping") from error
    expected = f'{file} is not an object from output to class such as {{"0": -1, "1": 4}}'
    if not isinstance(content, dict) or not content:
        raise UsageError(expected, option="mapping")
    try:
        return {int(key): _check_class(value) for key, value in content.items()}
    except ValueError as error:
        raise UsageError(f"{expected}: {error}", option="mapping") from error


def _check_class(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < NO_CLASS:
        raise ValueError(f"{value!r} is no class")
    return value
