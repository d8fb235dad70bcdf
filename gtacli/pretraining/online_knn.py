"""A look at the representation while it is learnt: held-out images by their nearest neighbours.

DINO's weighted vote (`gtacli.measures.neighbors`), k = 20, on the features that the network's own
head would get. Small, since it is to be seen often; `gta probe` measures in earnest.
"""

from __future__ import annotations

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
from gtacli.pretraining.prepare import PretrainJob
from gtacli.runtime.devices import choose_workers

KEYS, QUERIES, NEIGHBOURS = 5000, 1000, 20


class OnlineKnn:
    """Measures an encoder as it stands.

    Args:
        job: whose images: of the training part about KEYS are the neighbours, of the validation
            part about QUERIES are classified, as many of each class. Without a validation part a
            fifth of the training images is: they were learnt from, but not their labels.

    Attributes:
        queries: what is classified; none where the data has no labels.
    """

    def __init__(self, job: PretrainJob) -> None:
        self.job = job
        self.keys, self.queries = _parts(job.dataset, job.config.seed)

    def __call__(self, batches: int | None = None) -> float | None:
        """The share of the queries that is named rightly, over all processes.

        Args:
            batches: of each part at most; default all.
        """
        if not self.queries or not self.keys:
            return None
        keys, key_labels = self._features(self.keys, batches)
        queries, labels = self._features(self.queries, batches)
        if not len(keys) or not len(queries):
            return None
        found = find_neighbors(queries, keys, NEIGHBOURS)
        classes = len(self.job.dataset.classes)
        right = evaluate_knn(found, key_labels, labels, classes, [NEIGHBOURS])[NEIGHBOURS]
        return float(right.top1.double().mean())

    @torch.no_grad()
    def _features(self, records: tuple[Record, ...], batches: int | None) -> tuple[Tensor, Tensor]:
        """(n, C) and labels (n,), on the CPU; each process computes its share, all get all."""
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
        features, labels = [torch.empty(0, network.num_features)], [torch.empty(0).long()]
        for number, batch in enumerate(loader):
            if number == batches:
                break
            if not len(batch.images):
                continue
            with compute.autocast():
                tokens = network.forward_features(view(batch.images.to(compute.device)))
                features.append(network.forward_head(tokens, pre_logits=True).float().cpu())
            labels.append(batch.labels)
        parts = processes.gather((torch.cat(features), torch.cat(labels)))
        return torch.cat([f for f, _ in parts]), torch.cat([n for _, n in parts])


def _parts(dataset: ImageDataset, seed: int) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
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
