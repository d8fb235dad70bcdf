"""Test-time registers: outlier tokens moved out of the image (Jiang et al., arXiv 2506.08010).

Large ViTs, and some small ones, use a few patches of little content as memory: tokens of outlying
norm, which hide the image in attention maps (Darcet et al., arXiv 2309.16588). A few neurons of
the MLPs write them. Here these register neurons write to appended tokens instead: their largest
activation (by its absolute value, over all tokens) goes to each appended token, and is 0 on the
patches; CLS and trained registers keep theirs. The appended tokens start as zeros without a
position, after CLS and trained registers, and are prefix tokens from then on.

The weights and their names stay as they are. `register_search` finds the neurons of a network.

Shapes: B images, P prefix tokens, N patches, M neurons of an MLP, C width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from gtacli.errors import UsageError

_MARK = "test_time_registers"


class Registers(NamedTuple):
    """The neurons that write outlier tokens, and the number of tokens appended for them.

    Attributes:
        neurons: numbers of neurons, by absolute block number.
        tokens: number of appended tokens.
    """

    neurons: Mapping[int, tuple[int, ...]]
    tokens: int = 1

    def describe(self) -> dict[str, Any]:
        """Return the registers for JSON."""
        return {"tokens": self.tokens, "neurons": {str(k): [*v] for k, v in self.neurons.items()}}


class MoveToRegisters(nn.Module):
    """A stage of an MLP that moves the activations of its register neurons to appended tokens.

    Args:
        stage: what it follows: the dropout after the MLP's activation, or after its gate.
        neurons: their numbers.
        start, count: the first appended token, and their number; the patches follow them.
    """

    neurons: Tensor

    def __init__(self, stage: nn.Module, neurons: tuple[int, ...], start: int, count: int) -> None:
        super().__init__()
        self.stage, self.start, self.count = stage, start, count
        self.register_buffer("neurons", torch.tensor(neurons), persistent=False)
        self.fingerprint_settings = ["registers", list(neurons), start, count]

    def forward(self, x: Tensor) -> Tensor:
        """Return the activations (B, P+N, M) with those of the register neurons moved."""
        x = self.stage(x)
        patches = self.start + self.count
        values = x[:, :, self.neurons]
        high, low = values.amax(1), values.amin(1)
        largest = torch.where(high >= -low, high, low).unsqueeze(1)
        if x.requires_grad:
            x = x.clone()
        x[:, patches:, self.neurons] = 0
        x[:, self.start : patches, self.neurons] = largest
        return x


class _WithRegisters(nn.Module):
    """A ViT with appended tokens; its class is made by `add_registers`."""

    base: type[nn.Module]

    def _pos_embed(self, x: Tensor) -> Any:
        model: Any = self
        if model.dynamic_img_size:
            # There timm counts the prefix tokens that have position embeddings.
            model = copy(self)
            model.num_prefix_tokens = own_prefix(self)
        found = cast(Any, self.base)._pos_embed(model, x)
        if isinstance(found, tuple):  # with the rotary embeddings of the patches
            return append_tokens(self, found[0]), *found[1:]
        return append_tokens(self, found)


def add_registers(model: nn.Module, registers: Registers, hidden: bool = False) -> None:
    """Add test-time registers to a ViT of timm, in place.

    Args:
        hidden: the tap's values leave the appended tokens out, so that they can be compared with
            those of a network without them.

    Raises UsageError (option "registers") for a model that has some, or has other MLPs.
    """
    m = cast(Any, model)
    if registers_of(model) is not None:
        raise UsageError("the model has test-time registers", option="registers")
    start = int(m.num_prefix_tokens)
    for layer, neurons in registers.neurons.items():
        mlp = m.blocks[layer].mlp
        mlp.drop1 = MoveToRegisters(_stage(mlp), neurons, start, registers.tokens)
        mlp.drop1.train(model.training).to(next(model.parameters()).device)
    _shift_prefix(model, registers.tokens)
    base = type(model)
    m.__class__ = type(f"{base.__name__}WithRegisters", (_WithRegisters, base), {"base": base})
    setattr(m, _MARK, (registers, hidden))


def remove_registers(model: nn.Module) -> None:
    """Remove the test-time registers of a model, if it has some, in place."""
    registers = registers_of(model)
    if registers is None:
        return
    m = cast(Any, model)
    for layer in registers.neurons:
        m.blocks[layer].mlp.drop1 = m.blocks[layer].mlp.drop1.stage
    _shift_prefix(model, -registers.tokens)
    m.__class__ = m.base
    delattr(m, _MARK)


def registers_of(model: nn.Module) -> Registers | None:
    """Return the test-time registers of a model."""
    return cast("tuple[Registers | None, bool]", getattr(model, _MARK, (None, False)))[0]


def describe_registers(model: nn.Module) -> dict[str, Any]:
    """Return `{"registers": ...}` for the record of a run; empty for a model without them."""
    registers = registers_of(model)
    return {} if registers is None else {"registers": registers.describe()}


def own_prefix(model: nn.Module) -> int:
    """Return the number of a model's own prefix tokens: CLS and trained registers."""
    registers = registers_of(model)
    return int(cast(Any, model).num_prefix_tokens) - (registers.tokens if registers else 0)


