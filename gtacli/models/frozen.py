"""A frozen network's linear layers with their weights packed once for the CPU's matrix kernels.

`nn.Linear` first copies the bias into the output and then adds the product; GELU reads and writes
the widest activation of the block once more. oneDNN's linear does all three in one pass, but only
for weights that no longer change, so it serves the source of a fine-tuning run and nothing that
learns. These are the operators that inductor's freezing emits; where they are missing, or the
device is not a CPU, or the precision not fp32, the network stays as it is.
"""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import Mlp
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """x (..., in) -> act(x W^T + b) (..., out) with W packed, and kept in that form alone.

    Args:
        linear: the layer whose place it takes.
        activation: "none" or "gelu" (the exact one).
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.bias = linear.bias
        self.activation = activation
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        # A plain attribute: packed memory can neither be saved, copied nor moved.
        self.__dict__["packed"] = packed

    @property
    def weight(self) -> Tensor:
        """W (out, in) as it was, unpacked anew each time."""
        return cast(Tensor, self.__dict__["packed"]).to_dense()

    def forward(self, x: Tensor) -> Tensor:
        return cast(
            Tensor,
            torch.ops.mkldnn._linear_pointwise(
                x, self.packed, self.bias, self.activation, [], "none"
            ),
        )


def pack(model: nn.Module) -> nn.Module:
    """Pack the linear layers of a frozen fp32 network on the CPU, in place; else do nothing.

    Afterwards it can run and be read, but neither be copied nor give its state_dict.
    """
    weights = list(model.parameters())
    if not (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and all(p.device.type == "cpu" and p.dtype == torch.float32 for p in weights)
    ):
        return model
    for module in model.modules():
        fuse = (
            type(module) is Mlp and type(module.act) is nn.GELU and module.act.approximate == "none"
        )
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                gelu = fuse and name == "fc1"
                setattr(module, name, PackedLinear(child, "gelu" if gelu else "none"))
        if fuse:
            module.act = nn.Identity()
    return model
