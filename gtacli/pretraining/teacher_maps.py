"""Where the maps of a batch come from: kept by `gta discover`, or found anew in every view."""

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
from gtacli.runtime.devices import Compute
from gtacli.runtime.distribution import Processes

log = logging.getLogger(__name__)


class Guide(Protocol):
    """Tells where the objects of a batch are."""

    fingerprint: str
    """Of all that decides its maps."""

    def maps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, mh, mw) maps, bytes or floats in [0, 1], and (B, 5) what the views show of them, as
        `Batch.crops`."""
        ...


class KeptMaps:
    """The maps in a cache of `gta discover`, of whole images: they pass through each view's crop.

    An image without a map counts as one without an object.

    Args:
        folder: of the cache.
        backend: that is to have made them; "" or "none": any.
        records: the images, as the loader numbers them.
        repeats: views of each image in an epoch, which are numbered on their own.
        processes: that share the run; the first one looks the images up.

    Raises GtaError where it holds no map of these images, or another back-end's.
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
            raise GtaError(f"--maps: {folder} holds maps of {made_by}, not of {backend} (--guide)")
        sources = [record.path for record in records]
        self.rows = processes.run_on_main(lambda: self.cache.rows(sources))
        missing = int((self.rows < 0).sum())
        if missing == len(records):
            raise GtaError(
                f"--maps: {folder} holds {len(self.cache)} maps, none of the {missing} images in "
                "--data: gta discover makes theirs"
            )
        if missing:
            log.warning(
                "--maps: %d of %d images have no map in %s and count as without an object; "
                "gta discover makes them",
                *(missing, len(records), folder),
            )
        known = self.rows >= 0
        contents = self.cache.contents[self.rows[known]]
        self.fingerprint = _digest(self.cache.manifest.text, known.tobytes() + contents.tobytes())
        self._repeats = repeats
        self._none = np.zeros(self.cache.grid, np.uint8)

    def maps(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self.rows[(batch.indices // self._repeats).numpy()].tolist()
        found = [self._none if row < 0 else self.cache[row] for row in rows]
        maps = np.stack(found) if found else np.empty((0, *self.cache.grid), np.uint8)
        return torch.from_numpy(maps), batch.crops


class FoundMaps:
    """A frozen teacher's, found in each view as the student sees it, at the teacher's own size.

    Args:
        teacher: moved to the device.
        name: of the back-end.
        options: the back-end's, as far as they are given.

    Raises UsageError for a back-end that cannot read the teacher.
    """

    def __init__(
        self, teacher: LoadedModel, name: str, options: dict[str, Any], compute: Compute
    ) -> None:
        teacher.model.to(compute.device).requires_grad_(False)
        self.backend: Discovery[Any] = make_backend(name, options, teacher)
        chosen = self.backend.options.model_dump_json()
        what = f"{name} {self.backend.version} {chosen} {teacher.image_size}"
        self.fingerprint = _digest(what, fingerprint(teacher.model).encode())
        self._compute = compute
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
