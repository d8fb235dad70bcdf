"""Tests of datasets without labels."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gtacli.data.unlabeled import has_labels, load_images, load_with_labels
from gtacli.errors import GtaError
from gtacli.images.decode import decode

MakeImage = Callable[..., Path]


def test_folder_of_images(tmp_path: Path, make_image: MakeImage) -> None:
    for name in ("a.png", "b.png"):
        make_image(tmp_path / "photos" / name)
    data = load_images(str(tmp_path / "photos"))
    assert [record.key for record in data["train"]] == ["a.png", "b.png"]
    assert not has_labels(data)


def test_only_the_training_split_is_used(tmp_path: Path, make_image: MakeImage) -> None:
    for name in ("train/a.png", "train/deep/c.png", "val/b.png"):
        make_image(tmp_path / name)
    (tmp_path / "train" / "deep").rename(tmp_path / "train" / "x")
    make_image(tmp_path / "val" / "y" / "z.png")
    keys = [record.key for record in load_images(str(tmp_path))["train"]]
    assert all(key.startswith("train/") for key in keys)


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        (("Training/a.png", "validation/b.png"), ["Training/a.png"]),
        (("a.png", "more/b.png", "test/c.png"), ["a.png", "more/b.png"]),
    ],
)
def test_test_images_are_never_used(
    files: tuple[str, ...], kept: list[str], tmp_path: Path, make_image: MakeImage
) -> None:
    for name in files:
        make_image(tmp_path / name)
    assert [record.key for record in load_images(str(tmp_path))["train"]] == kept


def test_existing_labels_are_read(tiny_data: Path) -> None:
    data = load_images(str(tiny_data))
    assert has_labels(data)
    assert len(data["train"]) == 18
    assert len(data["test"]) == 12


@pytest.mark.parametrize("header", ["path", "path,split", "path,label"])
def test_table_of_paths(header: str, tmp_path: Path, make_image: MakeImage) -> None:
    """The table has no labels, or labels in some rows only."""
    for name in ("a.png", "b.png", "c.png"):
        make_image(tmp_path / name)
    rows = ["a.png", "b.png", "c.png"]
    if "," in header:
        end = ("train", "train", "test") if "split" in header else ("cat", "", "dog")
        rows = [f"{name},{last}" for name, last in zip(rows, end, strict=True)]
    table = tmp_path / "images.csv"
    table.write_text("\n".join([header, *rows]))
    data = load_images(str(table))
    assert not has_labels(data)
    assert len(data["train"]) == (2 if "split" in header else 3)
    assert len(data["test"]) == ("split" in header)


def test_error_of_an_invalid_table(tmp_path: Path) -> None:
    """The error is not that labels are missing, which are not needed."""
    (tmp_path / "images.csv").write_text("path\nnowhere.png\n")
    with pytest.raises(GtaError, match="line 2: no such image"):
        load_images(str(tmp_path / "images.csv"))


@pytest.mark.parametrize("labeled", [False, True])
def test_shards(labeled: bool, tmp_path: Path, make_image: MakeImage) -> None:
    image = make_image(tmp_path / "image.png")
    (tmp_path / "zero.cls").write_text("cat")
    for part in ("train-000", "train-001", "val-000"):
        (tmp_path / "s").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / f"s/{part}.tar", "w") as tar:
            for key in ("a", "b"):
                tar.add(image, f"{key}.png")
                if labeled and key == "a":
                    tar.add(tmp_path / "zero.cls", "a.cls")
    data = load_images(f"wds/{tmp_path / 's'}")
    keys = [f"train-00{i}.tar/{key}.png" for i in (0, 1) for key in ("a", "b")]
    assert [record.key for record in data["train"]] == keys
    assert not has_labels(data)
    assert decode(data["train"][1].path).size == decode(image).size


@pytest.mark.parametrize("spec", ["nowhere", "empty", "wds/empty"])
def test_no_images(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GtaError):
        load_images(spec)


def test_every_split_of_a_folder(tmp_path: Path, make_image: MakeImage) -> None:
    for name in ("train/a.png", "val/b.png", "Test/c.png"):
        make_image(tmp_path / name)
    data = load_images(str(tmp_path), every_split=True)
    keys = {split: [record.key for record in part] for split, part in data.splits.items()}
    assert keys == {"train": ["train/a.png"], "val": ["val/b.png"], "test": ["Test/c.png"]}


def test_every_split_of_shards(tmp_path: Path, make_image: MakeImage) -> None:
    image = make_image(tmp_path / "image.png")
    (tmp_path / "s").mkdir()
    for part in ("train-0", "val-0"):
        with tarfile.open(tmp_path / f"s/{part}.tar", "w") as tar:
            tar.add(image, "a.png")
    data = load_images(f"wds/{tmp_path / 's'}", every_split=True)
    assert [(split, record.key) for split, record in data.records()] == [
        ("train", "train-0.tar/a.png"), ("val", "val-0.tar/a.png"),
    ]  # fmt: skip


def test_a_table_by_the_name_of_its_reader(tmp_path: Path, make_image: MakeImage) -> None:
    make_image(tmp_path / "a.png")
    (tmp_path / "images.csv").write_text("path\na.png\n")
    assert len(load_images(f"csv:{tmp_path / 'images.csv'}")["train"]) == 1


@pytest.mark.parametrize("name", ["train.csv", "all.csv"])
@pytest.mark.parametrize("spec", ["{}", "folder:{}", "csv:{}", "{}?image=image,mask=mask"])
def test_a_folder_with_a_table_without_labels(
    spec: str, name: str, tmp_path: Path, make_image: MakeImage
) -> None:
    """Its masks are no images, and two folders are no classes."""
    for path in ("images/a.png", "masks/a.png", "images/b.png", "masks/b.png"):
        make_image(tmp_path / path)
    rows = ["image,mask", "images/a.png,masks/a.png", "images/b.png,masks/b.png"]
    (tmp_path / name).write_text("\n".join(rows))
    data = load_images(spec.format(tmp_path), every_split=True)
    assert [(r.key, Path(str(r.mask)).name) for _, r in data.records()] == [
        ("images/a.png", "a.png"), ("images/b.png", "b.png"),
    ]  # fmt: skip
    assert not has_labels(data)


def test_a_folder_by_the_name_of_its_reader(tmp_path: Path, make_image: MakeImage) -> None:
    make_image(tmp_path / "a.png")
    assert [r.key for _, r in load_images(f"folder:{tmp_path}").records()] == ["a.png"]


def test_labels_are_kept_where_one_is_missing(
    tmp_path: Path, make_image: MakeImage, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        make_image(tmp_path / name)
    table = tmp_path / "t.csv"
    table.write_text("path,label\na.png,cat\nb.png,\nc.png,dog\n")
    assert load_with_labels(str(table)).classes == ("cat", "dog")
    assert "left out: 1 row" in caplog.text
    table.write_text("path\na.png\n")
    assert not has_labels(load_with_labels(str(table)))


def test_class_folders_go_before_a_table_of_splits(tmp_path: Path, make_image: MakeImage) -> None:
    for name in ("cat/a.png", "dog/b.png"):
        make_image(tmp_path / name)
    (tmp_path / "splits.csv").write_text("path,split\ncat/a.png,train\ndog/b.png,test\n")
    assert load_images(str(tmp_path)).classes == ("cat", "dog")
