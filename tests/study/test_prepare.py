"""Tests of how a study's datasets are read at its start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gtacli.config.study import read_study
from gtacli.data import load_dataset
from gtacli.data.learnable import without_unseen
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


def test_the_fingerprint_is_that_of_what_is_trained_on(tiny_data: Path, tmp_path: Path) -> None:
    """It has no class that only test images have; a run records it so."""
    (tiny_data / "test" / "unseen").mkdir()
    shutil.copy(next((tiny_data / "test" / "red").iterdir()), tiny_data / "test" / "unseen")
    text = STUDY.replace("PHOTOS", str(tiny_data)).replace("pretrain", "finetune")
    text += '[[then]]\ncommand = "probe retrieval"\n'
    folder = begin(tmp_path / "s", text, make_plan(read_study(text, "s.toml"), "s.toml"))
    trained = without_unseen(load_dataset(str(tiny_data)))
    assert folder.inputs.data == {str(tiny_data): trained.fingerprint()}


def test_the_fingerprint_of_a_table_with_a_row_without_a_label(
    tiny_data: Path, tmp_path: Path
) -> None:
    """Pre-training learns from all its rows, the probe that follows from those with one."""
    rows = [f"{path},{path.parent.name},train" for path in sorted(tiny_data.rglob("*.png"))]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,split", *rows, rows[0].replace(",blue", ",")]))
    text = STUDY.replace("PHOTOS", str(table)) + '[[then]]\ncommand = "probe knn"\n'
    folder = begin(tmp_path / "s", text, make_plan(read_study(text, "s.toml"), "s.toml"))
    assert folder.inputs.data == {str(table): load_images(str(table)).fingerprint()}


def test_images_of_a_ground_truth_have_no_classes(
    photos: Path, tiny_data: Path, tmp_path: Path
) -> None:
    text = STUDY.replace("PHOTOS", str(tiny_data)) + (
        f'[[then]]\ncommand = "probe retrieval"\ndata = "{photos}"\nground_truth = "gnd.pkl"\n'
    )
    folder = begin(tmp_path / "s", text, make_plan(read_study(text, "s.toml"), "s.toml"))
    assert [*folder.inputs.data] == [str(tiny_data), str(photos)]


def test_a_probe_of_its_result_needs_them_at_once(photos: Path, tmp_path: Path) -> None:
    text = STUDY.replace("PHOTOS", str(photos)) + '[[then]]\ncommand = "probe knn"\n'
    plan = make_plan(read_study(text, "s.toml"), "s.toml")
    with pytest.raises(GtaError, match="no class folder"):
        begin(tmp_path / "s", text, plan)
