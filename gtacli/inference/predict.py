"""Classes of images by a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from gtacli.data.augment.transforms import EvalTransform
from gtacli.errors import GtaError
from gtacli.images.decode import load
from gtacli.inference.predictions import THRESHOLD, Tta, predictions
from gtacli.inference.results import Prediction
from gtacli.inference.stream import Failure, Stop, never, stream
from gtacli.models.loading import LoadedModel
from gtacli.runtime.devices import Compute


def predict(
    model: LoadedModel,
    paths: Iterable[str],
    compute: Compute,
    top: int = 5,
    batch_size: int = 32,
    stop: Stop = never,
    temperature: float = 1.0,
    sure_from: float | None = None,
    tta: Tta = "none",
    threshold: float = THRESHOLD,
) -> Iterator[Prediction | Failure]:
    """Yield the most probable classes of each image, in the order of `paths`.

    Args:
        model: with a classifier; moved to the device.
        top: classes per image.
        stop: see `stream`.
        temperature: logits are divided by it.
        sure_from: probability from which on a prediction is sure; None: that is not said.
        tta: views of an image whose probabilities are averaged: the image and its mirror image
            (flip), or its center and four corners (crops).
        threshold: probability above which a label is predicted, by a model for any number.

    Raises GtaError for a model without a classifier.
    """
    if not has_classifier(model):
        raise GtaError(
            f"{model.spec} has no classifier; name a run of gta finetune", option="model"
        )
    names = class_names(model)
    network = model.model.to(compute.device).eval()
    as_input = model.view(compute.device)
    view = EvalTransform(model.image_size, model.crop_pct, model.interpolation)

    def read(path: str) -> tuple[str, Tensor]:
        pixels = load(Path(path), view.load_size, model.interpolation)
        return path, make_views(torch.from_numpy(pixels).permute(2, 0, 1), view, tta)

    def run(batch: list[tuple[str, Tensor]]) -> list[Prediction]:
        images = torch.stack([image for _, image in batch])
        with torch.inference_mode(), compute.autocast():
            logits = network(as_input(images.flatten(0, 1).to(compute.device)))
        views = model.probabilities(logits.float() / temperature)
        found = views.unflatten(0, images.shape[:2]).mean(1).cpu().numpy()
        above = threshold if model.multi_label else None
        return predictions([path for path, _ in batch], found, names, top, sure_from, above)

    yield from stream(paths, read, run, batch_size, stop=stop)


def make_views(pixels: Tensor, transform: EvalTransform, tta: Tta) -> Tensor:
    """Return the views of an image, uint8 (views, 3, h, w); the first is the evaluation view.

    Args:
        pixels: uint8 (3, H, W), loaded at the transform's `load_size`.
    """
    center = transform(pixels)
    if tta == "flip":
        return torch.stack([center, center.flip(-1)])
    if tta == "crops":
        corners = F.five_crop(transform.resize(pixels), [*transform.image_size])[:4]
        return torch.stack([center, *corners])
    return center[None]


def has_classifier(model: LoadedModel) -> bool:
    """Return whether the model's weights came with a classifier."""
    untrained = model.report.new_head or not model.report.loaded
    return not untrained and bool(getattr(model.model, "num_classes", 0))


def class_names(model: LoadedModel) -> Callable[[int], str]:
    """Return the function from a class number to its name.

    The names are those stored with the weights, else ImageNet's, else the numbers.
    """
    if model.classes:
        return model.classes.__getitem__
    subset = infer_imagenet_subset(model.model)
    if subset:
        info = ImageNetInfo(subset)
        return lambda index: str(info.index_to_description(index))
    return str
