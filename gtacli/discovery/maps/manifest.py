"""The manifest of a cache of maps: everything that determines their values beside the images.

A cache with another manifest is never extended, so all of its maps are comparable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gtacli.config.base import StrictModel
from gtacli.errors import GtaError, UsageError
from gtacli.runtime.regular import read_regular
from gtacli.runtime.strict_json import parse_json, reason_of

MANIFEST = "manifest.json"
FORMAT = 1  # version of the cache's files
METHOD = 1  # version of decoding, resizing, and rounding maps to 256 levels


class MapManifest(StrictModel):
    """The properties that all maps of a cache share.

    Attributes:
        model: spec of the network; not compared.
        fingerprint: of the network; see `gtacli.models.fingerprint`.
        backend, backend_version, options: the discovery back-end.
        image_size: (h, w) of the network's input.
        interpolation, mean, std: of the preprocessing.
        precision: of the arithmetic.
        grid: (gh, gw) of each map.
        format, method: versions of the files and of the computation.
    """

    model: str
    fingerprint: str
    backend: str
    backend_version: int
    options: dict[str, Any]
    image_size: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    grid: tuple[int, int]
    format: int = FORMAT
    method: int = METHOD

    @property
    def text(self) -> str:
        """Return the content of the manifest file."""
        return self.model_dump_json(indent=1) + "\n"

    def difference(self, other: MapManifest) -> str | None:
        """Describe the first difference from another manifest; None if the maps are comparable."""
        mine, theirs = dict(self._values()), dict(other._values())
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                return _describe(name, mine.get(name), theirs.get(name))
        return None

    def _values(self) -> Iterator[tuple[str, Any]]:
        # As JSON, so that a 1.0 that was read back as 1 is not a difference.
        for name, value in json.loads(self.text).items():
            if name == "options":
                yield from value.items()
            elif name != "model":
                yield name, value


def _describe(name: str, mine: object, other: object) -> str:
    if name == "fingerprint":
        return "another network (other weights)"
    mine, other = ("none" if value is None else json.dumps(value) for value in (mine, other))
    return f"other settings ({name.replace('_', ' ')} {mine}, here {other})"


def read_manifest(folder: Path) -> MapManifest:
    """Read the manifest of a cache; raise GtaError if it is missing or damaged."""
    file = folder / MANIFEST
    try:
        text = read_regular(file)
    except FileNotFoundError as error:
        raise GtaError(f"{folder} has no maps of gta discover ({MANIFEST} is missing)") from error
    except (OSError, ValueError) as error:
        raise GtaError(f"cannot read {file} ({reason_of(error)})") from error
    try:
        version = parse_json(text)["format"]
        if version != FORMAT:
            raise GtaError(f"{folder} has maps of format {version}; this version reads {FORMAT}")
        return MapManifest.model_validate_json(text)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise GtaError(f"{file} is damaged; `overwrite` creates the cache again") from error


def check_manifest(folder: Path, there: MapManifest, here: MapManifest) -> None:
    """Raise UsageError (option "out") if the cache has maps with another manifest."""
    if difference := there.difference(here):
        raise UsageError(
            f"{folder} holds maps of {difference}; choose another folder, or set `overwrite`",
            option="out",
        )
