"""The k-NN accuracy of an encoder during its pre-training.

DINO's weighted vote (`gtacli.measures.neighbors`) with k = 20, on the features that enter the
network's head. On few images, because it is measured often; `gta probe knn` uses all of them.
"""

from __future__ import annotations

import logging
from itertools import islice
from math import ceil
from typing import Any, cast

import torch
from torch import Tensor

from gtacli.data.augment.transforms import EvalTransform
from gtacli.data.base import ImageDataset, Record
from gtacli.data.loader import make_loader
from gtacli.data.sampling import hold_out, sample_records
from gtacli.data.unlabeled import has_labels
from gtacli.measures.neighbors import evaluate_knn, find_neighbors
from gtacli.models.windows import run_in
from gtacli.pretraining.prepare import PretrainJob
from gtacli.runtime.devices import choose_workers
from gtacli.training.loop import stand_in

log = logging.getLogger(__name__)
KEYS, QUERIES, NEIGHBORS = 5000, 1000, 20


class OnlineKnn:
    """A measurement of the encoder in its current state.

    About KEYS training images are the neighbors, and about QUERIES validation images are
    classified, equally many of each class. Without a validation split a fifth of the training
    images are classified: the encoder has been trained on them, but not on their labels.

    Args:
        job: the run.
        dataset: its images.

    Attributes:
        queries: the classified images; none if the data has no labels.
    """

    def __init__(self, job: PretrainJob, dataset: ImageDataset) -> None:
        self.job, self._classes = job, len(dataset.classes)
        self.keys, self.queries = _select_images(dataset, job.config.seed)
        if self.queries and not dataset["val"] and job.config.knn_every != 0:
            log.info(
                "no validation split: the 20-nn accuracy is that of %d images that the encoder is "
                "trained on (without their labels); other images may have a lower one",
                len(self.queries),
            )

    def __call__(self, max_batches: int | None = None) -> float | None:
        """Return the accuracy (fraction) on the queries of all processes; None without any.

        Args:
            max_batches: of keys and of queries each, for a dry run.
        """
        if not self.queries or not self.keys:
            return None
        keys, key_labels = self._features(self.keys, max_batches)
        queries, labels = self._features(self.queries, max_batches)
        if not len(keys) or not len(queries):
            return None
        neighbors = find_neighbors(queries, keys, NEIGHBORS)
        hits = evaluate_knn(neighbors, key_labels, labels, self._classes, [NEIGHBORS])[NEIGHBORS]
        return float(hits.top1.double().mean())

    @torch.no_grad()
    def _features(
        self, records: tuple[Record, ...], max_batches: int | None
    ) -> tuple[Tensor, Tensor]:
        """Return features (n, C) and labels (n,) on the CPU.

        Each process computes those of its own images; all get those of all images.
        """
        job = self.job
        encoder, compute, processes = job.encoder, job.compute, job.processes
        transform = EvalTransform(encoder.image_size, encoder.crop_pct, encoder.interpolation)
        store = job.stores.get(records, transform.load_size)
        view, network = encoder.view(compute.device), cast(Any, encoder.model)
        loader = make_loader(
            store,
            transform,
            2 * job.config.batch_size,
            train=False,
            workers=choose_workers(job.config.workers, compute.device, store.cached),
            shard=(processes.rank, processes.size),
        )

        def pool(images: Tensor) -> Tensor:
            features: Tensor = network.forward_head(
                network.forward_features(images), pre_logits=True
            )
            return features

        features, labels = [torch.empty(0, network.num_features)], [torch.empty(0).long()]
        for batch in islice(loader, max_batches):
            # Also without images: processes that share the weights run the network together.
            images = batch.images if len(batch.images) else stand_in(batch).images
            with compute.autocast():
                pooled = run_in(job.model, pool, view(images.to(compute.device)))
            features.append(pooled.float().cpu()[: len(batch.images)])
            labels.append(batch.labels)
        parts = processes.gather((torch.cat(features), torch.cat(labels)))
        return torch.cat([f for f, _ in parts]), torch.cat([n for _, n in parts])


def _select_images(
    dataset: ImageDataset, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    """Return keys and queries; none without labels."""
    if not has_labels(dataset):
        return (), ()
    keys, queries = dataset["train"], dataset["val"]
    if not queries:
        keys, queries = hold_out(keys, seed)
    classes = len(dataset.classes)
    few = [
        sample_records(part, shots=ceil(most / classes), seed=seed) if len(part) > most else part
        for part, most in ((keys, KEYS), (queries, QUERIES))
    ]
    return few[0], few[1]
