"""Linear layers of frozen networks on the CPU's fused matrix kernels, with their weights packed.

`nn.Linear` copies the bias to the output and then adds the product; GELU reads and writes the
widest activation of the block again. oneDNN's linear does all three in one pass, but has no
gradient, so it is used for networks that are only read, not for trained matrices. Packed weights
are a copy; a source that shares its weights with the target is fused without it, which is 2 %
slower. These are the operators that inductor's freezing emits. If they are missing or the device is
not a CPU, the network stays unchanged.

In bf16 the matrices are rounded once, when they are packed; autocast alone would do it in every
pass. The layers' inputs and outputs are bf16 then, and autocast leaves the sums between blocks and
the norms in fp32: a ViT-Small reads 3 times the images of packed fp32 with AMX, and its logits are
closer to those of fp32 than a network's that is bf16 throughout.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any, cast

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


@cache
def is_packable(dtype: torch.dtype) -> bool:
    """Return whether this CPU's kernels multiply packed matrices of a dtype: fp32 or bf16."""
    if dtype not in (torch.float32, torch.bfloat16) or not is_fusible(torch.zeros(1)):
        return False
    layer = nn.Linear(32, 32)
    x = torch.ones(4, 32)
    try:
        with torch.inference_mode():
            # Asked of the kernels themselves: builds for other processors lack some of them.
            return torch.allclose(PackedLinear(layer, dtype=dtype)(x).float(), layer(x), atol=0.1)
    except (RuntimeError, NotImplementedError):
        return False


class FusedLinear(nn.Module):
    """A linear layer with activation, x (..., in) -> act(x W^T + b) (..., out), in one kernel.

    Args:
        linear: the layer that it replaces; its parameters are taken over as they are.
        activation: "none" or "gelu" (the exact one).
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, activation: str = "none") -> None:
        super().__init__()
        self.bias = linear.bias
        self.activation = activation
        self.weight = linear.weight

    @property
    def matrix(self) -> Tensor:
        """The weights as the kernel takes them."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        return fused_linear(x, self.matrix, self.bias, self.activation)


class PackedLinear(FusedLinear):
    """A fused linear layer with W packed for the kernel.

    Args:
        dtype: of W, of the product's input and of its result: fp32 or bf16.
    """

    def __init__(
        self, linear: nn.Linear, activation: str = "none", dtype: torch.dtype = torch.float32
    ) -> None:
        nn.Module.__init__(self)
        self.bias = linear.bias
        self.activation = activation
        self.dtype = dtype
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), None)
        # Not a buffer: packed memory cannot be saved, copied or moved.
        self.__dict__["packed"] = packed
        self._added = None if self.bias is None else self.bias.detach().to(dtype)

    @property
    def matrix(self) -> Tensor:
        return cast(Tensor, self.__dict__["packed"])

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """Return W (out, in) in fp32, unpacked at each access."""
        return self.matrix.to_dense().float()

    def forward(self, x: Tensor) -> Tensor:
        return fused_linear(x.to(self.dtype), self.matrix, self._added, self.activation)


def pack(model: nn.Module, dtype: torch.dtype = torch.float32, shared: bool = False) -> nn.Module:
    """Fuse the linear layers of a frozen fp32 network on the CPU in place; leave any other as is.

    A packed network can run, but it cannot be copied and its state_dict is incomplete. In bf16 it
    runs in autocast alone.

    Args:
        dtype: of the products: fp32 or bf16; nothing is done for another one.
        shared: the weights are another network's, too, and are not copied: in fp32 the layers
            keep them as they are; in bf16 nothing is done, and autocast rounds them in each pass.
    """
    if not is_packable(dtype) or not all(map(is_fusible, model.parameters())):
        return model
    if shared and dtype != torch.float32:
        return model

    def fused(layer: nn.Linear, activation: str) -> FusedLinear:
        if shared:
            return FusedLinear(layer, activation)
        return PackedLinear(layer, activation, dtype)

    for module in model.modules():
        fuse = (
            type(module) is Mlp and type(module.act) is nn.GELU and module.act.approximate == "none"
        )
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                gelu = fuse and name == "fc1"
                setattr(module, name, fused(child, "gelu" if gelu else "none"))
        if fuse:
            module.act = nn.Identity()
    return model


def packed_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a packed copy that shares all other tensors with the model, which stays as it is."""
    tensors: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return pack(deepcopy(model, tensors), dtype)
