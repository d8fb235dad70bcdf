"""`gta probe background`: shows networks images whose backgrounds were exchanged.

Threads read and draw ahead of the networks; of an image no more than their input waits in memory,
and of what they answer the class and, where two variants are compared, the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gtacli.images.decode import ImageError
from gtacli.inference.predict import has_classifier
from gtacli.inference.stream import Failure
from gtacli.inference.views import ModelViews
from gtacli.models.loading import LoadedModel
from gtacli.probing.backgrounds.metrics import PAIR, Answers
from gtacli.probing.backgrounds.sources import Drawn, VariantSource
from gtacli.probing.class_map import ClassMap
from gtacli.runtime.batching import chunks
from gtacli.runtime.devices import Compute
from gtacli.runtime.prefetch import ahead


class _Item(NamedTuple):
    drawn: Drawn  # its pixels left out
    views: tuple[Tensor, ...]  # uint8, one a distinct way in which the models see images


class BackgroundProbe:
    """Shows several models the same variants.

    Args:
        models: each keeps its own input size and preprocessing.
        maps: of each model what its outputs mean; None: no accuracy of it.

    Attributes:
        answers: of each model.
        left_out: images without an object, or without a background beside it.
    """

    def __init__(
        self, models: Sequence[LoadedModel], maps: Sequence[ClassMap | None], compute: Compute
    ) -> None:
        self.models, self.maps, self.compute = models, maps, compute
        self.answers = [Answers() for _ in models]
        self.left_out = 0
        self._views = ModelViews(models, compute)
        self._failed: list[Failure] = []

    def see(
        self,
        source: VariantSource,
        batch_size: int = 32,
        threads: int | None = None,
        most: int | None = None,
    ) -> Iterator[Failure | int]:
        """Shows the models all variants of each image.

        Args:
            threads: for reading and drawing; 0: none; default: by the machine.
            most: images of the source.

        Yields: an image that cannot be done, or how many pictures have just been seen.
        """

        def read(index: int) -> list[_Item] | Failure:
            try:
                return [self._item(drawn) for drawn in source.draw(index)]
            except ImageError as error:
                return Failure(source.images[index].path, str(error))

        count = len(source.images) if most is None else min(most, len(source.images))
        items = self._flat(ahead(read, range(count), batch_size, threads))
        for batch in chunks(items, batch_size):
            self._look(batch)
            yield from self._told()
            yield len(batch)
        yield from self._told()

    def _told(self) -> list[Failure]:
        failed, self._failed = self._failed, []
        return failed

    def _item(self, drawn: Drawn) -> _Item:
        return _Item(drawn._replace(pixels=torch.empty(0)), self._views.make(drawn.pixels))

    @torch.no_grad()
    def _look(self, batch: Sequence[_Item]) -> None:
        for m, model in enumerate(self.models):
            inputs = self._views.batch(m, [item.views for item in batch])
            network: Any = model.model
            with self.compute.autocast():
                tokens = network.forward_features(inputs)
                features = network.forward_head(tokens, pre_logits=True).float().cpu()
                logits = network.forward_head(tokens).float() if has_classifier(model) else None
            _note(self.answers[m], [item.drawn for item in batch], features, logits, self.maps[m])

    def _flat(self, groups: Iterator[list[_Item] | Failure]) -> Iterator[_Item]:
        for group in groups:
            if isinstance(group, Failure):
                self._failed.append(group)
            elif group:
                yield from group
            else:
                self.left_out += 1


def _note(
    answers: Answers,
    batch: Sequence[Drawn],
    features: Tensor,
    logits: Tensor | None,
    of: ClassMap | None,
) -> None:
    """Adds what a network said of one batch: (B, C) features, (B, K) logits of a classifier."""
    likeliest = None if logits is None else logits.argmax(-1).tolist()
    meant = None if of is None or logits is None else of(logits).tolist()
    for i, (variant, key, label, _) in enumerate(batch):
        if meant is not None:
            answers.right.setdefault(variant, {})[key] = meant[i] == label
        if variant in PAIR:
            answers.features.setdefault(variant, {})[key] = features[i].clone()
            if likeliest is not None:
                answers.likeliest.setdefault(variant, {})[key] = likeliest[i]