def shown_prefix(model: nn.Module) -> int:
    """Return the number of prefix tokens in the values that the tap returns."""
    hidden = getattr(model, _MARK, (None, False))[1]
    return own_prefix(model) if hidden else int(cast(Any, model).num_prefix_tokens)


def append_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return the tokens (B, P+N, C) of a model with its appended ones, zeros, after P."""
    registers = registers_of(model)
    if registers is None:
        return tokens
    start = own_prefix(model)
    # Not len(), which torch.export would take for a constant.
    zeros = tokens.new_zeros(tokens.shape[0], registers.tokens, tokens.shape[2])
    return torch.cat((tokens[:, :start], zeros, tokens[:, start:]), dim=1)


def without_hidden(model: nn.Module, values: Tensor, dim: int) -> Tensor:
    """Return values without the appended tokens along `dim`, if the model hides them."""
    start, extra = own_prefix(model), int(cast(Any, model).num_prefix_tokens)
    if extra == shown_prefix(model):
        return values
    last = values.shape[dim] - extra
    return torch.cat((values.narrow(dim, 0, start), values.narrow(dim, extra, last)), dim=dim)


@contextmanager
def recorded_neurons(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record each block's neurons (B, P+N, M) of the passes inside; the list is in their order.

    Raises UsageError (option "registers") for a model with other MLPs.
    """
    records: list[Tensor] = []
    mlps = [block.mlp for block in cast(Any, model).blocks]
    stages = [_stage(mlp) for mlp in mlps]
    try:
        for mlp, stage in zip(mlps, stages, strict=True):
            mlp.drop1 = _Recorder(stage, records)
        yield records
    finally:
        for mlp, stage in zip(mlps, stages, strict=True):
            mlp.drop1 = stage


class _Recorder(nn.Module):
    def __init__(self, stage: nn.Module, records: list[Tensor]) -> None:
        super().__init__()
        self.stage, self.records = stage, records

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(x)
        self.records.append(x)
        return x


def _stage(mlp: Any) -> nn.Module:
    """Return the dropout after an MLP's activation: of timm's Mlp, SwiGLU and GluMlp."""
    stage = getattr(mlp, "drop1", None)
    if not isinstance(stage, nn.Dropout | nn.Identity):
        text = f"the neurons of {type(mlp).__name__} cannot be read; use none"
        raise UsageError(text, option="registers")
    return stage


def _shift_prefix(model: nn.Module, count: int) -> None:
    """Count so many prefix tokens more; rotary attention counts them, too."""
    m = cast(Any, model)
    m.num_prefix_tokens += count
    for block in m.blocks:
        if hasattr(block.attn, "num_prefix_tokens"):
            block.attn.num_prefix_tokens += count
