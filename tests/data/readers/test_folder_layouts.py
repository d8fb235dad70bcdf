"""Tests of folders as people have them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.check import check_dataset
from gtacli.data.learnable import require_classes, require_seen, without_unseen
from gtacli.data.unlabeled import load_images
from gtacli.errors import GtaError

MakeFolder = Callable[..., Path]


def files(folder: str, classes: str, numbers: Iterable[int] = (1, 2)) -> list[str]:
    """Return names such as `train/a/1.png`."""
    return [f"{folder}{name}/{number}.png" for name in classes for number in numbers]


def shape(data: ImageDataset) -> dict[str, dict[str, int]]:
    """Return the number of images by split and class."""
    found: dict[str, dict[str, int]] = {}
    for split, record in data.records():
        by_class = found.setdefault(split, {})
        by_class[data.classes[record.label]] = by_class.get(data.classes[record.label], 0) + 1
    return found


TWO = {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("train", "other", "split"),
    [
        ("Training", "Testing", "test"),
        ("TRAIN", "dev", "val"),
        ("train", "eval", "test"),
        ("train", "holdout", "test"),
        ("images_train", "images_test", "test"),
        ("training_set", "validation_set", "val"),
        ("train", "images_test", "test"),
        ("seg_train/seg_train", "seg_test/seg_test", "test"),
        ("train/images", "test/images", "test"),
        ("TrainImages", "ValImages", "val"),
        ("trainset", "testset", "test"),
        ("train2017", "val2017", "val"),
        ("data/v1/train", "data/v1/val", "val"),
    ],
)
def test_names_of_splits(
    train: str, other: str, split: str, tmp_path: Path, make_folder: MakeFolder
) -> None:
    make_folder(tmp_path, [*files(f"{train}/", "ab"), *files(f"{other}/", "ab")])
    assert shape(load_dataset(str(tmp_path))) == {"train": TWO, split: TWO}


@pytest.mark.parametrize(
    "names", [("bus", "car", "train"), ("bus", "bullet_train"), ("a", "b_test")]
)
def test_classes_with_names_of_splits(
    names: tuple[str, ...],
    tmp_path: Path,
    make_folder: MakeFolder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make_folder(tmp_path, [f"{name}/1.png" for name in names])
    assert shape(load_dataset(str(tmp_path))) == {"train": dict.fromkeys(names, 1)}
    assert ("train is read as a class" in caplog.text) == ("train" in names)


def test_a_loose_test_split_is_left_out(
    tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path, [*files("train/", "ab"), "test/1.png", "test/2.png"])
    (tmp_path / "sampleSubmission.csv").write_text("id,label\n1,a\n2,a\n")
    (tmp_path / "ids.csv").write_text("id,label\n1,0\n2,0\n")
    assert shape(load_dataset(str(tmp_path))) == {"train": TWO}
    assert "left out: 2 images: without labels: test/ has no class folders" in caplog.text


@pytest.mark.parametrize(
    ("table", "text", "images"),
    [
        ("solution.csv", "ImageId,PredictionString\nv1,a 1 2 3 4\nv2,b 5 6 7 8 1 2 3 4\n", "val/"),
        ("val/val_annotations.txt", "v1.png\ta\t0\t32\nv2.png\tb\t1\t2\n", "val/images/"),
        ("val.csv", "id;kind;x\nval/v1.png;a;1\nval/v2.png;b;1\n", "val/"),
    ],
)
def test_a_table_labels_a_loose_split(
    table: str, text: str, images: str, tmp_path: Path, make_folder: MakeFolder
) -> None:
    """ImageNet, Tiny ImageNet, and others."""
    make_folder(tmp_path, [*files("train/", "ab"), f"{images}v1.png", f"{images}v2.png"])
    (tmp_path / table).write_text(text)
    data = load_dataset(str(tmp_path))
    assert shape(data) == {"train": TWO, "val": {"a": 1, "b": 1}}
    assert data.classes[data["val"][0].label] == "a"
    assert data["val"][0].key == f"{images}v1.png"


def test_a_table_above_the_only_folder(tmp_path: Path, make_folder: MakeFolder) -> None:
    """ImageNet as Kaggle packs it."""
    top = "ILSVRC/Data/CLS-LOC/"
    make_folder(tmp_path, [*files(f"{top}train/", "ab"), f"{top}val/v1.png", f"{top}test/t.png"])
    (tmp_path / "ILSVRC/Annotations").mkdir()
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nv1,b 1 2 3 4\n")
    assert shape(load_dataset(str(tmp_path))) == {"train": TWO, "val": {"b": 1}}


def test_a_table_labels_some_of_a_loose_split(tmp_path: Path, make_folder: MakeFolder) -> None:
    names = [f"val/{i}.png" for i in range(3)]
    make_folder(tmp_path, [*files("train/", "ab"), *names])
    (tmp_path / "val.csv").write_text("name,class\n0.png,b\n1.png,a\n")
    data = load_dataset(str(tmp_path))
    assert shape(data)["val"] == {"a": 1, "b": 1}
    assert [one.names for one in data.left_out if one.kind == "images"] == [("val/2.png",)]


def test_empty_class_folders_are_left_out(
    tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path, [*files("train/", "ab"), *files("val/", "a")])
    for folder in ("train/Reserved", "val/Reserved", "val/b", "test"):
        (tmp_path / folder).mkdir()
    data = load_dataset(str(tmp_path))
    assert shape(data) == {"train": TWO, "val": {"a": 2}}
    assert data.classes == ("a", "b")
    assert "left out: 4 folders: there is no image in it, first" in caplog.text


def test_folders_of_the_system_and_of_documents(
    tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Thumbnails of a NAS are images in every folder."""
    caplog.set_level(logging.INFO)
    system = ["@eaDir/a/1.png/THUMB.png", "a/@eaDir/1.png/THUMB.png", "$RECYCLE.BIN/x.png"]
    make_folder(tmp_path, [*files("", "ab"), *system])
    (tmp_path / "docs").mkdir()
    for name in ("docs/readme.txt", "a/Thumbs.db", "a/.DS_Store", "b/labels.txt", "b/x.pdf"):
        (tmp_path / name).write_text("x")
    data = load_dataset(str(tmp_path))
    assert shape(data) == {"train": TWO}
    found = {one.reason: (one.names, one.suffixes) for one in data.left_out}
    assert found == {
        "there is no image in it": (("docs",), {}),
        "of no known image type": (
            ("b/labels.txt", "b/x.pdf", "docs/readme.txt"),
            {".txt": 2, ".pdf": 1},
        ),
        "of the operating system or a network drive": (
            ("$RECYCLE.BIN", "@eaDir", "a/@eaDir"),
            {},
        ),
    }
    assert "left out: 3 files (2 .txt, 1 .pdf): of no known image type, first" in caplog.text
    report = check_dataset(data)
    assert report["ok"]
    assert sum(one["count"] for one in report["left_out"]) == 7


