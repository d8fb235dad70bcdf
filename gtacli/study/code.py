"""The digest of the code that computes results: equal digests, comparable results."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# What only prints, draws or runs other code changes no number.
_WITHOUT_RESULTS = frozenset(["cli", "demo", "executors", "rendering", "report", "study"])
_PACKAGES = ("torch", "torchvision", "timm", "kornia", "numpy", "scipy", "pillow")


@cache
def code_digest() -> str:
    """Return a digest of gta's modules that train and measure, and of the packages' versions."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        place = path.relative_to(_PACKAGE)
        if place.parts[0] not in _WITHOUT_RESULTS:
            digest.update(f"{place.as_posix()}\0".encode() + path.read_bytes())
    for name in _PACKAGES:
        digest.update(f"{name} {metadata.version(name)}\n".encode())
    return digest.hexdigest()[:16]
