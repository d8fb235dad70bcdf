"""What models are called in tables, titles and folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path


def short_names(specs: Sequence[str]) -> list[str]:
    """A name for each spec, fit for a folder's, no two alike: a file's or folder's own, with those
    above it as far as they are needed to tell them apart; -2 where a spec comes again."""
    parts = [_parts(spec) for spec in specs]
    depth = 1
    while len({p[-depth:] for p in parts}) < len(set(parts)):
        depth += 1
    names: list[str] = []
    for each in parts:
        name = re.sub(r"[^\w.=+-]+", "_", "/".join(each[-depth:])).strip(".") or "model"
        again = (name, *(f"{name}-{i}" for i in range(2, len(parts) + 2)))
        names.append(next(candidate for candidate in again if candidate not in names))
    return names


def _parts(spec: str) -> tuple[str, ...]:
    """Of ARCH@FILE the file's."""
    path = Path(spec.partition("@")[2] or spec)
    path = path.resolve() if path.exists() else path
    *above, last = path.parts or (spec,)
    return (*above, last.removesuffix(".safetensors").removesuffix(".pth") or last)
