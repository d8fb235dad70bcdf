from collections.abc import Callable
from pathlib import Path

import pytest

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.readers.table import Csv
from gtacli.errors import GtaError


@pytest.fixture
def root(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path, ["x/1.png", "x/2.png", "3.png"])


def read(root: Path, text: str | bytes) -> ImageDataset:
    path = root / "set.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_dataset(str(path))


def test_splits_masks_and_other_columns(root: Path) -> None:
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


def test_without_split_all_rows_are_for_training(root: Path) -> None:
    data = read(root, "path,label\nx/1.png,10\nx/2.png,2\n3.png,2\n")
    assert data.classes == ("2", "10")
    assert [r.label for r in data["train"]] == [1, 0, 0]


def test_absolute_paths(root: Path) -> None:
    data = read(root, f"path,label\n{root / '3.png'},a\n")
    assert data["train"][0].source == root / "3.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"no column of images in its header \(found an empty file\)"),
        (
            "photo_nr,kind\n3.png,a\n",
            r"no column of images in its header \(found photo_nr, kind\); name it, as in "
            r"`columns=image=NAME,label=NAME`",
        ),
        (
            "path,kind\n3.png,a\n",
            r"no column of labels in its header \(found path, kind\); name it",
        ),
        ("path,label\n", "no row below its header"),
        ("path,label\n3.png\n", "1 row: no label in set.csv, first line 2"),
        ("path,label\n,a\n", "1 row: no image in set.csv, first line 2"),
        ("path,label\nno.png,a\n", r"line 2: no such image: .*no\.png"),
        ("path,label,mask\n3.png,a,no.png\n", r"line 2: no such mask: .*no\.png"),
        ("path,label,split\n3.png,a,new\n", "line 2: split must be train, val or test, got 'new'"),
        ("path,label,split\n3.png,a,\n", "got ''"),
        ("path,label\n3.png,a\n3.png,b\n", "3.png is listed twice, .* another split or label"),
        ("path,label,split\n3.png,a,train\n3.png,a,test\n", "3.png is listed twice"),
        ("path,label,split\n3.png,a,0\nx/1.png,a,1\nx/2.png,a,1", "most rows have split 1"),
        (b"PK\x03\x04\x14\x00\x06\x00\n", "it is not text; save it as CSV"),
        (b"path,label\n\x98\x81\x98,a\n", "not a readable table"),
    ],
)
def test_invalid_tables_raise_one_line(root: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(GtaError, match=message) as caught:
        read(root, text)
    assert "\n" not in str(caught.value)


def test_by_name(root: Path) -> None:
    data = read(root, "path,label\n3.png,a\n")
    assert load_dataset(f"csv:{root / 'set.csv'}") == data


def test_no_file(root: Path) -> None:
    with pytest.raises(GtaError, match="no such file"):
        load_dataset(str(root / "gone.csv"))
    with pytest.raises(GtaError, match=r"write csv:FILE\.csv"):
        Csv().read(None)


def parts(data: ImageDataset) -> dict[str, list[tuple[str, str]]]:
    return {s: [(r.key, data.classes[r.label]) for r in part] for s, part in data.splits.items()}


def write(path: Path, *rows: str, head: str = "path,label") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *rows, ""]))
    return path


def test_one_table_per_split(root: Path) -> None:
    """The name contains the split, and classes are those of all tables."""
    write(root / "birds_train.csv", "x/1.png,10", "x/2.png,9")
    write(root / "birds-test.csv", "3.png,9")
    spec = f"{root / 'birds_train.csv'}, {root / 'birds-test.csv'}"
    data = load_dataset(spec)
    assert parts(data) == {"train": [("x/1.png", "10"), ("x/2.png", "9")], "test": [("3.png", "9")]}
    assert data.classes == ("9", "10")
    assert load_dataset(f"csv:{spec}") == data


def test_folder_of_tables(root: Path) -> None:
    write(root / "train.csv", "x/1.png,a")
    write(root / "valid.csv", "x/2.png,a")
    data = load_dataset(str(root))
    assert parts(data) == {"train": [("x/1.png", "a")], "val": [("x/2.png", "a")]}
    assert load_dataset(f"csv:{root}") == data


def test_class_folders_precede_tables(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    make_folder(tmp_path, ["train/a/1.png", "train/b/1.png"])
    write(tmp_path / "train.csv", "train/a/1.png,other")
    assert load_dataset(str(tmp_path)).classes == ("a", "b")


def test_other_table_beside_class_folders(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    make_folder(tmp_path, ["a/1.png", "b/1.png"])
    write(tmp_path / "train.csv", "1,0.5", head="epoch,loss")
    assert load_dataset(str(tmp_path)).classes == ("a", "b")


def test_tables_in_several_folders(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    """Keys differ if the same relative path occurs in two folders."""
    make_folder(tmp_path, ["a/1.png", "b/1.png"])
    one, other = (
        write(tmp_path / "a/train.csv", "1.png,x"),
        write(tmp_path / "b/test.csv", "1.png,x"),
    )
    data = load_dataset(f"{one},{other}")
    assert parts(data) == {"train": [("a/1.png", "x")], "test": [("b/1.png", "x")]}


def test_split_column_precedes_the_name(root: Path) -> None:
    write(root / "train.csv", "x/1.png,a,train", "x/2.png,a,test", head="path,label,split")
    write(root / "test.csv", "3.png,a")
    data = load_dataset(f"{root / 'train.csv'},{root / 'test.csv'}")
    assert [r.key for r in data["test"]] == ["x/2.png", "3.png"]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        (
            "test",
            ["x/1.png,a"],
            r"test\.csv, line 2: x/1\.png is listed twice, first in .*train\.csv, line 2",
        ),
        ("test", [], r"test\.csv has no row"),
        ("more", ["3.png,a"], r"more\.csv: its split is unclear; add a column 'split'"),
        ("train_test", ["3.png,a"], r"train_test\.csv: its split is unclear"),
    ],
)
def test_invalid_tables_among_several(root: Path, name: str, rows: list[str], message: str) -> None:
    one, other = write(root / "train.csv", "x/1.png,a"), write(root / f"{name}.csv", *rows)
    with pytest.raises(GtaError, match=message) as caught:
        load_dataset(f"{one},{other}")
    assert "\n" not in str(caught.value)


def test_missing_table_among_several(root: Path) -> None:
    one = write(root / "train.csv", "x/1.png,a")
    with pytest.raises(GtaError, match=r"no such file: .*gone\.csv"):
        load_dataset(f"{one},{root / 'gone.csv'}")
    with pytest.raises(GtaError, match=r"contains no train\.csv"):
        Csv().read(root / "x")
