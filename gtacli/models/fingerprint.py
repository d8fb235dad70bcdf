"""A fingerprint of a network: a digest of its tensors and of the modules that use them.

Caches of results of a network (maps, features, settings) are keyed by it, because a file name or a
timm tag does not determine the weights.
"""

from __future__ import annotations

import hashlib

import torch
from torch import nn

SETTINGS = ("num_heads", "eps", "approximate")
"""Attributes of modules that change their output and are not visible in a tensor's shape."""


def fingerprint(model: nn.Module, without: tuple[str, ...] = ()) -> str:
    """Return 64 hexadecimal digits that identify a network, the same on every device.

    They depend on the classes and settings of its modules (the same weights with another activation
    give other features), and on the names, types, shapes and bytes of its state. Buffers outside
    the state (rotary tables, computed from the image size) are not included: callers that depend
    on the image size add it to their key.

    Args:
        without: prefixes of names that are left out, such as those of the classifier.
    """
    digest = hashlib.sha256()
    for name, module in model.named_modules():
        if name.startswith(without):
            continue
        settings = [getattr(module, setting, None) for setting in SETTINGS]
        # Of most models it is timm's default; then it is left out, so that older caches stay valid.
        settings += [pool] if (pool := getattr(module, "global_pool", "token")) != "token" else []
        settings += getattr(module, "fingerprint_settings", [])
        digest.update(f"{name}\0{type(module).__qualname__}\0{settings}\n".encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(without):
            continue
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
