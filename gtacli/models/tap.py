"""The attention tap: queries and keys of a ViT's blocks as values beside its output.

timm's fused attention computes no attention matrix, so there is nothing a hook could catch; hooks
also vanish silently under `torch.compile`. Here the forward pass of the model is walked block by
block with the model's own modules; a tapped block hands out its q and k and still runs the fused
kernel on them. Only the rows that are asked for ever become logits.

Shapes: B images, H heads, P prefix tokens (CLS and registers), N patches, R query rows,
D width of a head, C width of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.heads import row_logits

Rows = Literal["cls", "all"]


@dataclass(frozen=True)
class Request:
    """What a forward pass is asked to hand out. Block numbers are absolute.

    Attributes:
        layers: blocks whose queries and keys are wanted.
        rows: query rows that are wanted of them: the CLS token's or every token's.
        msa: blocks whose attention sub-layer's output (B, P+N, C) is wanted.
        hidden: blocks whose output tokens (B, P+N, C) are wanted.
        features: the pooled features (B, C) that enter the classifier are wanted.
        output: run to the classifier. False ends the pass at the last wanted value.
    """

    layers: tuple[int, ...] = ()
    rows: Rows = "cls"
    msa: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    features: bool = False
    output: bool = True

    def __or__(self, other: Request) -> Request:
        """The least request that serves both."""
        return Request(
            layers=_union(self.layers, other.layers),
            rows="all" if any(r.layers and r.rows == "all" for r in (self, other)) else "cls",
            msa=_union(self.msa, other.msa),
            hidden=_union(self.hidden, other.hidden),
            features=self.features or other.features,
            output=self.output or other.output,
        )


def _union(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*a, *b}))


@dataclass(frozen=True)
class Tap:
    """Attention of one block: the CLS token's row of logits, or the queries and keys of all rows.

    A row is computed on the way and its keys let go: they are views of the whole projection, which
    would stay in memory for every block.

    Attributes:
        layer: absolute block number.
        grid: patches (gh, gw).
        num_prefix_tokens: P.
        scale: D^-1/2.
        row: (B, H, 1, P+N) logits of the CLS row in fp32 (rows "cls"), else None.
        q, k: (B, H, P+N, D) after QK-norm and rotary embedding (rows "all"), else None.
    """

    layer: int
    grid: tuple[int, int]
    num_prefix_tokens: int
    scale: float
    row: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None

    @property
    def logits(self) -> Tensor:
        """(B, H, R, P+N) in fp32: q k^T scaled, before the softmax; R = 1 or P+N."""
        return row_logits(*self.q_k, self.scale) if self.row is None else self.row

    @property
    def q_k(self) -> tuple[Tensor, Tensor]:
        """Queries and keys; for rows "all" only."""
        assert self.q is not None, "the pass was asked for the CLS row alone"
        assert self.k is not None
        return self.q, self.k

    def maps(self) -> Tensor:
        """(B, H, gh, gw): softmax over the full row, patch columns. Rows "all": (B,H,R,gh,gw)."""
        attention = self.logits.softmax(-1)[..., self.num_prefix_tokens :].unflatten(-1, self.grid)
        return attention.squeeze(2) if attention.shape[2] == 1 else attention

    def patch_keys(self) -> Tensor:
        """(B, N, H * D): keys of the patches, heads side by side. Rows "all" only."""
        return self.q_k[1][:, :, self.num_prefix_tokens :].transpose(1, 2).flatten(2)

    def cls(self) -> Tap:
        """The same tap with the CLS token's row alone."""
        if self.row is not None:
            return self
        q, k = self.q_k
        return replace(self, row=row_logits(q[:, :, :1], k, self.scale), q=None, k=None)


class Outputs(NamedTuple):
    """What a tapped pass returns; parts that were not asked for are None or empty.

    A tuple of tensors, so that it passes through `torch.compile` and DDP.
    """

    logits: Tensor | None
    features: Tensor | None
    row: tuple[Tensor, ...]
    q: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    msa: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]


@dataclass(frozen=True)
class Reading:
    """One network's view of a batch, by absolute block number.

    Attributes:
        logits: (B, classes) or None.
        features: (B, C) pooled features that enter the classifier, or None.
        taps: CLS rows, or queries and keys.
        msa: outputs (B, P+N, C) of attention sub-layers.
        hidden: outputs (B, P+N, C) of blocks.
    """

    logits: Tensor | None
    features: Tensor | None
    taps: dict[int, Tap]
    msa: dict[int, Tensor]
    hidden: dict[int, Tensor]


