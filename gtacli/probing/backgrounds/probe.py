"""`gta probe background`: predictions of models for images with exchanged backgrounds.

Threads read and draw ahead of the models; of each image only their input waits in memory, and of
their output the class and, for the two variants that are compared, the features are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtacli.inference.predict import has_classifier
from gtacli.inference.stream import Failure, Stop, map_ahead, never
from gtacli.inference.views import ModelViews
from gtacli.models.loading import LoadedModel
from gtacli.probing.backgrounds.metrics import PAIR, VariantPredictions
from gtacli.probing.backgrounds.sources import VariantImage, VariantSource
from gtacli.probing.class_map import ClassMap
from gtacli.runtime.devices import Compute


class _VariantInput(NamedTuple):
    image: VariantImage  # without its pixels
    views: tuple[Tensor, ...]  # uint8, one for each distinct preprocessing of the models


class BackgroundProbe:
    """Runs several models on the same variants.

    Args:
        models: each with its own input size and preprocessing.
        maps: of each model's outputs; None: no accuracy of that model.

    Attributes:
        predictions: of each model.
        skipped: number of images without an object, or without a background beside it.
    """

    def __init__(
        self, models: Sequence[LoadedModel], maps: Sequence[ClassMap | None], compute: Compute
    ) -> None:
        self.models, self.maps, self.compute = models, maps, compute
        self.predictions = [VariantPredictions() for _ in models]
        self.skipped = 0
        self._views = ModelViews(models, compute)

    def run(
        self,
        source: VariantSource,
        batch_size: int = 32,
        threads: int | None = None,
        most: int | None = None,
        stop: Stop = never,
    ) -> Iterator[int | Failure]:
        """Run the models on all variants of each image.

        Args:
            batch_size: variants at a time.
            threads: for reading and drawing; 0: none; default: one per core.
            most: images of the source.
            stop: checked after each batch.

        Yields: failures, and for each batch its number of variants.
        """

        def read(index: int) -> list[_VariantInput]:
            return [
                _VariantInput(image._replace(pixels=torch.empty(0)), self._views.make(image.pixels))
                for image in source.draw(index)
            ]

        def name(index: int) -> str:
            return source.images[index].path

        numbers = range(len(source.images))[:most]
        batch: list[_VariantInput] = []
        for variants in map_ahead(numbers, read, batch_size, threads, name):
            if isinstance(variants, Failure):
                yield variants
                continue
            self.skipped += not variants
            for variant in variants:
                batch.append(variant)
                if len(batch) == batch_size:
                    self._run_batch(batch)
                    yield batch_size
                    if stop():
                        return
                    batch = []
        if batch:
            self._run_batch(batch)
            yield len(batch)

    @torch.no_grad()
    def _run_batch(self, batch: Sequence[_VariantInput]) -> None:
        images = [item.image for item in batch]
        for m, model in enumerate(self.models):
            inputs = self._views.batch(m, [item.views for item in batch])
            network: Any = model.model
            with self.compute.autocast():
                tokens = network.forward_features(inputs)
                features = network.forward_head(tokens, pre_logits=True).float().cpu()
                logits = network.forward_head(tokens).float() if has_classifier(model) else None
            _add(self.predictions[m], images, features, logits, self.maps[m])


def _add(
    predictions: VariantPredictions,
    images: Sequence[VariantImage],
    features: Tensor,
    logits: Tensor | None,
    class_map: ClassMap | None,
) -> None:
    """Store a model's output for one batch: (B, C) features, (B, K) logits of a classifier."""
    top_class = None if logits is None else logits.argmax(-1).tolist()
    labels = None if class_map is None or logits is None else class_map(logits).tolist()
    for i, (variant, key, label, _) in enumerate(images):
        if labels is not None:
            predictions.correct.setdefault(variant, {})[key] = labels[i] == label
        if variant in PAIR:
            predictions.features.setdefault(variant, {})[key] = features[i].clone()
            if top_class is not None:
                predictions.top_class.setdefault(variant, {})[key] = top_class[i]
