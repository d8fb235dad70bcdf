"""Classes of images by a network, as a stream: decoding runs ahead of the model in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import Tensor

from gtacli.data.augment.transforms import EvalTransform
from gtacli.errors import GtaError
from gtacli.images.decode import load
from gtacli.models.loading import LoadedModel
from gtacli.runtime.batching import chunks
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead


def predict(
    model: LoadedModel, paths: Iterable[str], compute: Compute, top: int = 5, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """The likeliest classes of each image, in the order of `paths`, in constant memory.

    Args:
        model: with a classifier; moved to the device.
        top: how many classes to name.

    Yields:
        `{"image", "top": [{"class", "probability"}, ...]}`, or `{"image", "error"}` for an image
        that cannot be read.

    Raises GtaError for a model without a classifier.
    """
    if not has_classifier(model):
        raise GtaError(f"--model: {model.spec} has no classifier; name a run of gta finetune")
    names = class_names(model)
    network = model.model.to(compute.device).eval()
    as_input = model.view(compute.device)
    view = EvalTransform(model.image_size, model.crop_pct, model.interpolation)

    def read(path: str) -> tuple[str, Tensor | str]:
        try:
            pixels = load(Path(path), view.load_size, model.interpolation)
            return path, view(torch.from_numpy(pixels).permute(2, 0, 1))
        except GtaError as error:
            return path, str(error)

    images = ahead(read, paths, 2 * batch_size)
    for batch in chunks(images, batch_size):
        good = [image for _, image in batch if isinstance(image, Tensor)]
        ranked: Iterator[tuple[Tensor, Tensor]] = iter(())
        if good:
            with torch.inference_mode(), compute.autocast():
                logits = network(as_input(torch.stack(good).to(compute.device)))
                best = logits.float().softmax(-1).topk(min(top, logits.shape[-1]))
            ranked = zip(best.values.cpu(), best.indices.cpu(), strict=True)
        for path, image in batch:
            if isinstance(image, str):
                yield {"image": path, "error": image}
                continue
            values, indices = next(ranked)
            found = zip(values.tolist(), indices.tolist(), strict=True)
            yield {"image": path, "top": [{"class": names(i), "probability": p} for p, i in found]}


def has_classifier(model: LoadedModel) -> bool:
    """Whether the model's weights brought a classifier."""
    untrained = model.report.new_head or not model.report.loaded
    return not untrained and bool(getattr(model.model, "num_classes", 0))


def class_names(model: LoadedModel) -> Callable[[int], str]:
    """The name of a class by its index: the weights' own, ImageNet's, or the number."""
    if model.classes:
        return model.classes.__getitem__
    subset = infer_imagenet_subset(model.model)
    if subset:
        info = ImageNetInfo(subset)
        return lambda index: str(info.index_to_description(index))
    return str
