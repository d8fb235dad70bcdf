"""The object maps of a batch: cached by `gta discover`, or computed in every view."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gtacli.data.base import Record
from gtacli.data.loader import Batch
from gtacli.discovery import Discovery
from gtacli.discovery.build import make_backend
from gtacli.discovery.maps import MapCache
from gtacli.errors import GtaError
from gtacli.models.fingerprint import fingerprint
from gtacli.models.loading import LoadedModel
from gtacli.models.packed_linear import pack
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import Processes

log = logging.getLogger(__name__)


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
        self.cache = MapCache(folder)
        made_by = self.cache.manifest.backend
        if backend not in ("", "none", made_by):
            text = f"{folder} holds maps of {made_by}, not of `guide={backend}`"
            raise GtaError(text, option="maps")
        sources = [record.path for record in records]
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
        rows = self.rows[(batch.indices // self._repeats).numpy()].tolist()
        found = [self._none if row < 0 else self.cache[row] for row in rows]
        maps = np.stack(found) if found else np.empty((0, *self.cache.grid), np.uint8)
        return torch.from_numpy(maps), batch.crops


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


def _digest(text: str, data: bytes) -> str:
    return hashlib.sha256(text.encode() + data).hexdigest()
