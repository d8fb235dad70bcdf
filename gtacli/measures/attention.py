"""Attention health: where the CLS token's attention lies, how sharp it is, how far from another's.

The row a of a block and head is the softmax over all columns: CLS, registers, patches.

    inside   sum of a over the patches, each times the share of its area inside the object, divided
             by sum of a over the patches. Uniform attention has the object's share of the area.
    entropy  - sum a log a over all columns, in nats: 0 to log(P + N)
    drift    sum over the patches of the squared differences of the logits from a reference's. Its
             mean over blocks and heads is the `attention_drift` of `gta finetune`.
    kl       KL(reference || this) in nats of the softmax over the patches, as `--distance kl`

Columns and averages are ours; the figures are those that GTA (Seo et al., arXiv 2401.02656) and
AttG-MAE (Sick et al., arXiv 2402.15172) argue with in pictures.

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

MEASURES = ("inside", "entropy", "drift", "kl")


def inside_share(tap: Tap, shares_Bhw: Tensor) -> Tensor:
    """(B, H): share of the attention on patches that falls inside the object, given the share
    (B, gh, gw) of each patch that does."""
    patches = tap.cls().logits[:, :, 0, tap.num_prefix_tokens :]
    # Their own softmax is the full row's share of the patches, and never 0 / 0.
    return (patches.softmax(-1) * shares_Bhw.flatten(1)[:, None]).sum(-1)


def row_entropy(tap: Tap) -> Tensor:
    """(B, H): entropy of the full row in nats."""
    return torch.special.entr(tap.cls().logits[:, :, 0].softmax(-1)).sum(-1)


def row_distances(tap: Tap, reference: Tap) -> tuple[Tensor, Tensor]:
    """(drift, kl), each (B, H), or (B, 1) of the heads' mean where their numbers differ."""
    # In float64, where it exists: a small KL is a difference of large sums.
    ours, theirs = (widen(row.squeeze(2)) for row in comparable_rows(tap, reference))
    log_ours, log_theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    kl = (log_theirs.exp() * (log_theirs - log_ours)).sum(-1)
    return (ours - theirs).square().sum(-1), kl


def comparable_rows(target: Tap, source: Tap, cls_column: bool = False) -> tuple[Tensor, Tensor]:
    """The CLS rows of two networks on the same columns and heads: twice (B, H, 1, C) logits.

    The columns are the target's patches, after the CLS token's own column if asked; never
    registers.
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


class HealthSums:
    """The measures of one network, summed over images.

    Args:
        layers: L.
        heads: H.
        compared: heads whose distances from a reference are measured: H, 1 for their mean, 0 for
            none.
    """

    def __init__(self, layers: int, heads: int, compared: int, device: torch.device) -> None:
        self.compared = compared
        # float64 holds sums of fp32 numbers exactly or nearly so: the figures depend neither on
        # batches nor on who measured which image.
        self.sums = widen(torch.zeros(len(MEASURES), layers, heads, device=device))
        self.counts = widen(torch.zeros(3, device=device))  # images, with an object, its area

    def add(
        self,
        taps: Sequence[Tap],
        shares_Bhw: Tensor | None = None,
        reference: Sequence[Tap] | None = None,
    ) -> None:
        """Count a batch.

        Args:
            taps: of L blocks.
            shares_Bhw: (B, gh, gw), see `probing.masks`; all 0 for an image without an object,
                which counts for everything but `inside`. None: so are all.
            reference: the reference's taps of the same images, where there is one.
        """
        self.counts[0] += len(taps[0].logits)
        if shares_Bhw is not None:
            area = shares_Bhw.to(self.counts.dtype).mean((1, 2))
            self.counts[1] += (area > 0).sum()
            self.counts[2] += area.sum()
        for i, tap in enumerate(taps):
            if shares_Bhw is not None:
                self._add(0, i, inside_share(tap, shares_Bhw))
            self._add(1, i, row_entropy(tap))
            if reference is not None:
                for j, figures in enumerate(row_distances(tap, reference[i]), start=2):
                    self._add(j, i, figures)

    def _add(self, measure: int, layer: int, figures_BH: Tensor) -> None:
        heads = figures_BH.shape[1]
        self.sums[measure, layer, :heads] += figures_BH.to(self.sums.dtype).sum(0)

    def total(self, over: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by those over several processes, by an all-reduce that all call."""
        self.sums, self.counts = over(self.sums), over(self.counts)

    def means(self) -> dict[str, Any]:
        """`n_images`; `n_inside`, the images with an object, and `area`, their objects' mean share
        of it; each of MEASURES as L lists of H numbers. None where nothing was measured."""
        images, inside, area = self.counts.tolist()
        heads = self.sums.shape[-1]
        counted = {
            "inside": (inside, heads),
            "entropy": (images, heads),
            "drift": (images, self.compared),
            "kl": (images, self.compared),
        }
        figures = {
            name: (self.sums[i, :, :of] / count).tolist() if count and of else None
            for i, (name, (count, of)) in enumerate(counted.items())
        }
        return {
            "n_images": int(images),
            "n_inside": int(inside),
            "area": area / inside if inside else None,
            **figures,
        }
