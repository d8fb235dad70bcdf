"""What the maps of a cache are: all that decides their values beside the images themselves.

It is the cache's manifest. Maps of another kind never enter the cache, so none is ever used for
what it is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gtacli.config.base import StrictModel
from gtacli.errors import GtaError, UsageError

MANIFEST = "manifest.json"
FORMAT = 1  # of the cache's files
METHOD = 1  # from an image's bytes to its map: decoding, resizing, rounding to 256 levels


class MapKind(StrictModel):
    """Attributes:
    model: how the network was named; the only value that decides nothing.
    fingerprint: of the network; see `gtacli.models.fingerprint`.
    backend, backend_version, options: the discovery back-end, whole.
    image_size: (h, w) that the network sees of each image.
    interpolation, mean, std: how it is brought to that.
    precision: of the arithmetic.
    grid: (gh, gw) of each map.
    format, method: versions of the files and of the way from image to map.
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
        return self.model_dump_json(indent=1) + "\n"

    def difference(self, other: MapKind) -> str | None:
        """Of what these maps are and others are not, in words; None: they are of one kind."""
        mine, theirs = dict(self._values()), dict(other._values())
        for name in {**mine, **theirs}:
            if mine.get(name) != theirs.get(name):
                return _words(name, mine.get(name), theirs.get(name))
        return None

    def _values(self) -> Iterator[tuple[str, Any]]:
        # As text, so that a 1.0 that came back from JSON as 1 is no difference.
        for name, value in json.loads(self.text).items():
            if name == "options":
                yield from value.items()
            elif name != "model":
                yield name, value


def _words(name: str, mine: object, other: object) -> str:
    if name == "fingerprint":
        return "another network (other weights)"
    mine, other = ("none" if value is None else json.dumps(value) for value in (mine, other))
    return f"another kind ({name.replace('_', ' ')} {mine}, here {other})"


def read_kind(folder: Path) -> MapKind:
    """What a cache holds. Raises GtaError where there is none, or one that cannot be read."""
    file = folder / MANIFEST
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise GtaError(f"{folder} holds no maps of gta discover ({MANIFEST} is missing)") from error
    except (OSError, ValueError) as error:
        raise GtaError(f"cannot read {file} ({error})") from error
    try:
        version = json.loads(text)["format"]
        if version != FORMAT:
            raise GtaError(f"{folder} has maps of format {version}; this gta reads {FORMAT}")
        return MapKind.model_validate_json(text)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise GtaError(f"{file} is damaged; --overwrite begins the cache anew") from error


def check_same(folder: Path, there: MapKind, here: MapKind) -> None:
    """Raises UsageError where the cache holds maps of another kind."""
    if difference := there.difference(here):
        raise UsageError(
            f"--out: {folder} holds maps of {difference}; choose another folder, or --overwrite"
        )
