"""Features that several commands extract: one part of what is missing, or all parts handed out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gtacli.data.base import Record
from gtacli.models.feature_columns import FeatureColumn
from gtacli.models.loading import LoadedModel
from gtacli.probing.features.cache import FeatureCache, count_blocks
from gtacli.runtime.ownership import is_owned, owned

AtWork = Callable[[tuple[int, int]], bool]
"""Given a part (i, n), returns whether a process is at work on it."""
HandOut = Callable[[LoadedModel, int, AtWork], object]
"""Given a model and the most parts that have images, has all parts extracted."""


class PartDone(Exception):
    """A part of the missing features is extracted; they are not whole yet."""


@dataclass(frozen=True)
class FeatureParts:
    """The parts of the features that a cache lacks.

    Attributes:
        cache: that all parts share.
        part: (i, n): the i-th of n parts is extracted here, and nothing is measured.
        hand_out: has all parts extracted by others.
    """

    cache: FeatureCache
    part: tuple[int, int] = (0, 1)
    hand_out: HandOut | None = None

    def extract(
        self,
        model: LoadedModel,
        sets: Sequence[Sequence[Record]],
        columns: Sequence[FeatureColumn],
    ) -> None:
        """Extract this command's part of what is missing of a model, or have others extract all.

        Args:
            sets: of images, each with a file of its own for each column.

        Raises PartDone where this command extracts one part, also if nothing is missing.
        """
        keys = [key for records in sets for key in self.cache.keys(model, records, columns)]
        name = min(key.digest for key in keys)

        def lock(part: tuple[int, int]) -> str:
            return f"{name}-{part[0]}-of-{part[1]}"

        if self.part[1] > 1:
            # Not the files, which the command that merges the parts owns.
            with owned(self.cache.folder, "probe", lock(self.part), "cache", patience=math.inf):
                for records in sets:
                    self.cache.write_part(model, records, columns, self.part)
            raise PartDone
        if self.hand_out is not None and self._is_missing(model, sets, columns):
            with self.cache.owned(keys):
                if self._is_missing(model, sets, columns):  # another command may have been first
                    most = max(map(count_blocks, map(len, sets)))
                    self.hand_out(model, most, lambda part: is_owned(self.cache.folder, lock(part)))

    def _is_missing(
        self,
        model: LoadedModel,
        sets: Sequence[Sequence[Record]],
        columns: Sequence[FeatureColumn],
    ) -> bool:
        return any(self.cache.missing(model, records, columns) for records in sets)
