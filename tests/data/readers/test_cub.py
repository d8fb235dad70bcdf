"""Tests of the reader of CUB."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gtacli.data import load_dataset
from gtacli.data.learnable import require_seen
from gtacli.data.readers.cub import CUB
from gtacli.errors import GtaError

IMAGES = ["009.Wren/w1.jpg", "009.Wren/w2.jpg", "010.Owl/o1.jpg", "010.Owl/o2.jpg"]


@pytest.fixture
def cub(tmp_path: Path, make_image: Callable[..., Path]) -> Path:
    root = tmp_path / "CUB_200_2011"
    for seed, name in enumerate(IMAGES):
        make_image(root / "images" / name, seed=seed)
    write(root, "images", IMAGES)
    write(root, "image_class_labels", ["9", "9", "10", "10"])
    write(root, "train_test_split", ["1", "0", "1", "0"])
    (root / "classes.txt").write_text("9 009.Wren\n10 010.Owl\n")
    return root


def write(root: Path, name: str, values: list[str]) -> None:
    lines = [f"{number} {value}\n" for number, value in enumerate(values, start=1)]
    (root / f"{name}.txt").write_text("".join(lines))


def test_published_layout(cub: Path) -> None:
    data = load_dataset(str(cub))
    assert data.classes == ("009.Wren", "010.Owl")  # by number: 9 before 10
    assert [(r.key, r.label) for r in data["train"]] == [(IMAGES[0], 0), (IMAGES[2], 1)]
    assert [(r.key, r.label) for r in data["test"]] == [(IMAGES[1], 0), (IMAGES[3], 1)]
    assert data["train"][0].path.is_file()
    assert data["train"][0].mask is None


def test_parent_folder_without_classes(cub: Path, make_image: Callable[..., Path]) -> None:
    (cub / "classes.txt").unlink()
    mask = make_image(cub / "segmentations/009.Wren/w1.png")
    data = load_dataset(f"cub:{cub.parent}")
    assert data.classes == ("009.Wren", "010.Owl")
    assert data["train"][0].mask == mask


def test_class_without_training_image(cub: Path) -> None:
    write(cub, "train_test_split", ["1", "1", "0", "0"])
    data = CUB().read(cub)
    assert len(data["test"]) == 2
    with pytest.raises(GtaError, match="no class of test has a training image"):
        require_seen(data)


def test_invalid_lists_raise(cub: Path) -> None:
    (cub / "images" / IMAGES[1]).unlink()
    with pytest.raises(GtaError, match=r"w2.jpg of CUB-200-2011 missing; published at http"):
        load_dataset(str(cub))
    write(cub, "image_class_labels", ["9", "9", "10"])
    with pytest.raises(GtaError, match="no line for image 4"):
        CUB().read(cub)
    (cub / "image_class_labels.txt").write_text("1\n")
    with pytest.raises(GtaError, match="line 1: expected 'id value', got '1'"):
        CUB().read(cub)
    (cub / "images.txt").unlink()
    with pytest.raises(GtaError, match=r"not a CUB-200-2011 folder, it lacks images.txt"):
        CUB().read(cub)
    with pytest.raises(GtaError, match="write cub:FOLDER"):
        CUB().read(None)
