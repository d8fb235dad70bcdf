from collections.abc import Callable
from pathlib import Path

import pytest

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.table import Csv
from gtacli.errors import GtaError


@pytest.fixture
def root(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path, ["x/1.png", "x/2.png", "3.png"])


def read(root: Path, text: str | bytes) -> ImageDataset:
    path = root / "set.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_dataset(str(path))


def test_with_splits_masks_and_other_columns(root: Path) -> None:
    data = read(
        root,
        "\ufeffPath, label ,note,split,mask\nx/1.png,cat,!,train,3.png\n"
        'x/2.png,cat,"a, b",validation,\n3.png,cat,,TEST,\n',
    )
    assert {split: [r.key for r in part] for split, part in data.splits.items()} == {
        "train": ["x/1.png"],
        "val": ["x/2.png"],
        "test": ["3.png"],
    }
    assert data["train"][0].mask == root / "3.png"
    assert data.classes == ("cat",)


def test_without_split_all_is_training_and_numbers_sort_as_numbers(root: Path) -> None:
    data = read(root, "path,label\nx/1.png,10\nx/2.png,2\n3.png,2\n")
    assert data.classes == ("2", "10")
    assert [r.label for r in data["train"]] == [1, 0, 0]


def test_absolute_paths(root: Path) -> None:
    data = read(root, f"path,label\n{root / '3.png'},a\n")
    assert data["train"][0].path == root / "3.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column 'path' in its header \(found an empty file\)"),
        ("file,label\n3.png,a\n", r"no column 'path' in its header \(found file, label\)"),
        ("path,class\n3.png,a\n", "no column 'label'"),
        ("path,label\n", "no row below its header"),
        ("path,label\n3.png\n", "line 2: no label"),
        ("path,label\n,a\n", "line 2: no path"),
        ("path,label\n3.png,a\nno.png,a\n", r"line 3: no such image: .*no\.png"),
        ("path,label,mask\n3.png,a,no.png\n", r"line 2: no such mask: .*no\.png"),
        ("path,label,split\n3.png,a,dev\n", "line 2: split must be train, val or test, got 'dev'"),
        ("path,label,split\n3.png,a,\n", "got ''"),
        ("path,label\n3.png,a\n3.png,a\n", "3.png is listed twice"),
        ("path,label,split\n3.png,a,train\nx/1.png,b,test\n", "class 'b' is in test but not in"),
        (b"path,label\n\xff\xfe,a\n", "not a readable csv"),
    ],
)
def test_every_mistake_has_its_line(root: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(GtaError, match=message) as caught:
        read(root, text)
    assert "\n" not in str(caught.value)


def test_no_file(root: Path) -> None:
    with pytest.raises(GtaError, match="no such file"):
        load_dataset(str(root / "gone.csv"))
    with pytest.raises(GtaError, match=r"write csv:FILE\.csv"):
        Csv().read(None)
