"""The object maps of a batch: cached by `gta discover`, or computed in every view."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtacli.data.base import Record
from gtacli.data.loader import Batch
from gtacli.discovery import Discovery
from gtacli.discovery.build import make_backend
from gtacli.discovery.maps import MapCache
from gtacli.errors import GtaError
from gtacli.images.sources import ImageList
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.models.packed_linear import pack
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import Processes

log = logging.getLogger(__name__)
_TRIED = 1000
"""Images of a stream of which one at least must have a map."""


class MapSource(Protocol):
    """A source of object maps.

    Attributes:
        fingerprint: of everything that the maps depend on.
    """

    fingerprint: str

    def maps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the maps of a batch.

        Returns: maps (B, mh, mw), bytes or floats in [0, 1], and what the views show of them
            (B, 5), as `Batch.crops`.
        """
        ...


def open_cache(folder: Path, backend: str) -> MapCache:
    """Open a cache of maps. Raises GtaError if another back-end than `backend` made them."""
    cache = MapCache(folder)
    made_by = cache.manifest.backend
    if backend not in ("", "none", made_by):
        text = f"{folder} holds maps of {made_by}, not of `guide={backend}`"
        raise GtaError(text, option="maps")
    return cache


class CachedMaps:
    """The maps in a cache of `gta discover`, of whole images, which each view crops.

    An image without a map is treated as one without an object.

    Args:
        folder: of the cache.
        backend: the back-end whose maps are expected; "" or "none": any.
        records: the images, as the loader numbers them.
        repeats: views of each image in an epoch, which have numbers of their own.
        processes: share the run; the first one looks the images up.

    Raises GtaError if the cache has no map of these images, or maps of another back-end.
    """

    def __init__(
        self,
        folder: Path,
        backend: str,
        records: tuple[Record, ...],
        repeats: int,
        processes: Processes,
    ) -> None:
        self.cache = open_cache(folder, backend)
        sources = ImageList(record.path for record in records)
        self.rows = processes.run_on_main(lambda: self.cache.rows(sources))
        missing = int((self.rows < 0).sum())
        if missing == len(records):
            raise GtaError(
                f"{folder} holds {len(self.cache)} maps, but none of the {missing} images in "
                "`data`; create them with gta discover",
                option="maps",
            )
        if missing:
            log.warning(
                "`maps`: %d of %d images have no map in %s and are treated as without an object; "
                "create them with gta discover",
                missing,
                len(records),
                folder,
            )
        known = self.rows >= 0
        contents = self.cache.contents(self.rows[known])
        self.fingerprint = _digest(self.cache.manifest.text, known.tobytes() + contents.tobytes())
        self._repeats = repeats
        self._none = np.zeros(self.cache.grid, np.uint8)

    def maps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self.rows[(batch.indices // self._repeats).numpy()]
        return torch.from_numpy(_stack_maps(self.cache, rows, self._none)), batch.crops


class StreamedMaps:
    """The maps in a cache of `gta discover`, looked up by the digests of a stream's images.

    An image without a map is treated as one without an object.

    Args:
        folder, backend: see `CachedMaps`.
    """

    def __init__(self, folder: Path, backend: str) -> None:
        self.cache = open_cache(folder, backend)
        self.fingerprint = self.cache.fingerprint()
        self._none = np.zeros(self.cache.grid, np.uint8)
        self._found = self._missing = self._told = 0

    def maps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.contents is None:  # a trial step
            return torch.zeros(len(batch.indices), *self.cache.grid, dtype=torch.uint8), batch.crops
        rows = self.cache.find_rows(batch.contents.numpy())
        self._missing += int((rows < 0).sum())
        self._found += int((rows >= 0).sum())
        self._require_some()
        maps = _stack_maps(self.cache, rows, self._none)
        return torch.from_numpy(maps), batch.crops

    def _require_some(self) -> None:
        """Raise GtaError if none of the first images has a map."""
        if not self._found and self._missing >= _TRIED:
            raise GtaError(
                f"{self.cache.folder} holds {len(self.cache)} maps, but none of the first "
                f"{self._missing:,} images of `data`; create them with gta discover",
                option="maps",
            )

    def summarize(self) -> None:
        """Log how many images of this process have no map, if there are more than before."""
        if self._missing > self._told:
            log.warning(
                "`maps`: %.3g %% of the images looked up so far have no map in %s and are treated "
                "as without an object; create them with gta discover",
                100 * self._missing / (self._missing + self._found),
                self.cache.folder,
            )
        self._told = self._missing


class OnlineMaps:
    """The maps that a frozen teacher computes for each view, at the teacher's own size.

    Args:
        teacher: moved to the device here.
        name: of the back-end.
        options: of the back-end; the others have their defaults.

    Raises UsageError for a back-end that does not support the teacher.
    """

    def __init__(
        self, teacher: LoadedModel, name: str, options: dict[str, Any], compute: Compute
    ) -> None:
        teacher.model.to(compute.device).requires_grad_(False)
        self.backend: Discovery[Any] = make_backend(name, options, teacher)
        chosen = self.backend.options.model_dump_json()
        what = f"{name} {self.backend.version} {chosen} {teacher.image_size}"
        self.fingerprint = _digest(what, fingerprint(teacher.model).encode())
        self._compute = compute.frozen
        if not self.backend.needs_gradients:
            pack(teacher.model, self._compute.dtype)
        self._view = teacher.view(compute.device)

    def maps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        whole = batch.crops.new_tensor([0, 0, 1, 1, 0]).expand(len(batch.images), 5)
        if not len(batch.images):
            return batch.crops.new_zeros(0, 1, 1), whole
        pixels = batch.images.to(self._compute.device, non_blocking=True)
        with torch.no_grad(), self._compute.autocast():
            return self.backend.find(self._view(pixels)).maps.float(), whole


def _stack_maps(
    cache: MapCache, rows: NDArray[np.int64], none: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the maps in rows of a cache (B, gh, gw), with `none` for a row below 0."""
    found = [none if row < 0 else cache[row] for row in rows.tolist()]
    return np.stack(found) if found else np.empty((0, *cache.grid), np.uint8)


def _digest(text: str, data: bytes) -> str:
    return hashlib.sha256(text.encode() + data).hexdigest()
