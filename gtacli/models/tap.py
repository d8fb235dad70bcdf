"""The attention tap: queries and keys of a ViT's blocks as values beside its output.

timm's fused attention computes no attention matrix, so a hook cannot extract it; hooks also stop
working silently under `torch.compile`. Here the model's own modules run block by block; a tapped
block returns its q and k and still runs the fused kernel on them. Logits are computed for the
requested rows only.

Shapes: B images, H heads, P prefix tokens (CLS and registers), N patches, R query rows,
D width of a head, C width of the embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol, cast

from torch import Tensor, nn

from gtacli.errors import UsageError
from gtacli.models import timm_blocks
from gtacli.models.qkv import row_logits
from gtacli.models.registers import shown_prefix, without_hidden
from gtacli.models.windows import run_in

QueryRows = Literal["cls", "all"]


@dataclass(frozen=True)
class Request:
    """The values that a forward pass returns. Block numbers are absolute.

    Attributes:
        layers: blocks whose queries and keys are returned.
        rows: their query rows: the CLS token's or every token's.
        msa: blocks whose attention sub-layer's output (B, P+N, C) is returned.
        hidden: blocks whose output tokens (B, P+N, C) are returned.
        features: whether to return the pooled features (B, C) that enter the classifier.
        output: whether to run to the classifier; else the pass ends at the last requested value.
    """

    layers: tuple[int, ...] = ()
    rows: QueryRows = "cls"
    msa: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()
    features: bool = False
    output: bool = True

    def __or__(self, other: Request) -> Request:
        """Return the smallest request that includes both."""
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
    """The attention of one block: logits of the CLS row, or queries and keys of all tokens.

    For the CLS row the keys are not kept: they are views of the full projection, which would stay
    in memory for every block.

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
        """Return (B, H, R, P+N) in fp32: scaled q k^T before the softmax; R = 1 or P+N."""
        return row_logits(*self.q_k, self.scale) if self.row is None else self.row

    @property
    def q_k(self) -> tuple[Tensor, Tensor]:
        """Return queries and keys; for rows "all" only."""
        assert self.q is not None, (
            "only the CLS row was requested; rows='all' keeps queries and keys"
        )
        assert self.k is not None
        return self.q, self.k

    def maps(self) -> Tensor:
        """Return (B, H, gh, gw): softmax over the full row, patch columns.

        For rows "all": (B, H, R, gh, gw).
        """
        attention = self.logits.softmax(-1)[..., self.num_prefix_tokens :].unflatten(-1, self.grid)
        return attention.squeeze(2) if attention.shape[2] == 1 else attention

    def patch_keys(self) -> Tensor:
        """Return the patches' keys (B, N, H * D), heads concatenated; for rows "all" only."""
        return self.q_k[1][:, :, self.num_prefix_tokens :].transpose(1, 2).flatten(2)

    def cls(self) -> Tap:
        """Return the tap with the CLS row alone."""
        if self.row is not None:
            return self
        q, k = self.q_k
        return replace(self, row=row_logits(q[:, :, :1], k, self.scale), q=None, k=None)


class TapTensors(NamedTuple):
    """The tensors that a tapped pass returns; those not requested are None or empty.

    A tuple of tensors passes through `torch.compile` and DDP.
    """

    logits: Tensor | None
    features: Tensor | None
    row: tuple[Tensor, ...]
    q: tuple[Tensor, ...]
    k: tuple[Tensor, ...]
    msa: tuple[Tensor, ...]
    hidden: tuple[Tensor, ...]


