"""Cluster a ViT's attention heads by the similarity of patches (Object-DINO, arXiv 2603.26127).

    S_x = softmax(x x^T / sqrt(D)),   x the queries, keys or values of one head, patches alone.

Heads of all blocks are clustered by k-means on their three maps, each entry standardized over the
heads, on drawn scenes. The maps of a scene have 3 N^2 entries a head; k-means depends on the heads'
inner products alone, so only these are added up, and the heads get coordinates with the same ones.

Shapes: B images, H heads of one block, N patches, D width of a head, L blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

from gtacli.models import timm_blocks

Head = tuple[int, int]
"""Block and head."""

RESTARTS = 20  # of k-means, of which the tightest one counts
_ROWS = 64  # of each map in memory


def cluster_heads(model: nn.Module, batches: Iterable[Tensor], clusters: int) -> list[list[Head]]:
    """Return the clusters of heads, from normalized images (B, 3, h, w)."""
    gram: Any = 0
    for images in batches:
        gram = gram + _inner_products(model, images)
    values, vectors = np.linalg.eigh(gram)
    places = vectors * np.sqrt(np.maximum(values, 0))
    labels = _kmeans(places, min(clusters, len(places)))
    heads = [(i, h) for i, block in enumerate(cast(Any, model).blocks) for h in _heads_of(block)]
    groups = [[h for h, own in zip(heads, labels, strict=True) if own == k] for k in {*labels}]
    return sorted(groups)


def cluster_of(clusters: Sequence[Sequence[Head]], block: int) -> list[Head]:
    """Return the cluster with most heads of a block; of equal ones the smaller."""
    return [*max(clusters, key=lambda heads: (sum(i == block for i, _ in heads), -len(heads)))]


def _heads_of(block: Any) -> range:
    return range(int(block.attn.num_heads))


@torch.no_grad()
def _inner_products(model: nn.Module, images: Tensor) -> NDArray[np.float64]:
    """Return the heads' inner products (L H, L H), summed over images."""
    parts = [torch.stack(qkv) for qkv in _patch_qkv(model, images)]  # (3, B, H, N, D)
    count = sum(part.shape[2] for part in parts)
    total = images.new_zeros(count, count, dtype=torch.float64)
    patches = parts[0].shape[-2]
    for image in range(len(images)):
        for start in range(0, patches, _ROWS):
            rows = [_map_rows(part[:, image].float(), start) for part in parts]
            entries = torch.cat(rows, dim=1).transpose(0, 1).flatten(1).double()
            entries = entries - entries.mean(0)
            entries = entries / entries.std(0, correction=0).clamp_min(1e-12)
            total += entries @ entries.T / patches**2
    return cast("NDArray[np.float64]", total.cpu().numpy())


def _map_rows(x_3HND: Tensor, start: int) -> Tensor:
    """Return rows of the similarity maps: (3, H, rows, N)."""
    some = x_3HND[:, :, start : start + _ROWS] * x_3HND.shape[-1] ** -0.5
    return torch.matmul(some, x_3HND.transpose(-1, -2)).softmax(-1)


def _patch_qkv(model: nn.Module, images: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield q, k and v (B, H, N, D) of each block, patches alone."""
    m = cast(Any, model)
    x, ropes = timm_blocks.embed(model, images)
    for i, block in enumerate(m.blocks):
        x, tensors = timm_blocks.tapped_block(
            block, x, ropes[i] if ropes is not None else None, "all"
        )
        q, k, v = (cast(Tensor, t)[:, :, m.num_prefix_tokens :] for t in tensors[:3])
        yield q, k, v


def _kmeans(places: NDArray[np.float64], clusters: int) -> NDArray[np.int64]:
    best, labels = np.inf, np.zeros(len(places), np.int64)
    for seed in range(RESTARTS):
        centers, own = kmeans2(places, clusters, minit="++", rng=seed, iter=100, missing="warn")
        spread = float(((places - centers[own]) ** 2).sum())
        if spread < best:
            best, labels = spread, own.astype(np.int64)
    return labels
