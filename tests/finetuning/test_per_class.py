"""Tests of class balance and accuracy by class."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.functional.classification import multiclass_accuracy

from gtacli import load_model
from gtacli.config.finetune import FinetuneConfig
from gtacli.finetuning.per_class import log_balance, mean_class_accuracy, worst_classes
from gtacli.finetuning.run import finetune

Make = Callable[..., FinetuneConfig]


def counts(**train: int) -> dict[str, dict[str, int]]:
    return {name: {"available": n, "train": n, "val": 0, "test": 1} for name, n in train.items()}


def test_balance_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_balance(counts(wren=4, robin=10, crow=25))
    assert caplog.messages == [
        "39 training images in 3 classes, from 4 (wren) to 25 (crow), imbalance 6.2; "
        "1 (wren) with fewer than 5"
    ]
    caplog.clear()
    log_balance(counts(wren=8, robin=8))
    assert caplog.messages == ["16 training images in 2 classes, 8 in each"]


def test_class_without_images_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    log_balance(counts(wren=8, a=0, b=0, c=0, d=0))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith(
        "classes without training images, which cannot be predicted: 4 (a, b, c, ...)"
    )


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_mean_class_accuracy_matches_torchmetrics(pairs: list[tuple[int, int]]) -> None:
    truth, said = (torch.tensor(part) for part in zip(*pairs, strict=True))
    by_class = [
        (int(((truth == c) & (said == c)).sum()), int((truth == c).sum())) for c in range(5)
    ]
    recalls = multiclass_accuracy(said, truth, 5, average="none")
    expected = recalls[[images > 0 for _, images in by_class]].mean()
    assert mean_class_accuracy(by_class) == pytest.approx(float(expected))


def test_worst_classes() -> None:
    names = ["a", "b", "c", "d", "e", "f", "g"]
    by_class = [(3, 3), (0, 2), (1, 2), (0, 5), (0, 0), (2, 3), (9, 10)]
    assert [(row["class"], row["n_test"]) for row in worst_classes(names, by_class)] == [
        ("d", 5), ("b", 2), ("c", 2), ("f", 3), ("g", 10),
    ]  # fmt: skip
    assert mean_class_accuracy([(0, 0)]) is None


def test_summary_fields(config: Make, recorder: Any, tiny_data: Path, tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        (tiny_data / "test" / "red" / name).unlink()
    shutil.copy(tiny_data / "train" / "red" / "0.png", tiny_data / "test" / "blue" / "red.png")
    summary = finetune(config(batch_size=2), recorder)
    loaded = load_model(str(tmp_path / "run"))
    hits: dict[str, list[bool]] = {}
    for image in sorted((tiny_data / "test").rglob("*.png")):
        with torch.no_grad():
            said = loaded.model(loaded.preprocess(Image.open(image))[None]).argmax()
        hits.setdefault(image.parent.name, []).append(loaded.classes[said] == image.parent.name)
    shares = {name: sum(h) / len(h) for name, h in hits.items()}
    assert summary["test_mean_class_top1"] == pytest.approx(sum(shares.values()) / 3)
    assert summary["test_mean_class_top1"] != pytest.approx(summary["test_top1"])
    worst = {row["class"]: (row["top1"], row["n_test"]) for row in summary["worst_classes"]}
    assert worst == {n: (shares[n], len(hits[n])) for n in hits if shares[n] < 1}
    assert worst
