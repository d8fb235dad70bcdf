"""Exact nearest neighbours by cosine, and DINO's weighted vote among them.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (arXiv 2104.14294),
`eval_knn.py`: similarities of L2-normalised features, the k nearest vote with weight exp(cos / T),
k = 10, 20, 100, 200, T = 0.07. Three things are done otherwise: chunks have a size of their own (a
hundredth of the test images is none where there are fewer than a hundred), each k is read off one
search, and a class that nobody voted for is no guess (there the order of the sort decides whether
it is among the five best).

Similarities cost what their matrix product costs. Selection would double that, so it is made on
the maxima of groups: the k best of a row lie in the k groups with the largest maxima.

Shapes: Q queries, T keys, C width, k neighbours, G groups of s columns.
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


class Neighbours(NamedTuple):
    """Attributes:
    similarities: fp32 (Q, k) cosines, descending.
    indices: int64 (Q, k) rows of the keys; of equal ones the lower comes first.
    """

    similarities: Tensor
    indices: Tensor


class Hits(NamedTuple):
    """Attributes:
    top1, top5: bool (Q,), whether a query's own class is the first guess, or among the first five.
    """

    top1: Tensor
    top5: Tensor


@torch.no_grad()
def nearest(
    queries: Tensor,
    keys: Tensor,
    k: int,
    chunk: int | None = None,
    device: torch.device | None = None,
) -> Neighbours:
    """The k nearest keys of each query by cosine, exactly, in fp32.

    Args:
        queries: (Q, C), normalised here; either may be mapped from a file.
        keys: (T, C).
        k: T where there are fewer keys.
        chunk: similarities in memory at a time, on a CPU for each thread; default: 64 MB of them,
            on a GPU 4 GB.
        device: where to compute; default: that of the queries. The result is there.

    Raises RunError for features that are not finite.
    """
    device = device or queries.device
    k = min(k, len(keys))
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    chunk = chunk or (1 << 24 if device.type == "cpu" else 1 << 30)
    # Wider than high: selection costs less in long rows.
    wide = max(1, k, min(len(keys), 16 * isqrt(chunk)))
    high = max(1, min(-(-len(queries) // threads), chunk // wide))
    pieces = [slice(first, first + high) for first in range(0, max(1, len(queries)), high)]
    best = torch.empty((len(queries), 0), dtype=torch.int64, device=device)
    # On a CPU each thread has queries of its own: split among threads, every operator would wait
    # for the slowest, on a busy machine for longer than it works.
    with one_thread(threads > 1):
        for start in range(0, len(keys), wide):
            part = _Part(_normalised(keys[start : start + wide], device), start, k)
            work = partial(part.merged, queries, best)
            best = torch.cat(each(work, pieces, threads))
    return Neighbours(_similarity(best), _INDEX - (best & _INDEX))


def vote(
    similarities: Tensor,
    labels: Tensor,
    classes: int,
    ks: Sequence[int] = K,
    temperature: float = TEMPERATURE,
) -> dict[int, Tensor]:
    """Each class's share of the votes of a query's k nearest, for every k at once.

    Args:
        similarities: (Q, n), descending; where n is less than a k, all vote.
        labels: int64 (Q, n), classes of these neighbours.

    Returns: by k, float64 (Q, classes), rows of sum 1 (0 where there are no neighbours).
    """
    n = similarities.shape[1]
    cosines = similarities.to(torch.float64)
    # Against the nearest one: exp(1 / T) would overflow for a small T.
    weights = ((cosines - cosines[:, :1]) / temperature).exp()
    scores = weights.new_zeros(len(weights), classes)
    counted, voted = 0, {}
    for k in sorted(set(ks)):
        new = slice(counted, min(k, n))
        scores = scores.scatter_add(1, labels[:, new], weights[:, new])
        counted = max(counted, min(k, n))
        voted[k] = scores / weights[:, :counted].sum(1, keepdim=True) if n else scores
    return {k: voted[k] for k in ks}


def hits(scores: Tensor, labels: Tensor) -> Hits:
    """Whether the class with the highest score is the right one, or the right one among five.

    Args:
        scores: (Q, classes), at least 0; a class of score 0 is no guess. Of equal scores the lower
            class comes first.
        labels: int64 (Q,) of the queries; a class may be one that no neighbour has.
    """
    own = scores.gather(1, labels[:, None])
    lower = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    before = ((scores > own) | ((scores == own) & lower)).sum(1)
    guessed = own.squeeze(1) > 0
    return Hits(guessed & (before < 1), guessed & (before < 5))


def knn_hits(
    neighbours: Neighbours,
    key_labels: Tensor,
    labels: Tensor,
    classes: int,
    ks: Sequence[int] = K,
    temperature: float = TEMPERATURE,
) -> dict[int, Hits]:
    """`vote` and `hits` for any number of queries, in bounded memory.

    Args:
        key_labels: int64 (T,).
        labels: int64 (Q,).

    Returns: by k, on the neighbours' device.
    """
    cosines, indices = neighbours
    key_labels, labels = key_labels.to(indices.device), labels.to(indices.device)
    step = max(1, (1 << 22) // max(1, classes))
    parts: dict[int, list[Hits]] = {k: [] for k in ks}
    for rows in torch.arange(len(labels), device=labels.device).split(step):
        scores = vote(cosines[rows], key_labels[indices[rows]], classes, ks, temperature)
        for k in ks:
            parts[k].append(hits(scores[k], labels[rows]))
    return {k: Hits(*map(torch.cat, zip(*found, strict=True))) for k, found in parts.items()}


def _normalised(features: Tensor, device: torch.device) -> Tensor:
    rows = F.normalize(features.to(device).float(), dim=1)
    if not rows.isfinite().all():
        raise RunError("features: some are not finite (NaN or infinite), so nothing is near them")
    return rows


class _Part:
    """Some of the keys, (T, C) normalised, the first of which is number `start`.

    Their columns are G groups of s: maxima and members are equally many to choose from.
    """

    def __init__(self, keys: Tensor, start: int, k: int) -> None:
        self.keys, self.start, self.k = keys, start, k
        self.size = max(1, isqrt(len(keys) // max(1, k)))
        self.groups = ceil(len(keys) / self.size)
        self.columns = torch.arange(start, start + self.groups * self.size, device=keys.device)
        self.memory = _Memory(keys.device)

    @torch.no_grad()
    def merged(self, queries: Tensor, best: Tensor, piece: slice) -> Tensor:
        """Ranks of the k best of these keys and of `best`, for some of the queries."""
        rows = _normalised(queries[piece], self.keys.device)
        ranks = self._best(self._similarities(rows))
        return _largest(torch.cat([best[piece], ranks], 1), self.k)

    def _similarities(self, rows: Tensor) -> Tensor:
        """(rows, G s); columns beyond the keys are -inf."""
        out = self.memory.of(len(rows), self.groups * self.size)
        out[:, len(self.keys) :] = -torch.inf
        with torch.autocast(rows.device.type, enabled=False):
            torch.mm(rows, self.keys.T, out=out[:, : len(self.keys)])
        return out

    def _best(self, similarities: Tensor) -> Tensor:
        """Ranks of the k best of each row at least."""
        k = self.k
        if self.groups <= k:
            return _largest(_rank(similarities, self.columns), k)
        # A group is every G-th column, so that maxima run over memory as it lies.
        members = similarities.unflatten(1, (-1, self.groups))
        maxima = members.amax(1).topk(k + 1)
        chosen = maxima.indices[:, None, :k]
        near = members.gather(2, chosen.expand(-1, self.size, -1)).flatten(1)
        numbers = self.columns[: self.size * self.groups : self.groups]
        ranks = _largest(_rank(near, (chosen + numbers[:, None]).flatten(1)), k)
        # Equal to a group that was left out: it may hold a lower index.
        tied = maxima.values[:, k] >= _similarity(ranks[:, -1])
        if tied.any():
            ranks[tied] = _largest(_rank(similarities[tied], self.columns), k)
        return ranks


class _Memory(threading.local):
    """The same memory for one piece after another, of each thread its own."""

    def __init__(self, device: torch.device) -> None:
        self._flat = torch.empty(0, device=device)

    def of(self, height: int, width: int) -> Tensor:
        if len(self._flat) < height * width:
            self._flat = self._flat.new_empty(height * width)
        return self._flat[: height * width].view(height, width)


def _largest(ranks: Tensor, k: int) -> Tensor:
    return ranks.topk(min(k, ranks.shape[1])).values


def _rank(similarities: Tensor, indices: Tensor) -> Tensor:
    """int64 whose order is that of the similarities and, of equal ones, of the indices reversed."""
    bits = (similarities + 0.0).view(torch.int32)  # + 0.0: there is one zero
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # of negative floats the order of bits is reversed
    return (ordered.long() << 32) | (_INDEX - indices)


def _similarity(ranks: Tensor) -> Tensor:
    ordered = (ranks >> 32).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)
