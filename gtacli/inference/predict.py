"""Classes of images by a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from gtacli.data.augment.transforms import EvalTransform
from gtacli.errors import GtaError
from gtacli.images.decode import load
from gtacli.inference.results import ClassProbability, Prediction
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
) -> Iterator[Prediction | Failure]:
    """Yield the most probable classes of each image, in the order of `paths`.

    Args:
        model: with a classifier; moved to the device.
        top: classes per image.
        stop: see `stream`.

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
        return path, view(torch.from_numpy(pixels).permute(2, 0, 1))

    def run(batch: list[tuple[str, Tensor]]) -> list[Prediction]:
        images = torch.stack([image for _, image in batch])
        with torch.inference_mode(), compute.autocast():
            logits = network(as_input(images.to(compute.device)))
            best = logits.float().softmax(-1).topk(min(top, logits.shape[-1]))
        ranked = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [
            {"image": path, "top": [ranked_class(i, p) for p, i in zip(*row, strict=True)]}
            for (path, _), row in zip(batch, ranked, strict=True)
        ]

    def ranked_class(index: int, probability: float) -> ClassProbability:
        return {"class": names(index), "probability": probability}

    yield from stream(paths, read, run, batch_size, stop=stop)


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
