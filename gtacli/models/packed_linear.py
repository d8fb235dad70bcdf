"""Linear layers of frozen networks on the CPU's fused matrix kernels, with their weights packed.

`nn.Linear` copies the bias to the output and then adds the product; GELU reads and writes the
widest activation of the block again. oneDNN's linear does all three in one pass, but has no
gradient, so it is used for the source of a fine-tuning run, not for trained matrices. Packed
weights are a copy; a source that shares its weights with the target is fused without it, which is
2 % slower. These are the operators that inductor's freezing emits. If they are missing, the device
is not a CPU or the precision is not fp32, the network stays unchanged.
"""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import Mlp
from torch import Tensor, nn


def is_fusible(x: Tensor) -> bool:
    """Return whether the fused kernels take a tensor: fp32 on the CPU, outside `torch.compile`."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def fused_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none"
) -> Tensor:
    """Return act(x W^T + b) from one kernel, without a gradient."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none"))


class FusedLinear(nn.Module):
    """A linear layer with activation, x (..., in) -> act(x W^T + b) (..., out), in one kernel.

    Args:
        linear: the layer that it replaces; its parameters are taken over as they are.
        activation: "none" or "gelu" (the exact one).
    """

    weight: Tensor

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.bias = linear.bias
        self.activation = activation
        self._store(linear.weight)

    def _store(self, weight: Tensor) -> None:
        self.weight = weight

    @property
    def matrix(self) -> Tensor:
        """The weights as the kernel takes them."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return fused_linear(x, self.matrix, self.bias, self.activation)


class PackedLinear(FusedLinear):
    """A fused linear layer with W packed for the kernel."""

    def _store(self, weight: Tensor) -> None:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        # Not a buffer: packed memory cannot be saved, copied or moved.
        self.__dict__["packed"] = packed

    @property
    def matrix(self) -> Tensor:
        return cast(Tensor, self.__dict__["packed"])

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return W (out, in), unpacked at each access."""
        return self.matrix.to_dense()


def pack(model: nn.Module, copy: bool = True) -> nn.Module:
    """Fuse the linear layers of a frozen fp32 network on the CPU in place; leave any other as is.

    A packed network can run, but it cannot be copied and its state_dict is incomplete.

    Args:
        copy: pack the weights; else the layers keep them as they are, and may share them.
    """
    if not all(map(is_fusible, model.parameters())):
        return model
    kind = PackedLinear if copy else FusedLinear
    for module in model.modules():
        fuse = (
            type(module) is Mlp and type(module.act) is nn.GELU and module.act.approximate == "none"
        )
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                gelu = fuse and name == "fc1"
                setattr(module, name, kind(child, "gelu" if gelu else "none"))
        if fuse:
            module.act = nn.Identity()
    return model