@dataclass(frozen=True)
class TapOutputs:
    """One network's outputs for a batch, by absolute block number.

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
    """A timm ViT whose forward pass returns the requested values.

    Parameters and state are the wrapped model's own (`.model`).

    Raises UsageError (option "model"), naming the class, for an unsupported model.
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
        """The number of prefix tokens in the returned values."""
        return shown_prefix(self.model)

    def forward(self, images: Tensor) -> TapTensors:
        """Run the model on normalized images (B, 3, h, w)."""
        return run_in(self.model, self._run, images)

    def _run(self, images: Tensor) -> TapTensors:
        request = self.request
        tapped = {*request.layers, *request.msa}
        wanted = tapped | {*request.hidden}
        end = self.depth if request.output or request.features else max(wanted, default=-1) + 1
        taps: dict[int, timm_blocks.AttentionTensors] = {}
        hidden: list[Tensor] = []
        x, ropes = timm_blocks.embed(self.model, images)
        for i, block in enumerate(self.model.blocks[:end]):
            rope = ropes[i] if ropes is not None else None
            if (
                i == end - 1
                and wanted
                and not (request.output or request.features or i in request.hidden)
            ):
                # Of the last block only the requested values are computed.
                msa = i in request.msa
                tensors = timm_blocks.attention_input(block, x, rope, request.rows, msa)
                taps[i] = self._select(i, tensors)
            elif i in tapped:
                x, taps[i] = timm_blocks.run_block(self.model, self._tapped_block, i, x, rope)
            else:
                x = timm_blocks.plain_block(self.model, block, x, rope)
            if i in request.hidden:
                hidden.append(x)
        features = logits = None
        if request.output or request.features:
            x = self.model.norm(x)
            if request.features:
                features = self.model.forward_head(x, pre_logits=True)
            if request.output:
                logits = timm_blocks.classify(self.model, x, features)
        every = request.rows == "all"

        def shown(values: Iterable[Tensor | None], dim: int) -> tuple[Tensor, ...]:
            return tuple(without_hidden(self.model, cast(Tensor, x), dim) for x in values)

        return TapTensors(
            logits,
            features,
            row=() if every else shown((taps[i].row for i in request.layers), 3),
            q=shown((taps[i].q for i in request.layers), 2) if every else (),
            k=shown((taps[i].k for i in request.layers), 2) if every else (),
            msa=shown((taps[i].attended for i in request.msa), 1),
            hidden=shown(hidden, 1),
        )

    def _tapped_block(
        self, layer: int, x: Tensor, rope: Tensor | None
    ) -> tuple[Tensor, timm_blocks.AttentionTensors]:
        """Run a block; return its output and its requested tensors."""
        rows = self.request.rows if layer in self.request.layers else None
        x, tensors = timm_blocks.tapped_block(self.model.blocks[layer], x, rope, rows)
        return x, self._select(layer, tensors)

    def _select(
        self, layer: int, tensors: timm_blocks.AttentionTensors
    ) -> timm_blocks.AttentionTensors:
        """Return the requested tensors of a block; the others must not stay in memory."""
        row, attended = tensors.row, tensors.attended
        if layer not in self.request.layers:
            return timm_blocks.AttentionTensors(attended=attended)
        if self.request.rows == "all":
            return tensors._replace(v=None, row=None)
        if row is None:
            scale = float(self.model.blocks[layer].attn.scale)
            row = row_logits(cast(Tensor, tensors.q)[:, :, :1], cast(Tensor, tensors.k), scale)
        return timm_blocks.AttentionTensors(row=row, attended=attended)

    def unpack(self, tensors: TapTensors, image_size: Sequence[int]) -> TapOutputs:
        """Return the tensors of `forward` by block number.

        Args:
            tensors: the return value of `forward`.
            image_size: shape of its images, ending in (h, w); it determines the grid.
        """
        grid = timm_blocks.grid(self.model, (image_size[-2], image_size[-1]))
        blocks = self.model.blocks
        request = self.request
        return TapOutputs(
            tensors.logits,
            tensors.features,
            {
                layer: Tap(
                    layer,
                    grid,
                    self.num_prefix_tokens,
                    float(blocks[layer].attn.scale),
                    *(part[i] if part else None for part in (tensors.row, tensors.q, tensors.k)),
                )
                for i, layer in enumerate(request.layers)
            },
            dict(zip(request.msa, tensors.msa, strict=True)),
            dict(zip(request.hidden, tensors.hidden, strict=True)),
        )


def has_cls(model: nn.Module) -> bool:
    """Return whether a model has a CLS token."""
    return getattr(model, "cls_token", None) is not None


def require_cls(
    model: nn.Module, option: str | None = "rows", hint: str = "use `rows=all`"
) -> None:
    """Raise UsageError about `option` for a model without a CLS token; `hint` says what to do."""
    if not has_cls(model):
        text = f"this model has no CLS token, so it has no CLS row; {hint}"
        raise UsageError(text, option=option)


def absolute_layers(layers: Sequence[int] | str, depth: int) -> tuple[int, ...]:
    """Return sorted absolute block numbers for "all", "last" or numbers such as (-1, -2).

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


class HoldsModel(Protocol):
    """A holder of a network, such as `gtacli.load_model` returns."""

    model: nn.Module


def attention(
    model: nn.Module | HoldsModel,
    images: Tensor,
    layers: Sequence[int] | str = (-1,),
    rows: QueryRows = "cls",
) -> list[Tap]:
    """Extract the attention of a ViT on images; its fused kernel stays on.

    Args:
        model: a timm ViT, or what `gtacli.load_model` returns; its mode (train, eval) stays.
        images: (B, 3, h, w), already normalized.
        layers: block numbers such as (-1,), or "all" or "last".
        rows: "cls" for the CLS token's query alone, "all" for every token's.

    Returns:
        One Tap per block, in ascending order of the blocks; gradients flow unless disabled.

    Raises:
        UsageError: for an unsupported model (the message names the class), a block that it does
            not have, or rows="cls" on a model without a CLS token.
    """
    network = model if isinstance(model, nn.Module) else model.model
    timm_blocks.check(network)
    if rows == "cls":
        require_cls(network)
    depth = len(cast(nn.ModuleList, network.blocks))
    tapped = TappedViT(network, Request(absolute_layers(layers, depth), rows, output=False))
    return list(tapped.unpack(tapped(images), images.shape).taps.values())
