"""`--track-attention`: attention metrics (`gtacli.measures.attention`) on held-out images, computed
in the pass that measures accuracy and drift."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gtacli.data.base import Record
from gtacli.data.truth import read_record_truth
from gtacli.images.decode import ImageError, upright_size
from gtacli.images.preprocessing import eval_box
from gtacli.measures.attention import HealthSums
from gtacli.measures.object_shares import object_shares
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Tap
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes

log = logging.getLogger(__name__)


class AttentionTrack:
    """Where the target's CLS attention lies on a fixed set of images, epoch by epoch.

    Masks go through evaluation's resize and centre crop as their images do, are read once, and kept
    as a number a patch. One that cannot be read is named, and its image left out of `inside`.

    Args:
        records: of the images, by index.
        target: whose attention it is.
        source: the KL is from it; None: no KL.
        processes: that share the set; all get the figures of the whole.
    """

    def __init__(
        self,
        records: Sequence[Record],
        target: LoadedModel,
        source: LoadedModel | None,
        compute: Compute,
        processes: Processes = ALONE,
    ) -> None:
        self.records, self.target, self.source = records, target, source
        self.compute, self.processes = compute, processes
        self.masked = any(record.mask is not None for record in records)
        self._shares: dict[int, Tensor] = {}
        self._faults: dict[str, str] = {}
        self._told: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """Forget what was measured."""
        heads = _heads(self.target)
        compared = 0
        if self.source is not None:
            compared = heads if _heads(self.source) == heads else 1
        depth = len(self.target.model.blocks)  # type: ignore[arg-type]
        self.sums = HealthSums(depth, heads, compared, self.compute.device)

    def add(self, taps: Sequence[Tap], source: Sequence[Tap] | None, indices: Tensor) -> None:
        """Count a batch: taps of all blocks, the source's where there is one, the images'
        indices."""
        shares = None
        if self.masked:
            shares = torch.stack([self._share(i) for i in indices.tolist()])
            shares = shares.to(self.compute.device)
        self.sums.add(taps, shares, source)

    def figures(self) -> dict[str, Any] | None:
        """`inside`, `entropy` and `kl` as lists over the blocks, means over heads and images;
        `area`, `n_images`, `n_inside` as in `HealthSums.means`. None without an image."""
        self.sums.total(self.processes.all_reduce)
        for faults in self.processes.gather(self._faults):
            for key in faults.keys() - self._told:
                log.warning("without a mask: %s", faults[key])
                self._told.add(key)
        means = self.sums.means()
        if not means["n_images"]:
            return None
        lists = {name: _over_heads(means[name]) for name in ("inside", "entropy", "kl")}
        return {**lists, **{name: means[name] for name in ("area", "n_images", "n_inside")}}

    def _share(self, index: int) -> Tensor:
        if index not in self._shares:
            record = self.records[index]
            try:
                self._shares[index] = self._read(record)
            except ImageError as error:
                self._faults[record.key] = str(error)
                self._shares[index] = torch.zeros(self.target.grid)
        return self._shares[index]

    def _read(self, record: Record) -> Tensor:
        if record.mask is None:
            return torch.zeros(self.target.grid)
        size = upright_size(record.path)
        truth = read_record_truth(record, size)
        assert truth is not None
        assert truth.labels is not None
        box = eval_box(size, self.target.image_size, self.target.crop_pct)
        return object_shares(truth.labels, self.target.grid, box)


def last_block(figures: dict[str, Any] | None) -> float | None:
    """The figure that sums it up: `inside` of the last block, which the classifier reads."""
    inside = None if figures is None else figures["inside"]
    return None if inside is None else inside[-1]


def _over_heads(table: list[list[float]] | None) -> list[float] | None:
    return None if table is None else [sum(row) / len(row) for row in table]


def _heads(model: LoadedModel) -> int:
    blocks: Any = model.model.blocks
    return int(blocks[0].attn.num_heads)
