"""What tells one network from another: a digest of its tensors and of what computes with them.

A file's name or a timm tag says what was asked for; whoever keeps results of a network (maps,
features, settings) needs what it is.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

SETTINGS = ("num_heads", "eps", "approximate")
"""Of a module, what decides its output and is in no tensor's shape."""


def fingerprint(model: nn.Module) -> str:
    """64 hexadecimal digits over the classes and settings of its modules, and the names, types,
    shapes and bytes of its state: the same weights give other features behind another activation.

    The same on every device. Buffers that are no part of the state (rotary tables, made anew from
    the image size) do not count: who depends on the size says it beside.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        settings = [getattr(module, setting, None) for setting in SETTINGS]
        digest.update(f"{name}\0{type(module).__qualname__}\0{settings}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
