"""What tells one network from another: a digest of its tensors.

A file's name or a timm tag says what was asked for; whoever keeps results of a network (maps,
features, settings) needs what it is.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module) -> str:
    """64 hexadecimal digits over the class, the names, types, shapes and bytes of its state.

    The same on every device. Buffers that are no part of the state (rotary tables, made anew from
    the image size) do not count: who depends on the size says it beside.
    """
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
