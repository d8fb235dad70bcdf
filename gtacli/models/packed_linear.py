"""Linear layers of frozen networks with their weights packed for the CPU's matrix kernels.

`nn.Linear` copies the bias to the output and then adds the product; GELU reads and writes the
widest activation of the block again. oneDNN's linear does all three in one pass, but only for
constant weights, so it is used for the source of a fine-tuning run, not for trained networks. These
are the operators that inductor's freezing emits. If they are missing, the device is not a CPU or
the precision is not fp32, the network stays unchanged.
"""

from __future__ import annotations

from typing import cast

import torch
from timm.layers import Mlp
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer with activation, x (..., in) -> act(x W^T + b) (..., out), with W packed.

    Args:
        linear: the layer that it replaces.
        activation: "none" or "gelu" (the exact one).
    """

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.bias = linear.bias
        self.activation = activation
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        # Not a buffer: packed memory cannot be saved, copied or moved.
        self.__dict__["packed"] = packed

    @property
    def weight(self) -> Tensor:
        """Return W (out, in), unpacked at each access."""
        return cast(Tensor, self.__dict__["packed"]).to_dense()

    def forward(self, x: Tensor) -> Tensor:
        return cast(
            Tensor,
            torch.ops.mkldnn._linear_pointwise(
                x, self.packed, self.bias, self.activation, [], "none"
            ),
        )


def pack(model: nn.Module) -> nn.Module:
    """Pack the linear layers of a frozen fp32 network on the CPU in place; leave any other as is.

    A packed network can run, but it cannot be copied and its state_dict is incomplete.
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
