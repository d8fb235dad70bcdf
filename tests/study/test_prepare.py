"""Tests of how a study's datasets are read at its start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gtacli.config.study import read_study
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError
from gtacli.study.plan import make_plan
from gtacli.study.prepare import begin

STUDY = """
command = "pretrain"
[fixed]
data = "PHOTOS"
model = "vit_tiny_patch16_224"
[grid]
seed = [0, 1]
"""


@pytest.fixture
def photos(tmp_path: Path, make_image: Callable[..., Path]) -> Path:
    for name in ("a.png", "test/b.png"):
        make_image(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_pretraining_needs_no_labels(photos: Path, tmp_path: Path) -> None:
    text = STUDY.replace("PHOTOS", str(photos))
    folder = begin(tmp_path / "s", text, make_plan(read_study(text, "s.toml"), "s.toml"))
    # As the training itself records it, or every cell would seem to have trained on other data.
    assert folder.inputs.data == {str(photos): load_images(str(photos)).fingerprint()}


def test_a_probe_of_its_result_needs_them_at_once(photos: Path, tmp_path: Path) -> None:
    text = STUDY.replace("PHOTOS", str(photos)) + '[[then]]\ncommand = "probe knn"\n'
    plan = make_plan(read_study(text, "s.toml"), "s.toml")
    with pytest.raises(GtaError, match="no class folder"):
        begin(tmp_path / "s", text, plan)
