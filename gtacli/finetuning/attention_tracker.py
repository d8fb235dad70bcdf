"""The `track_attention` option: attention metrics on held-out images, epoch by epoch.

They are computed in the pass that measures accuracy and drift; see `gtacli.measures.attention`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gtacli.data.base import Record
from gtacli.data.truth import read_record_truth
from gtacli.finetuning.results import EpochAttention
from gtacli.images.decode import ImageError, read_upright_size
from gtacli.images.preprocessing import compute_eval_box
from gtacli.measures.attention import AttentionStatistics
from gtacli.measures.object_fractions import object_fractions
from gtacli.models.loading import LoadedModel
from gtacli.models.tap import Tap
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import ALONE, Processes
from gtacli.runtime.repeated import RepeatedWarning

log = logging.getLogger(__name__)


class AttentionTracker:
    """Metrics of the target's CLS attention on a fixed set of images.

    Masks go through the resize and center crop of evaluation, as their images do. Each is read once
    and cached as one number a patch. An unreadable mask is logged, and its image left out of
    `inside`.

    Args:
        records: the images, by index.
        target: the model whose attention is measured.
        source: the model that the KL divergence is measured from; None: no KL.
        processes: share the set; all of them get the metrics of the whole.
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
        self._coverages: dict[int, Tensor] = {}
        self._faults: dict[str, str] = {}
        self._logged: set[str] = set()
        self.reset()

    def reset(self) -> None:
        """Discard the sums."""
        heads = _heads(self.target)
        compared = 0
        if self.source is not None:
            compared = heads if _heads(self.source) == heads else 1
        depth = len(self.target.model.blocks)  # type: ignore[arg-type]
        self.sums = AttentionStatistics(depth, heads, compared, self.compute.device)

    def add(self, taps: Sequence[Tap], source: Sequence[Tap] | None, indices: Tensor) -> None:
        """Add a batch.

        Args:
            taps: the target's attention in all blocks.
            source: the source's, if there is one.
            indices: (B,) indices of the images.
        """
        coverages = None
        if self.masked:
            coverages = torch.stack([self._coverage(i) for i in indices.tolist()])
            coverages = coverages.to(self.compute.device)
        self.sums.add(taps, coverages, source)

    def metrics(self) -> EpochAttention | None:
        """Return the metrics of all images, as means over heads; None without an image."""
        self.sums.reduce(self.processes.all_reduce)
        warning = RepeatedWarning(log, "without a mask: ")
        for faults in self.processes.gather(self._faults):
            for key in sorted(faults.keys() - self._logged):
                warning.add(faults[key])
                self._logged.add(key)
        warning.summarize()
        means = self.sums.means()
        if not means["n_images"]:
            return None
        return {
            "inside": _mean_over_heads(means["inside"]),
            "entropy": _mean_over_heads(means["entropy"]),
            "kl": _mean_over_heads(means["kl"]),
            "area": means["area"],
            "n_images": means["n_images"],
            "n_inside": means["n_inside"],
        }

    def _coverage(self, index: int) -> Tensor:
        """Return the fraction of each patch (gh, gw) that the object covers; 0 without a mask."""
        if index not in self._coverages:
            record = self.records[index]
            try:
                self._coverages[index] = self._read_coverage(record)
            except ImageError as error:
                self._faults[record.key] = str(error)
                self._coverages[index] = torch.zeros(self.target.grid)
        return self._coverages[index]

    def _read_coverage(self, record: Record) -> Tensor:
        if record.mask is None:
            return torch.zeros(self.target.grid)
        size = read_upright_size(record.source)
        truth = read_record_truth(record, size)
        assert truth is not None
        assert truth.labels is not None
        box = compute_eval_box(size, self.target.image_size, self.target.crop_pct)
        return object_fractions(truth.labels, self.target.grid, box)


def inside_last_block(metrics: EpochAttention | None) -> float | None:
    """Return `inside` of the last block, which the classifier reads."""
    inside = None if metrics is None else metrics["inside"]
    return None if inside is None else inside[-1]


def _mean_over_heads(table: list[list[float]] | None) -> list[float] | None:
    return None if table is None else [sum(row) / len(row) for row in table]


def _heads(model: LoadedModel) -> int:
    blocks: Any = model.model.blocks
    return int(blocks[0].attn.num_heads)