def test_images_beside_classes_and_splits_are_counted(
    tmp_path: Path, make_folder: MakeFolder
) -> None:
    make_folder(
        tmp_path, [*files("train/", "ab"), "train/0.png", "0.png", "more/x/1.png", "more/2.png"]
    )
    data = load_dataset(str(tmp_path))
    assert {one.reason: one.names for one in data.left_out} == {
        "beside the class folders": ("train/0.png",),
        "beside the folders of the splits": ("0.png",),
        "in neither of train/": ("more/2.png", "more/x/1.png"),
    }


@pytest.mark.parametrize("outer", ["images/", "set/images/", "birds/"])
def test_a_single_outer_folder_is_entered(
    outer: str, tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_folder(tmp_path, files(outer, "ab"))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/list.txt").write_text("x")
    data = load_dataset(str(tmp_path))
    assert shape(data) == {"train": TWO}
    assert data["train"][0].key == f"{outer}a/1.png"
    assert "the only folder of images in" in caplog.text


def test_classes_with_equal_folders_are_warned_of(
    tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path, [*files("amazon/images/", "ab"), *files("webcam/images/", "ab")])
    assert load_dataset(str(tmp_path)).classes == ("amazon", "webcam")
    assert f"if these are the classes, give {tmp_path / 'amazon' / 'images'}" in caplog.text


def test_folders_in_classes_are_said_to_be_one(
    tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    make_folder(tmp_path, [*files("felis/", ["lynx", "cat"]), *files("canis/", ["wolf", "dog"])])
    assert load_dataset(str(tmp_path)).classes == ("canis", "felis")
    assert "canis/, felis/; the folders in them, dog/, wolf/, cat/ and 1 more" in caplog.text


def test_classes_that_an_archive_has_twice(tmp_path: Path, make_folder: MakeFolder) -> None:
    """Regression: the inner folder of cell_images/cell_images was a third class."""
    root = make_folder(tmp_path / "cells", [*files("", "ab"), *files("cells/", "ab")])
    data = load_dataset(str(root))
    assert data.classes == ("a", "b")
    assert shape(data) == {"train": {"a": 2, "b": 2}}
    assert "4 images: in cells/cells/, a copy of the classes" in "; ".join(map(str, data.left_out))
    other = make_folder(tmp_path / "a", [*files("", "ab"), *files("c/", "ab")])
    assert load_dataset(str(other)).classes == ("a", "b", "c")


def test_names_with_backslashes_are_said_to_be_folders(
    tmp_path: Path, make_folder: MakeFolder
) -> None:
    root = make_folder(tmp_path / "z", ["train\\a\\1.png", "train\\b\\1.png"])
    with pytest.raises(GtaError, match="as in a zip of Windows: unpack it again"):
        load_dataset(str(root))


def test_one_class_is_refused_where_one_learns(tmp_path: Path, make_folder: MakeFolder) -> None:
    data = load_dataset(str(make_folder(tmp_path, files("", ["only"]))))
    with pytest.raises(GtaError, match="has one class alone, 'only': give a folder with a subf"):
        require_classes(data)
    assert check_dataset(data)["wrong"][0].startswith(f"{tmp_path.name} has one class alone")
    for name in ("labels.csv", "old.csv"):
        (tmp_path / name).write_text("id,breed\n1,x\n")
    with pytest.raises(GtaError, match=r"did you mean .*labels\.csv or .*old\.csv\?"):
        require_classes(load_dataset(str(tmp_path)))


def test_unseen_classes(
    tmp_path: Path, make_folder: MakeFolder, caplog: pytest.LogCaptureFixture
) -> None:
    """Only commands that learn leave them out; a split without seen classes is refused."""
    make_folder(tmp_path, [*files("train/", "bc"), *files("val/", "abcd"), *files("test/", "ad")])
    data = load_dataset(str(tmp_path))
    assert data.classes == ("a", "b", "c", "d")
    assert check_dataset(data)["unseen"] == ["a", "d"]
    learnable = without_unseen(data)
    assert shape(learnable) == {"train": {"b": 2, "c": 2}, "val": {"b": 2, "c": 2}}
    assert learnable.classes == ("b", "c")
    assert (
        "left out: 4 images of val, whose classes have no training image: 'a', 'd'" in caplog.text
    )
    with pytest.raises(GtaError, match="no class of test has a training image"):
        require_seen(data)


def test_classes_without_any_image_stay(tmp_path: Path, make_folder: MakeFolder) -> None:
    data = load_dataset(str(make_folder(tmp_path, files("", "ab"))))
    wider = ImageDataset("wider", (*data.classes, "c"), data.splits)
    assert without_unseen(wider) is wider


def test_without_any_image_the_files_are_counted(tmp_path: Path) -> None:
    for name in ("a/1.raw", "b/2.raw", "b/3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(GtaError, match=r"there is no image in .*3 files \(2 \.raw, 1 without suf"):
        load_dataset(str(tmp_path))


def test_loose_splits_without_labels(tmp_path: Path, make_folder: MakeFolder) -> None:
    """A class named test is a guess that must not bring test images into pre-training."""
    make_folder(tmp_path, ["images_train/1.png", "images_test/2.png"])
    assert [r.key for r in load_images(str(tmp_path))["train"]] == ["images_train/1.png"]


def test_boxes_are_no_labels(tmp_path: Path, make_folder: MakeFolder) -> None:
    """GTSRB: the corners of boxes are numbers of classes, too."""
    make_folder(tmp_path, [*files("Train/", "56"), "Test/1.png", "Test/2.png"])
    table = tmp_path / "Test.csv"
    table.write_text("Width,Roi.X1,ClassId,Path\n53,5,6,Test/1.png\n42,6,5,Test/2.png\n")
    data = load_dataset(str(tmp_path))
    found = {record.key: data.classes[record.label] for record in data["test"]}
    assert found == {"Test/1.png": "6", "Test/2.png": "5"}
    table.write_text("Width,Roi.X1,Number,Path\n53,5,6,Test/1.png\n42,6,5,Test/2.png\n")
    assert shape(load_dataset(str(tmp_path))) == {"train": {"5": 2, "6": 2}}


def test_a_loose_folder_with_a_table_names_the_table(
    tmp_path: Path, make_folder: MakeFolder
) -> None:
    make_folder(tmp_path, ["train/1.png", "test/2.png"])
    for name in ("labels.csv", "old_labels.csv"):
        (tmp_path / name).write_text("id,breed\n1,x\n")
    with pytest.raises(GtaError, match=r"train holds images .*: did you mean .*labels\.csv\?"):
        load_dataset(str(tmp_path))


def test_accents_of_macos(tmp_path: Path, make_folder: MakeFolder) -> None:
    """A class is the same with its accents apart."""
    make_folder(tmp_path, ["train/M\u00f6we/1.png", "train/b/1.png", "val/Mo\u0308we/1.png"])
    assert load_dataset(str(tmp_path)).classes == ("M\u00f6we", "b")
