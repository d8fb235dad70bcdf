"""Short names of models for tables, titles and folders."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path


def short_names(specs: Sequence[str]) -> list[str]:
    """Return a unique name for each spec that is also valid as the name of a folder.

    The name of a file or folder, with as many parent folders as make the names unique; a repeated
    spec gets the suffix -2.
    """
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
    """Return the parts of the path; for ARCH@FILE those of the file."""
    path = Path(spec.partition("@")[2] or spec)
    path = path.resolve() if os.path.exists(path) else path
    *above, last = path.parts or (spec,)
    return (*above, last.removesuffix(".safetensors").removesuffix(".pth") or last)
