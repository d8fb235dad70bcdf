"""Exact nearest neighbors by cosine, and DINO's weighted vote among them.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (arXiv 2104.14294),
`eval_knn.py`: similarities of L2-normalized features, the k nearest vote with weight exp(cos / T),
k = 10, 20, 100, 200, T = 0.07. Three deviations: the chunk size does not depend on the number of
test images (there a hundredth of them, which is 0 for fewer than a hundred), one search serves all
k, and a class without a vote is never predicted (there the order of the sort decides whether it is
among the five best).

The similarities are one matrix product. Selecting the k best of all columns would double the time,
so columns are grouped: the k best of a row lie in the k groups with the largest maxima.

Shapes: Q queries, T keys, C width, k neighbors, G groups of s columns.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from math import ceil, isqrt
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.errors import RunError
from gtacli.runtime.threads import each, one_thread

K = (10, 20, 100, 200)
TEMPERATURE = 0.07
_INDEX = (1 << 32) - 1  # the lower half of a rank


class Neighbors(NamedTuple):
    """The nearest keys of each query.

    Attributes:
        similarities: fp32 (Q, k) cosines, descending.
        indices: int64 (Q, k) rows of the keys; among equal cosines the lower index comes first.
    """

    similarities: Tensor
    indices: Tensor


class Hits(NamedTuple):
    """Correctness of predictions.

    Attributes:
        top1, top5: bool (Q,), whether a query's class is predicted first, or among the first five.
    """

    top1: Tensor
    top5: Tensor


@torch.no_grad()
def find_neighbors(
    queries: Tensor,
    keys: Tensor,
    k: int,
    chunk: int | None = None,
    device: torch.device | None = None,
) -> Neighbors:
    """Find the k nearest keys of each query by cosine, exactly, in fp32.

    Args:
        queries: (Q, C); need not be normalized. Queries and keys may be mapped from a file.
        keys: (T, C).
        k: reduced to T if there are fewer keys.
        chunk: similarities in memory at a time, on a CPU for each thread; default: 64 MB of them,
            on a GPU 4 GB.
        device: where to compute, and where the result lies; default: that of the queries.

    Raises RunError for features that are not finite.
    """
    device = device or queries.device
    k = min(k, len(keys))
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    chunk = chunk or (1 << 24 if device.type == "cpu" else 1 << 30)
    # Wider than high: selection is faster in long rows.
    wide = max(1, k, min(len(keys), 16 * isqrt(chunk)))
    high = max(1, min(-(-len(queries) // threads), chunk // wide))
    pieces = [slice(first, first + high) for first in range(0, max(1, len(queries)), high)]
    best = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
    # On a CPU each thread has its own queries: with intra-operator threads every operator would
    # wait for the slowest thread, on a busy machine for most of the time.
    with one_thread(threads > 1):
        for start in range(0, len(keys), wide):
            block = _KeyBlock(_normalize(keys[start : start + wide], device), start, k)
            work = partial(block.merge, queries, best)
            best = torch.cat(each(work, pieces, threads))
    return Neighbors(_similarity(best), _INDEX - (best & _INDEX))


def count_votes(
    similarities: Tensor,
    labels: Tensor,
    classes: int,
    ks: Sequence[int] = K,
    temperature: float = TEMPERATURE,
) -> dict[int, Tensor]:
    """Compute each class's fraction of the votes of a query's k nearest, for every k at once.

    Args:
        similarities: (Q, n), descending; for a k above n all vote.
        labels: int64 (Q, n), classes of these neighbors.

    Returns: by k, float64 (Q, classes), rows of sum 1 (0 if there are no neighbors).
    """
    n = similarities.shape[1]
    cosines = similarities.to(torch.float64)
    # Relative to the nearest: exp(1 / T) would overflow for a small T.
    weights = ((cosines - cosines[:, :1]) / temperature).exp()
    scores = weights.new_zeros(len(weights), classes)
    counted, voted = 0, {}
    for k in sorted(set(ks)):
        new = slice(counted, min(k, n))
        scores = scores.scatter_add(1, labels[:, new], weights[:, new])
        counted = max(counted, min(k, n))
        voted[k] = scores / weights[:, :counted].sum(1, keepdim=True) if n else scores
    return {k: voted[k] for k in ks}


def count_hits(scores: Tensor, labels: Tensor) -> Hits:
    """Return whether each query's class has the highest score, and whether it is in the top five.

    Args:
        scores: (Q, classes), at least 0; a class of score 0 is never predicted. Among equal scores
            the lower class comes first.
        labels: int64 (Q,) of the queries; possibly a class that no neighbor has.
    """
    own = scores.gather(1, labels[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    before = ((scores > own) | ((scores == own) & lower)).sum(1)
    guessed = own.squeeze(1) > 0
    return Hits(guessed & (before < 1), guessed & (before < 5))


def evaluate_knn(
    neighbors: Neighbors,
    key_labels: Tensor,
    labels: Tensor,
    classes: int,
    ks: Sequence[int] = K,
    temperature: float = TEMPERATURE,
) -> dict[int, Hits]:
    """Apply `count_votes` and `count_hits` to any number of queries, in bounded memory.

    Args:
        key_labels: int64 (T,).
        labels: int64 (Q,).

    Returns: by k, on the neighbors' device.
    """
    cosines, indices = neighbors
    key_labels, labels = key_labels.to(indices.device), labels.to(indices.device)
    step = max(1, (1 << 22) // max(1, classes))
    parts: dict[int, list[Hits]] = {k: [] for k in ks}
    for rows in torch.arange(len(labels), device=labels.device).split(step):
        scores = count_votes(cosines[rows], key_labels[indices[rows]], classes, ks, temperature)
        for k in ks:
            parts[k].append(count_hits(scores[k], labels[rows]))
    return {k: Hits(*map(torch.cat, zip(*found, strict=True))) for k, found in parts.items()}


def _normalize(features: Tensor, device: torch.device) -> Tensor:
    rows = F.normalize(features.to(device).float(), dim=1)
    if not rows.isfinite().all():
        raise RunError("some features are not finite (NaN or infinite)")
    return rows


class _KeyBlock:
    """A block of keys, (T, C) normalized, the first of which has the index `start`.

    Its columns are G groups of s, with s chosen such that there are about as many group maxima to
    select from as members of the selected groups.
    """

    def __init__(self, keys: Tensor, start: int, k: int) -> None:
        self.keys, self.start, self.k = keys, start, k
        self.size = max(1, isqrt(len(keys) // max(1, k)))
        self.groups = ceil(len(keys) / self.size)
        self.columns = torch.arange(start, start + self.groups * self.size, device=keys.device)
        self.memory = _Memory(keys.device)

    @torch.no_grad()
    def merge(self, queries: Tensor, best: Tensor, piece: slice) -> Tensor:
        """Return the ranks of the k best among these keys and `best`, for a slice of queries."""
        rows = _normalize(queries[piece], self.keys.device)
        ranks = self._best(self._similarities(rows))
        return _largest(torch.cat([best[piece], ranks], 1), self.k)

    def _similarities(self, rows: Tensor) -> Tensor:
        """Compute (rows, G s) similarities; columns beyond the keys are -inf."""
        out = self.memory.of(len(rows), self.groups * self.size)
        out[:, len(self.keys) :] = -torch.inf
        with torch.autocast(rows.device.type, enabled=False):
            torch.mm(rows, self.keys.T, out=out[:, : len(self.keys)])
        return out

    def _best(self, similarities: Tensor) -> Tensor:
        """Return the ranks of the k best of each row, or more."""
        k = self.k
        if self.groups <= k:
            return _largest(_rank(similarities, self.columns), k)
        # A group is every G-th column, so that maxima read memory contiguously.
        members = similarities.unflatten(1, (-1, self.groups))
        maxima = members.amax(1).topk(k + 1)
        chosen = maxima.indices[:, None, :k]
        near = members.gather(2, chosen.expand(-1, self.size, -1)).flatten(1)
        numbers = self.columns[: self.size * self.groups : self.groups]
        ranks = _largest(_rank(near, (chosen + numbers[:, None]).flatten(1)), k)
        # Equal to the maximum of a group that was not selected: it may hold a lower index.
        tied = maxima.values[:, k] >= _similarity(ranks[:, -1])
        if tied.any():
            ranks[tied] = _largest(_rank(similarities[tied], self.columns), k)
        return ranks


class _Memory(threading.local):
    """Memory that each thread reuses for one slice of queries after another."""

    def __init__(self, device: torch.device) -> None:
        self._flat = torch.empty(0, device=device)

    def of(self, height: int, width: int) -> Tensor:
        if len(self._flat) < height * width:
            self._flat = self._flat.new_empty(height * width)
        return self._flat[: height * width].view(height, width)


def _largest(ranks: Tensor, k: int) -> Tensor:
    return ranks.topk(min(k, ranks.shape[1])).values


def _rank(similarities: Tensor, indices: Tensor) -> Tensor:
    """Encode similarities and indices as int64: larger is nearer, or equal with a lower index."""
    bits = (similarities + 0.0).view(torch.int32)  # + 0.0 turns -0.0 into 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # the bits of negative floats sort in reverse
    return (ordered.long() << 32) | (_INDEX - indices)


def _similarity(ranks: Tensor) -> Tensor:
    ordered = (ranks >> 32).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