class TappedViT(nn.Module):
    """A timm ViT whose forward pass returns what `request` asks for, as values.

    Parameters and state are the wrapped model's own (`.model`). Raises UsageError, naming the
    layer's class, for a model that it cannot walk.
    """

    def __init__(self, model: nn.Module, request: Request | None = None) -> None:
        super().__init__()
        timm_blocks.check(model)
        self.model: Any = model
        self.request = request or Request()

    @property
    def depth(self) -> int:
        return len(self.model.blocks)

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.model.num_prefix_tokens)

    def forward(self, images: Tensor) -> Outputs:
        """images (B, 3, h, w), already normalised -> Outputs."""
        ask = self.request
        tapped = {*ask.layers, *ask.msa}
        wanted = tapped | {*ask.hidden}
        end = self.depth if ask.output or ask.features else max(wanted, default=-1) + 1
        taps: dict[int, timm_blocks.Heads] = {}
        hidden: list[Tensor] = []
        x, ropes = timm_blocks.embed(self.model, images)
        for i, block in enumerate(self.model.blocks[:end]):
            rope = ropes[i] if ropes is not None else None
            if i == end - 1 and wanted and not (ask.output or ask.features or i in ask.hidden):
                # Nothing follows: of the last block only what was asked for is computed.
                msa = i in ask.msa
                taps[i] = self._kept(i, timm_blocks.attention_input(block, x, rope, ask.rows, msa))
            elif i in tapped:
                x, taps[i] = timm_blocks.run_block(self.model, self._tapped_block, i, x, rope)
            else:
                x = timm_blocks.plain_block(self.model, block, x, rope)
            if i in ask.hidden:
                hidden.append(x)
        features = logits = None
        if ask.output or ask.features:
            x = self.model.norm(x)
            if ask.features:
                features = self.model.forward_head(x, pre_logits=True)
            if ask.output:
                logits = timm_blocks.classify(self.model, x, features)
        every = ask.rows == "all"
        return Outputs(
            logits,
            features,
            row=() if every else tuple(cast(Tensor, taps[i].row) for i in ask.layers),
            q=tuple(cast(Tensor, taps[i].q) for i in ask.layers) if every else (),
            k=tuple(cast(Tensor, taps[i].k) for i in ask.layers) if every else (),
            msa=tuple(cast(Tensor, taps[i].attended) for i in ask.msa),
            hidden=tuple(hidden),
        )

    def _tapped_block(
        self, layer: int, x: Tensor, rope: Tensor | None
    ) -> tuple[Tensor, timm_blocks.Heads]:
        """A block's output and what stays of its heads."""
        rows = self.request.rows if layer in self.request.layers else None
        x, heads = timm_blocks.tapped_block(self.model.blocks[layer], x, rope, rows)
        return x, self._kept(layer, heads)

    def _kept(self, layer: int, heads: timm_blocks.Heads) -> timm_blocks.Heads:
        """What stays of a block's heads while the later blocks run."""
        ask, row, attended = self.request, heads.row, heads.attended
        if layer not in ask.layers:
            return timm_blocks.Heads(attended=attended)
        if ask.rows == "all":
            return heads._replace(v=None, row=None)
        if row is None:
            scale = float(self.model.blocks[layer].attn.scale)
            row = row_logits(cast(Tensor, heads.q)[:, :, :1], cast(Tensor, heads.k), scale)
        return timm_blocks.Heads(row=row, attended=attended)

    def read(self, outputs: Outputs, image_size: Sequence[int]) -> Reading:
        """`outputs` of `forward` by block number, ready for use.

        Args:
            outputs: what `forward` returned.
            image_size: shape of the images it saw, ending in (h, w); the grid follows from it.
        """
        grid = timm_blocks.grid(self.model, (image_size[-2], image_size[-1]))
        blocks = self.model.blocks
        ask = self.request
        return Reading(
            outputs.logits,
            outputs.features,
            {
                layer: Tap(
                    layer,
                    grid,
                    self.num_prefix_tokens,
                    float(blocks[layer].attn.scale),
                    *(part[i] if part else None for part in (outputs.row, outputs.q, outputs.k)),
                )
                for i, layer in enumerate(ask.layers)
            },
            dict(zip(ask.msa, outputs.msa, strict=True)),
            dict(zip(ask.hidden, outputs.hidden, strict=True)),
        )


def require_cls(
    model: nn.Module, option: str = "rows", hint: str = "use rows=all (--rows all)"
) -> None:
    """Raise UsageError, with the option to change, for a model without a CLS token."""
    if getattr(model, "cls_token", None) is None:
        raise UsageError(f"{option}: this model has no CLS token, so it has no CLS row; {hint}")


def absolute_layers(layers: Sequence[int] | str, depth: int) -> tuple[int, ...]:
    """Block numbers `all`, `last` or such as (-1, -2) as sorted absolute numbers.

    Raises UsageError when the model has no such block.
    """
    if layers == "all":
        return tuple(range(depth))
    if layers == "last":
        return (depth - 1,)
    chosen = set()
    for layer in cast(Sequence[int], layers):
        if not -depth <= layer < depth:
            raise UsageError(
                f"there is no block {layer}; this model has {depth}, "
                f"numbered 0 to {depth - 1} or -{depth} to -1"
            )
        chosen.add(layer % depth)
    return tuple(sorted(chosen))


def attention(
    model: nn.Module, images: Tensor, layers: Sequence[int] | str = (-1,), rows: Rows = "cls"
) -> list[Tap]:
    """Attention of a ViT on images, with the fused kernel left on.

    Args:
        model: a timm ViT (`gtacli.load_model(...).model`), used as it is (train or eval mode).
        images: (B, 3, h, w), already normalised.
        layers: block numbers such as (-1,), or "all" or "last".
        rows: "cls" for the CLS token's query alone, "all" for every token's.

    Returns:
        One Tap a block, in ascending order of the blocks; gradients flow unless switched off.

    Raises:
        UsageError: for a model without the needed structure (named), a block that it does not
            have, or rows="cls" on a model without a CLS token.
    """
    timm_blocks.check(model)
    if rows == "cls":
        require_cls(model)
    depth = len(cast(nn.ModuleList, model.blocks))
    tapped = TappedViT(model, Request(absolute_layers(layers, depth), rows, output=False))
    return list(tapped.read(tapped(images), images.shape).taps.values())
