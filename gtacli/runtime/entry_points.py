"""The entry points of the installed distributions, read once for as long as nothing is installed.

Reading them parses the metadata of every distribution (some 40 ms in an environment of two
hundred), and a check of a study asks hundreds of times.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata

PREFIX = "gta."


@dataclass(frozen=True)
class InstalledPoint:
    """An entry point and the distribution that offers it.

    Attributes:
        group: such as "gta.regularizers".
        name: the name within the group.
        value: "module:attribute".
        distribution: the distribution's name.
        version: its version; empty if its metadata does not say.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str


def installed_points(group: str, name: str | None = None) -> list[InstalledPoint]:
    """Return the entry points of one of our groups, of all names or of one."""
    places = tuple((path, _state(path)) for path in sys.path)
    found = _read(places).get(group, ())
    return [point for point in found if name is None or point.name == name]


def _state(path: str) -> tuple[int, int, int] | None:
    """Return what changes when something is installed in a folder; None if there is no folder."""
    try:
        status = os.stat(path or ".")
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=4)
def _read(places: object) -> dict[str, list[InstalledPoint]]:
    """Return our entry points by group; `places` is only the key under which they are kept."""
    found: dict[str, list[InstalledPoint]] = {}
    names: dict[int, tuple[str, str]] = {}
    points = metadata.entry_points()
    for group in sorted(group for group in points.groups if group.startswith(PREFIX)):
        for point in points.select(group=group):
            dist = point.dist  # one object for all of its points; each look at it parses its file
            if id(dist) not in names:
                names[id(dist)] = _name_and_version(dist)
            own = InstalledPoint(group, point.name, point.value, *names[id(dist)])
            found.setdefault(group, []).append(own)
    return found


def _name_and_version(dist: metadata.Distribution | None) -> tuple[str, str]:
    try:
        if dist is not None:
            return str(dist.name), str(dist.version)
    except Exception:  # metadata without a name or a version
        pass
    return "(unknown distribution)", ""
