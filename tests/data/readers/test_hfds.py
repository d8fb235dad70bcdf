"""Tests of the reader of Hugging Face datasets."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.unlabeled import has_labels, load_images
from gtacli.errors import GtaError
from gtacli.images.decode import decode
from gtacli.images.packed import PackedImage

Layout = Callable[[str, Path], str]
Features = datasets.Features


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def images(*values: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((6, 7, 3), value, np.uint8)) for value in values]


def saved(root: Path, features: Features, **parts: dict[str, Any]) -> str:
    tables = {name: datasets.Dataset.from_dict(t, features=features) for name, t in parts.items()}
    datasets.DatasetDict(tables).save_to_disk(root)
    return f"hfds/{root}"


def colors(data: ImageDataset, split: str) -> list[int]:
    return [decode(record.path).getpixel((0, 0))[0] for record in data[split]]


def test_saved_dataset(layout: Layout, tmp_path: Path) -> None:
    spec = layout("hfds", tmp_path)
    data = load_dataset(spec)
    assert {split: len(part) for split, part in data.splits.items()} == {
        "train": 12, "val": 3, "test": 6,
    }  # fmt: skip
    assert data.classes == ("Abyssinian", "american_bulldog", "Bengal")
    theirs = datasets.load_from_disk(tmp_path / "saved")
    for split, part in (("train", "train"), ("val", "validation"), ("test", "test")):
        for record, row in zip(data[split], theirs[part], strict=True):
            assert record.label == row["label"]
            assert np.array_equal(decode(record.path), row["image"])
    raw = theirs["test"].cast_column("image", datasets.Image(decode=False))
    assert [r.path.stamp() for r in data["test"]] == [len(row["image"]["bytes"]) for row in raw]
    assert [record.key for record in data["test"]][:2] == ["test/0", "test/1"]
    assert str(data["test"][1].path) == f"{spec}/test, row 1"
    assert load_dataset(spec).fingerprint() == data.fingerprint()


def test_single_saved_table(tmp_path: Path) -> None:
    features = Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = {"image": images(10, 20, 30), "label": [0, 1, 0]}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "x")
    data = load_dataset(f"hfds/{tmp_path / 'x'}")
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 3}
    assert colors(data, "train") == [10, 20, 30]


def test_state_identifies_unchanged_images(tmp_path: Path) -> None:
    features = Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

    def states(*values: int) -> list[str | None]:
        table = {"image": images(*values), "label": [0, 1]}
        shutil.rmtree(tmp_path / "x", ignore_errors=True)
        datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "x")
        return again()

    def again() -> list[str | None]:
        train = load_dataset(f"hfds/{tmp_path / 'x'}")["train"]
        return [record.path.state() for record in train if isinstance(record.path, PackedImage)]

    first = states(10, 20)
    assert None not in first
    assert len({*first}) == 2
    assert again() == first
    assert not {*states(30, 20)} & {*first}


def test_parquet_files(tmp_path: Path) -> None:
    features = Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, values in (("train", (10, 20)), ("test", (30, 40))):
        table = {"image": images(*values), "label": [0, 1]}
        path = tmp_path / "x" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(table, features=features).to_parquet(path)
    data = load_dataset(f"hfds/{tmp_path / 'x'}")
    assert colors(data, "train") + colors(data, "test") == [10, 20, 30, 40]
    assert data.classes == ("a", "b")


def test_rows_can_be_pickled_for_workers(layout: Layout, tmp_path: Path) -> None:
    data = load_dataset(layout("hfds", tmp_path))
    copies = pickle.loads(pickle.dumps(data["train"]))
    assert [c.open().read() for c in copies] == [r.open().read() for r in data["train"]]


def test_image_folder(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    """The rows contain the paths of the images."""
    names = ["train/a/1.png", "train/b/2.png", "test/b/3.png"]
    data = load_dataset(f"hfds/{make_folder(tmp_path / 'folder', names)}")
    assert data.classes == ("a", "b")
    assert [r.label for r in data["train"]] == [0, 1]
    (record,) = data["test"]
    assert np.array_equal(decode(record.path), Image.open(tmp_path / "folder" / names[2]))
    assert record.path.stamp() == (tmp_path / "folder" / names[2]).stat().st_size
    assert record.path.state() is None  # the table does not change with its files


def test_other_columns_and_plain_labels(tmp_path: Path) -> None:
    """The image column is `img`, and labels are words, sorted as usual."""
    features = Features(
        {"mask": datasets.Image(), "img": datasets.Image(), "labels": datasets.Value("string")}
    )
    table = {"mask": images(1, 1, 1), "img": images(10, 20, 30), "labels": ["10", "9", "10"]}
    data = load_dataset(saved(tmp_path / "x", features, train=table, extra=table))
    assert set(data.splits) == {"train"}
    assert data.classes == ("9", "10")
    assert [r.label for r in data["train"]] == [1, 0, 1]
    assert colors(data, "train") == [10, 20, 30]


def test_rows_without_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    train = {"image": images(1, 2), "label": [0, 1]}
    none = {"image": images(3, 4), "label": [-1, -1]}
    data = load_dataset(saved(tmp_path / "x", features, train=train, test=none))
    assert set(data.splits) == {"train"}
    assert "split 'test' has no labels and is omitted" in caplog.text
    some = {"image": images(3, 4), "label": [0, -1]}
    with pytest.raises(GtaError, match="row 1 of split 'test' has no label"):
        load_dataset(saved(tmp_path / "y", features, train=train, test=some))


def test_invalid_datasets_raise_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = {"x": datasets.Value("int32")}
    two = {"first": datasets.Image(), "second": datasets.Image(), "label": datasets.Value("int32")}
    cases = [
        (
            Features({"image": datasets.Image(), **number}),
            "which column is the label.*image, x",
        ),
        (Features({"label": datasets.Value("int32"), **number}), "which column is the image"),
        (Features(two), "which column is the image"),
    ]
    for i, (features, message) in enumerate(cases):
        table = {
            n: images(1) if isinstance(f, datasets.Image) else [1] for n, f in features.items()
        }
        with pytest.raises(GtaError, match=message) as caught:
            load_dataset(saved(tmp_path / str(i), features, train=table))
        assert "\n" not in str(caught.value)
    with pytest.raises(GtaError, match=r"has no train, val or test split \(it has other\)"):
        load_dataset(saved(tmp_path / "x", Features(number), other={"x": [1]}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    match = r"hfds/nobody/nothing is not in the cache, and HF_HUB_OFFLINE is set"
    with pytest.raises(GtaError, match=match) as caught:
        load_dataset("hfds/nobody/nothing")
    assert "\n" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(GtaError, match=r"pip install 'gtacli\[hf\]'"):
        load_dataset("hfds/x")


@pytest.mark.parametrize("named", [True, False])
def test_any_number_of_labels(tmp_path: Path, named: bool) -> None:
    kind = datasets.ClassLabel(names=["ant", "bee", "cow"]) if named else datasets.Value("string")
    features = Features({"image": datasets.Image(), "labels": datasets.List(kind)})
    lists: list[list[Any]] = [[2, 0], [], [2]] if named else [["cow", "ant"], [], ["cow"]]
    spec = saved(tmp_path / "saved", features, train={"image": images(0, 1, 2), "labels": lists})
    data = load_dataset(spec, multi_label=True)
    assert data.classes == (("ant", "bee", "cow") if named else ("ant", "cow"))
    last = len(data.classes) - 1
    assert [record.labels for record in data["train"]] == [(0, last), (), (last,)]
    with pytest.raises(GtaError, match="`labels` has any number of labels; read them with"):
        load_dataset(spec)


@pytest.mark.parametrize("labels", [None, -1, [0, 1]])
def test_images_without_a_class_each(labels: Any, tmp_path: Path) -> None:
    """The table has no labels, none that is known, or several of each image."""
    columns: dict[str, Any] = {"image": datasets.Image()}
    table: dict[str, Any] = {"image": images(10, 20)}
    if labels is not None:
        names = datasets.ClassLabel(names=["a", "b"])
        columns["label"] = datasets.List(names) if isinstance(labels, list) else names
        table["label"] = [labels, labels]
    spec = saved(tmp_path / "x", Features(columns), train=table, validation=table)
    with pytest.raises(GtaError):
        load_dataset(spec)
    data = load_images(spec)
    assert not has_labels(data)
    assert [*data.splits] == ["train"]
    assert colors(data, "train") == [10, 20]
    assert [*load_images(spec, every_split=True).splits] == ["train", "val"]
