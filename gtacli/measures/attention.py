"""Metrics of the CLS token's attention: location, entropy, distance from a reference model's.

The row a of a block and head is the softmax over all columns: CLS, registers, patches.

    inside   sum of a over the patches, each times the fraction of its area inside the object,
             divided by the sum of a over the patches. Uniform attention has the object's fraction
             of the area.
    entropy  - sum a log a over all columns, in nats: 0 to log(P + N)
    drift    sum over the patches of the squared differences of the logits from a reference's. Its
             mean over blocks and heads is the `attention_drift` of `gta finetune`.
    kl       KL(reference || this) in nats of the softmax over the patches, as `distance=kl`

Columns and averages are ours; GTA (Seo et al., arXiv 2401.02656) and AttG-MAE (Sick et al., arXiv
2402.15172) show these properties in figures.

Shapes: B images, L blocks, H heads, P prefix tokens, N = gh gw patches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gtacli.runtime.devices import widen

if TYPE_CHECKING:
    from gtacli.models.tap import Tap

METRICS = ("inside", "entropy", "drift", "kl")


def object_attention(tap: Tap, fractions_Bhw: Tensor) -> Tensor:
    """Compute the fraction of the attention on patches that falls inside the object: (B, H).

    Args:
        fractions_Bhw: fraction of each patch that lies inside the object.
    """
    patches = tap.cls().logits[:, :, 0, tap.num_prefix_tokens :]
    # A softmax over the patches alone is the renormalized full row, and never 0 / 0.
    return (patches.softmax(-1) * fractions_Bhw.flatten(1)[:, None]).sum(-1)


def row_entropy(tap: Tap) -> Tensor:
    """Compute the entropy of the full row in nats: (B, H)."""
    return torch.special.entr(tap.cls().logits[:, :, 0].softmax(-1)).sum(-1)


def row_distances(tap: Tap, reference: Tap) -> tuple[Tensor, Tensor]:
    """Compute drift and KL, each (B, H), or (B, 1) if the models differ in number of heads."""
    # In float64, if the device has it: a small KL is a difference of large sums.
    ours, theirs = (widen(row.squeeze(2)) for row in comparable_rows(tap, reference))
    log_ours, log_theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    kl = (log_theirs.exp() * (log_theirs - log_ours)).sum(-1)
    return (ours - theirs).square().sum(-1), kl


def comparable_rows(target: Tap, source: Tap, cls_column: bool = False) -> tuple[Tensor, Tensor]:
    """Return the CLS rows of two models on the same columns and heads: two (B, H, 1, C) logits.

    The columns are the target's patches, with `cls_column` after the CLS token's own; never
    registers. If the models differ in number of heads, both are averaged over the heads.
    """
    rows = [_columns(tap.cls(), target.grid, cls_column) for tap in (target, source)]
    if rows[0].shape[1] != rows[1].shape[1]:
        rows = [row.mean(1, keepdim=True) for row in rows]
    return rows[0], rows[1]


def _columns(tap: Tap, grid: tuple[int, int], cls_column: bool) -> Tensor:
    patches = tap.logits[..., tap.num_prefix_tokens :]
    if tap.grid != grid:
        maps = patches.squeeze(2).unflatten(-1, tap.grid)
        # Antialiased: a mean where the grid gets coarser, not a sample.
        maps = F.interpolate(maps, grid, mode="bilinear", antialias=True, align_corners=False)
        patches = maps.flatten(-2).unsqueeze(2)
    return torch.cat((tap.logits[..., :1], patches), -1) if cls_column else patches


def mass_mask(attention_hw: Tensor, mass: float) -> Tensor:
    """Return the patches (..., gh, gw) with the highest attention, `mass` of its sum together."""
    values, order = attention_hw.flatten(-2).sort()
    kept = (values / values.sum(-1, keepdim=True)).cumsum(-1) > 1 - mass
    return torch.zeros_like(kept).scatter_(-1, order, kept).view(attention_hw.shape)


class AttentionStatistics:
    """Sums of a model's attention metrics over images.

    Args:
        layers: L.
        heads: H.
        compared: heads whose distances from a reference are computed: H, 1 for their mean, 0 for
            none.
    """

    def __init__(self, layers: int, heads: int, compared: int, device: torch.device) -> None:
        self.compared = compared
        # float64 sums fp32 numbers nearly exactly: results do not depend on the batch size or on
        # how processes share the images.
        self.sums = widen(torch.zeros(len(METRICS), layers, heads, device=device))
        self.counts = widen(torch.zeros(3, device=device))  # images, with an object, its area

    def add(
        self,
        taps: Sequence[Tap],
        fractions_Bhw: Tensor | None = None,
        reference: Sequence[Tap] | None = None,
    ) -> None:
        """Add a batch.

        Args:
            taps: of L blocks.
            fractions_Bhw: see `object_fractions`; all 0 for an image without an object, which
                counts for everything but `inside`. None: no image has one.
            reference: the reference's taps of the same images, if there is one.
        """
        self.counts[0] += len(taps[0].logits)
        if fractions_Bhw is not None:
            area = fractions_Bhw.to(self.counts.dtype).mean((1, 2))
            self.counts[1] += (area > 0).sum()
            self.counts[2] += area.sum()
        for i, tap in enumerate(taps):
            if fractions_Bhw is not None:
                self._add(0, i, object_attention(tap, fractions_Bhw))
            self._add(1, i, row_entropy(tap))
            if reference is not None:
                for j, values in enumerate(row_distances(tap, reference[i]), start=2):
                    self._add(j, i, values)

    def _add(self, metric: int, layer: int, values_BH: Tensor) -> None:
        heads = values_BH.shape[1]
        self.sums[metric, layer, :heads] += values_BH.to(self.sums.dtype).sum(0)

    def reduce(self, all_reduce: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by those over all processes; all of them must call this."""
        self.sums, self.counts = all_reduce(self.sums), all_reduce(self.counts)

    def means(self) -> dict[str, Any]:
        """Return the means over the images, None where no image counts.

        `n_images`; `n_inside`, the images with an object; `area`, the mean fraction of those images
        that is object; each of METRICS as L lists of H numbers.
        """
        images, inside, area = self.counts.tolist()
        heads = self.sums.shape[-1]
        counted = {
            "inside": (inside, heads),
            "entropy": (images, heads),
            "drift": (images, self.compared),
            "kl": (images, self.compared),
        }
        values = {
            name: (self.sums[i, :, :of] / count).tolist() if count and of else None
            for i, (name, (count, of)) in enumerate(counted.items())
        }
        return {
            "n_images": int(images),
            "n_inside": int(inside),
            "area": area / inside if inside else None,
            **values,
        }
