from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gtacli.data.spec import load_dataset
from gtacli.models import load_model
from gtacli.models.feature_columns import FeatureColumn
from gtacli.probing.features.cache import FeatureCache
from gtacli.probing.features.parts import AtWork, FeatureParts, PartDone
from gtacli.runtime.devices import choose_compute

LAST = (FeatureColumn(1, "cls"),)


def test_a_part_that_is_at_work_is_known(
    tmp_path: Path, class_folders: Callable[..., Path], small_vit: Callable[..., str]
) -> None:
    """Such as a job in a queue, whose command was killed: it was done twice."""
    dataset = load_dataset(str(class_folders(train=4, test=2)))
    sets, model = (dataset["train"], dataset["test"]), load_model(small_vit())
    told: list[tuple[int, AtWork]] = []

    def hand_out(model: Any, most: int, at_work: AtWork) -> None:
        told.append((most, at_work))

    class Looking(FeatureCache):
        """A cache that looks at both parts before it extracts one."""

        def write_part(self, model: Any, records: Any, columns: Any, part: Any) -> None:
            seen.append([at_work((0, 2)), at_work((1, 2))])
            super().write_part(model, records, columns, part)

    compute, seen = choose_compute("cpu", "fp32"), list[Sequence[bool]]()
    cache = Looking(tmp_path / "cache", compute)
    FeatureParts(cache, hand_out=hand_out).extract(model, sets, LAST)
    ((most, at_work),) = told
    assert most == len(dataset["train"])
    assert not at_work((0, 2))
    for part in ((0, 2), (1, 2)):
        with pytest.raises(PartDone):
            FeatureParts(cache, part).extract(model, sets, LAST)
    assert seen == [[True, False]] * 2 + [[False, True]] * 2
    assert not at_work((0, 2))
    features = [cache.features(model, records, LAST) for records in sets]
    assert [*map(len, features)] == [*map(len, sets)]
    (tmp_path / "cache" / f".gta-lock-{min(p.stem for p in cache.folder.iterdir())}-1-of-2").touch()
    cache.features(model, sets[0], LAST)
    cache.features(model, sets[1], LAST)
    assert len(list(cache.folder.iterdir())) == 2  # no lock of a part that was killed
    FeatureParts(cache, hand_out=hand_out).extract(model, sets, LAST)
    assert len(told) == 1  # nothing is missing
