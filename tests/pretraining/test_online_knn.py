"""Tests of the k-NN accuracy during a pre-training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gtacli.data.spec import load_dataset
from gtacli.pretraining.online_knn import OnlineKnn


def job(data: Path, every: int | None, val: bool) -> Any:
    dataset = load_dataset(str(data))
    if val:
        dataset = replace(dataset, splits={"train": dataset["train"], "val": dataset["test"]})
    return SimpleNamespace(dataset=dataset, config=SimpleNamespace(seed=0, knn_every=every))


@pytest.mark.parametrize(("every", "val", "told"), [(1, False, 1), (0, False, 0), (1, True, 0)])
def test_images_that_are_trained_on_are_not_classified_without_a_word(
    tiny_data: Path, caplog: pytest.LogCaptureFixture, every: int, val: bool, told: int
) -> None:
    caplog.set_level("INFO")
    run = job(tiny_data, every, val)
    OnlineKnn(run, run.dataset)
    assert caplog.text.count("images that the encoder is trained on") == told
