"""Tests of tables as programs write them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.check import check_dataset
from gtacli.data.readers.table_file import guess_encoding
from gtacli.errors import GtaError

NAMES = ("img/a1.png", "img/a2.png", "img/b1.png", "img/b2.png")
LABELS = ("ant", "ant", "bee", "bee")
SPLITS = ("train", "train", "train", "test")
Rows = list[tuple[str, ...]]


@pytest.fixture
def root(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path, NAMES)


def rows(paths: Sequence[str] = NAMES) -> Rows:
    return list(zip(paths, LABELS, SPLITS, strict=True))


def write(table: Path, lines: Sequence[Sequence[str]], separator: str = ",", **more: str) -> Path:
    text = more.get("mark", "") + "".join(
        separator.join(line) + more.get("end", "\n") for line in lines
    )
    table.write_bytes(text.encode(more.get("encoding", "utf-8")))
    return table


def parts(data: ImageDataset) -> dict[str, list[tuple[str, str]]]:
    return {s: [(r.key, data.classes[r.label]) for r in part] for s, part in data.splits.items()}


def expected(splits: Sequence[str] = SPLITS) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for name, label, split in zip(NAMES, LABELS, splits, strict=True):
        found.setdefault(split, []).append((name, label))
    return {split: found[split] for split in ("train", "val", "test") if split in found}


HEAD = ("path", "label", "split")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", "])
@pytest.mark.parametrize(
    ("mark", "end", "encoding"),
    [
        ("", "\n", "utf-8"),
        ("\ufeff", "\r\n", "utf-8"),
        ("", "\r\n", "utf-16"),
        ("\ufeff", "\n", "utf-16-be"),
        ("", "\n", "utf-16-le"),
        ("", "\n", "utf-32"),
    ],
)
def test_separators_and_encodings(
    root: Path, separator: str, mark: str, end: str, encoding: str
) -> None:
    lines = [HEAD, *rows()]
    table = write(root / "set.csv", lines, separator, mark=mark, end=end, encoding=encoding)
    assert parts(load_dataset(str(table))) == expected()


@pytest.mark.parametrize(
    ("encoding", "labels"),
    [
        ("cp1252", ("Möwe", "Grünspecht")),
        ("cp1252", ("Größe", "naïve")),
        ("gb18030", ("海鸥", "绿啄木鸟")),
        ("gbk", ("A型海鸥", "啄木鸟 2")),
        ("cp932", ("かもめ", "オオアカゲラ")),
        ("cp949", ("괭이갈매기", "오색딱따구리")),
        ("cp1251", ("чайка", "дятел")),
    ],
)
def test_texts_that_are_not_utf8(
    root: Path, encoding: str, labels: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    lines = [(path, labels[i // 2]) for i, path in enumerate(NAMES)]
    table = write(root / "set.csv", [("path", "label"), *lines], encoding=encoding)
    assert load_dataset(str(table)).classes == tuple(sorted(labels))
    assert "is not UTF-8, it is read as" in caplog.text


def test_an_unknown_encoding_is_none() -> None:
    assert guess_encoding(b"a,b\n\x98\x81\x98,c\n") is None


def test_a_tsv_and_a_line_of_excel(root: Path) -> None:
    assert parts(load_dataset(str(write(root / "a.tsv", [HEAD, *rows()], "\t")))) == expected()
    table = write(root / "b.csv", [("sep=;",), HEAD, *rows(), ("img/no.png", "ant", "train")], ";")
    data = load_dataset(str(table))
    assert parts(data) == expected()
    assert data.left_out[0].names[0].endswith("line 7)")


def test_a_list_of_paths_and_numbers(root: Path) -> None:
    lines = [(path, str(i // 2)) for i, path in enumerate(NAMES)]
    data = load_dataset(str(write(root / "train.txt", lines, " ")))
    assert data.classes == ("0", "1")
    assert [(r.key, r.label) for r in data["train"]] == list(zip(NAMES, (0, 0, 1, 1), strict=True))


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("image", "label"),
        ("image_path", "class"),
        ("file", "Category"),
        ("FileName", "target"),
        ("file_name", "species"),
        ("Image ID", "breed"),
        ("filepath", "title"),
        ("id", "ClassId"),
        ("image_id", "dx"),
    ],
)
def test_column_names(root: Path, image: str, label: str) -> None:
    lines = [(str(i), path, name) for i, (path, name, _) in enumerate(rows())]
    table = write(root / "set.csv", [("Unnamed: 0", image, label), *lines])
    assert parts(load_dataset(str(table))) == expected(["train"] * 4)


def test_of_several_columns_of_images_the_one_with_files_counts(root: Path) -> None:
    lines = [("x" + name, str(i), path, label) for i, (path, label, name) in enumerate(rows())]
    table = write(root / "set.csv", [("image", "id", "filepath", "label"), *lines])
    assert parts(load_dataset(str(table))) == expected(["train"] * 4)


@pytest.mark.parametrize("columns", ["image=photo,label=kind", " label = 3 , image = 2 "])
def test_named_columns(root: Path, columns: str) -> None:
    lines = [(str(i), path, label) for i, (path, label, _) in enumerate(rows())]
    table = write(root / "set.csv", [("path", "photo", "kind"), *lines])
    assert parts(load_dataset(f"{table}?{columns}")) == expected(["train"] * 4)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("image=no", "no column 'no' in its header"),
        ("image=9", "no column '9'"),
        ("photo=path", "must be like image=photo,label=kind .*got 'photo=path'"),
        ("image=", "got 'image='"),
    ],
)
def test_wrong_columns(root: Path, columns: str, message: str) -> None:
    table = write(root / "set.csv", [HEAD, *rows()])
    with pytest.raises(GtaError, match=message):
        load_dataset(f"{table}?{columns}")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Set", ("Training", "train", "TRAINING", "holdout")),
        ("partition", ("train_set", "train", "train", "eval")),
        ("split", ("0", "0", "0", "1")),
        ("is_training_image", ("1", "1", "1", "0")),
        ("is_test", ("False", "False", "False", "True")),
    ],
)
def test_values_of_splits(root: Path, name: str, values: tuple[str, ...]) -> None:
    lines = [(path, label, v) for (path, label, _), v in zip(rows(), values, strict=True)]
    table = write(root / "set.csv", [("path", "label", name), *lines])
    assert parts(load_dataset(str(table))) == expected()


@pytest.mark.parametrize(
    ("name", "values", "splits"),
    [
        ("split", ("dev", "train", "train", "dev"), ("val", "train", "train", "val")),
        ("is_valid", ("True", "no", "0", "1"), ("val", "train", "train", "val")),
        ("split", ("0", "0", "1.0", "2"), ("train", "train", "val", "test")),
        ("part", ("head", "wing", "head", "wing"), ("train",) * 4),
    ],
)
def test_values_of_other_splits(
    root: Path, name: str, values: tuple[str, ...], splits: tuple[str, ...]
) -> None:
    lines = [(path, label, v) for (path, label, _), v in zip(rows(), values, strict=True)]
    table = write(root / "set.csv", [("path", "label", name), *lines])
    assert parts(load_dataset(str(table))) == expected(splits)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.replace("/", "\\"),
        lambda path: path.removesuffix(".png"),
        lambda path: path.removeprefix("img/").removesuffix(".png").upper(),
        lambda path: "C:\\data\\" + path.replace("/", "\\"),
        lambda path: "/kaggle/input/insects/" + path,
        lambda path: "./" + path,
        lambda path: "insects/" + path,
    ],
    ids=["backslash", "no suffix", "id", "windows", "absolute", "dot", "outer folder"],
)
def test_paths_of_other_machines_and_ids(root: Path, change: Callable[[str], str]) -> None:
    lines = [(change(path), label, split) for path, label, split in rows()]
    data = load_dataset(str(write(root / "set.csv", [HEAD, *lines])))
    assert {s: [(str(r.path), r.label) for r in part] for s, part in data.splits.items()} == {
        s: [(str(root / key), data.classes.index(label)) for key, label in part]
        for s, part in expected().items()
    }


def test_a_missing_image_is_never_another_one_of_its_name(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    make_folder(tmp_path, ["in/x/a/1.png", "in/x/a/2.png", "in/x/b/3.png"])
    lines = [("c:/x/a/1.png", "a"), ("c:/x/a/2.png", "a"), ("c:/x/b/3.png", "b")]
    table = write(tmp_path / "set.csv", [("path", "label"), *lines, ("c:/x/b/1.png", "b")])
    data = load_dataset(str(table))
    assert [r.key for r in data["train"]] == ["in/x/a/1.png", "in/x/a/2.png", "in/x/b/3.png"]
    assert [one.names for one in data.left_out] == [(f"c:/x/b/1.png ({table}, line 5)",)]


def test_ids_of_several_folders(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    """The split chooses among folders, masks are no images, and the rest is named."""
    names = ["train/1.png", "test/1.png", "a/2.png", "masks/2.png", "a/3.png", "b/3.png"]
    make_folder(tmp_path, names)
    lines = [("1", "x", "train"), ("2", "y", "train"), ("3", "x", "train")]
    data = load_dataset(str(write(tmp_path / "set.csv", [("id", "label", "split"), *lines])))
    assert [r.key for r in data["train"]] == ["train/1.png", "a/2.png"]
    (left_out,) = data.left_out
    assert left_out.reason == "both a/3.png and b/3.png could be meant"
    assert left_out.wrong


def test_missing_images_and_labels_are_named_and_left_out(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = [("img/none.png", "ant", "train"), ("img/b1.png", "", "train"), ("", "ant", "test")]
    data = load_dataset(str(write(root / "set.csv", [HEAD, *rows(), *more])))
    assert parts(data) == expected()
    assert "left out: 1 image: no such image, first img/none.png" in caplog.text
    assert "left out: 1 row: no label in set.csv, first line 7" in caplog.text
    report = check_dataset(data)
    assert not report["ok"]
    assert len(report["wrong"]) == 3
    assert {one["kind"]: one["count"] for one in report["left_out"]} == {"images": 1, "rows": 1}


def test_repeated_rows_count_in_training_alone(root: Path) -> None:
    lines = [*rows(), rows()[0], rows()[0], rows()[3]]
    data = load_dataset(str(write(root / "set.csv", [HEAD, *lines])))
    assert [(r.key, r.image) for r in data["train"]] == [
        *((name, name) for name in NAMES[:3]),
        ("img/a1.png#2", "img/a1.png"),
        ("img/a1.png#3", "img/a1.png"),
    ]
    assert [r.key for r in data["test"]] == ["img/b2.png"]
    (left_out,) = data.left_out
    assert left_out.reason.startswith("listed before")
    assert not left_out.wrong


def test_without_a_header(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = load_dataset(str(write(root / "set.csv", rows())))
    assert parts(data) == expected()
    assert "has no header: images are in column 1" in caplog.text
    numbered = [(str(i), label, path) for i, (path, label, _) in enumerate(rows())]
    assert parts(load_dataset(str(write(root / "b.csv", numbered)))) == expected(["train"] * 4)


def test_without_a_header_columns_are_named_by_number(root: Path) -> None:
    lines = [(path, label, "x" + label) for path, label, _ in rows()]
    table = write(root / "set.csv", lines)
    with pytest.raises(GtaError, match="unclear which of its 3 columns has the labels"):
        load_dataset(str(table))
    data = load_dataset(f"{table}?image=1,label=3")
    assert data.classes == ("xant", "xbee")
    assert len(data["train"]) == 4


def test_folders_of_splits_in_a_single_table(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    make_folder(tmp_path, ["Train/1.png", "Train/2.png", "Test/1.png"])
    lines = [("Train/1.png", "a"), ("Train/2.png", "b"), ("Test/1.png", "a")]
    data = load_dataset(str(write(tmp_path / "set.csv", [("Path", "ClassId"), *lines])))
    assert {s: len(part) for s, part in data.splits.items()} == {"train": 2, "test": 1}


def test_metadata_of_an_image_folder(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    """One table for all, or one in the folder of each split."""
    make_folder(tmp_path, ["train/1.png", "train/2.png", "test/1.png"])
    lines = [("train/1.png", "a"), ("train/2.png", "b"), ("test/1.png", "a")]
    write(tmp_path / "metadata.csv", [("file_name", "label"), *lines])
    wanted = {
        "train": [("train/1.png", "a"), ("train/2.png", "b")],
        "test": [("test/1.png", "a")],
    }
    assert parts(load_dataset(str(tmp_path))) == wanted
    (tmp_path / "metadata.csv").unlink()
    for split, some in (("train", lines[:2]), ("test", lines[2:])):
        own = [(path.partition("/")[2], label) for path, label in some]
        write(tmp_path / split / "metadata.csv", [("file_name", "label"), *own])
    assert parts(load_dataset(str(tmp_path))) == wanted


def test_one_hot_table_in_the_folder_of_each_split(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    """As Roboflow exports classes."""
    make_folder(tmp_path, ["train/1.png", "train/2.png", "valid/1.png"])
    splits = {"train": [("1.png", "1", "0"), ("2.png", "0", "1")], "valid": [("1.png", "0", "1")]}
    for split, lines in splits.items():
        write(tmp_path / split / "_classes.csv", [("filename", "cat", "dog"), *lines])
    data = load_dataset(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert parts(data) == {
        "train": [("train/1.png", "cat"), ("train/2.png", "dog")],
        "val": [("valid/1.png", "dog")],
    }


def test_parquet(root: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths, labels, splits = zip(*rows(), strict=True)
    columns = {"file_name": paths, "label": pa.array(labels).dictionary_encode(), "split": splits}
    parquet.write_table(pa.table(columns), root / "set.parquet")
    assert parts(load_dataset(str(root / "set.parquet"))) == expected()
    (root / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(GtaError, match="not a readable Parquet file"):
        load_dataset(str(root / "bad.parquet"))


def test_row_of_too_many_cells(root: Path) -> None:
    (root / "wide.csv").write_text("path,label" + ",x" * 200_000 + "\na.png,b\n")
    with pytest.raises(GtaError, match=r"wide\.csv is not a readable table: line 1 has more than"):
        load_dataset(str(root / "wide.csv"))


@pytest.mark.parametrize(("rows", "text", "message"), [
    (10_000, "x" * 200_000, "a cell has more than 131,072 characters"),
    (3_000_000, "x", "it describes 3,000,000 rows in"),
])  # fmt: skip
def test_parquet_of_more_rows_than_bytes(root: Path, rows: int, text: str, message: str) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([text]))
    parquet.write_table(pa.table({"path": column, "label": column}), root / "set.parquet")
    with pytest.raises(GtaError, match=f"is not a readable Parquet file: {message}"):
        load_dataset(str(root / "set.parquet"))


def test_damaged_parquet_is_told_without_the_words_of_libraries(root: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"path": ["a.png"], "label": [1]}), root / "set.parquet")
    data = bytearray((root / "set.parquet").read_bytes())
    for place in range(8, 200, 8):
        data[-place] ^= 0xFF
    (root / "set.parquet").write_bytes(data)
    with pytest.raises(GtaError, match=r"is not a readable Parquet file: (?!.*Exception)"):
        load_dataset(str(root / "set.parquet"))


def test_parquet_without_pyarrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (root / "set.parquet").write_bytes(b"PAR1")
    with pytest.raises(GtaError, match=r"pip install 'gtacli\[parquet\]'"):
        load_dataset(str(root / "set.parquet"))


def test_json_lines(root: Path) -> None:
    lines = [f'{{"file_name": "{path}", "label": "{label}"}}' for path, label, _ in rows()]
    table = root / "metadata.jsonl"
    table.write_text("\n".join([*lines, ""]))
    assert parts(load_dataset(str(table))) == expected(["train"] * 4)
    table.write_text("\n".join([*lines, "[1]"]))
    with pytest.raises(GtaError, match="line 5: not an object"):
        load_dataset(str(table))


def test_a_column_for_each_class(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ISIC's ground truth. A row with two classes has no label."""
    caplog.set_level(logging.INFO)
    more = [(f"img/a{i}", "1.0", "0.0") for i in (1, 2)] * 5
    lines = [*more, ("img/b1", "0.0", "1.0"), ("img/b2", "1.0", "1.0")]
    data = load_dataset(str(write(root / "set.csv", [("image", "MEL", "NV"), *lines])))
    assert data.classes == ("MEL", "NV")
    assert [r.label for r in data["train"] if r.first is None] == [0, 0, 1]
    assert [one.names for one in data.left_out] == [("line 13",)]
    assert "a column for each of the classes MEL, NV" in caplog.text


def test_numbers_of_a_column_with_gaps(root: Path) -> None:
    """Pandas writes whole numbers as 1.0 where a value is missing."""
    lines = [(path, f"{number}.0") for path, number in zip(NAMES, (2, 10, 10, 2), strict=True)]
    data = load_dataset(str(write(root / "set.csv", [("path", "label"), *lines])))
    assert data.classes == ("2", "10")


def test_accents_of_macos(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    """File names have accents apart there, tables have them composed."""
    make_folder(tmp_path, ["a/Mo\u0308we.png", "a/b.png"])
    table = write(tmp_path / "set.csv", [("id", "label"), ("M\u00f6we", "x"), ("b", "y")])
    assert [r.key for r in load_dataset(str(table))["train"]] == ["a/Mo\u0308we.png", "a/b.png"]


def test_tables_of_a_folder_in_any_case(tmp_path: Path, make_folder: Callable[..., Path]) -> None:
    make_folder(tmp_path, ["Train/1.png", "Train/2.png", "Test/1.png"])
    write(tmp_path / "Train.csv", [("Path", "ClassId"), ("Train/1.png", "0"), ("Train/2.png", "1")])
    write(tmp_path / "Test.csv", [("Path", "ClassId"), ("Test/1.png", "1")])
    assert parts(load_dataset(str(tmp_path))) == {
        "train": [("Train/1.png", "0"), ("Train/2.png", "1")],
        "test": [("Test/1.png", "1")],
    }


def test_a_table_of_test_images_alone_does_not_hide_class_folders(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    make_folder(tmp_path, ["a/1.png", "b/1.png"])
    write(tmp_path / "test.csv", [("id", "label"), ("1", "a")])
    assert load_dataset(str(tmp_path)).classes == ("a", "b")


def test_spreadsheets_are_named(tmp_path: Path) -> None:
    (tmp_path / "birds.xlsx").write_bytes(b"PK")
    with pytest.raises(GtaError, match=r"birds\.xlsx is a file; save the table as CSV"):
        load_dataset(str(tmp_path / "birds.xlsx"))


@pytest.mark.parametrize("images", ["images/", "", "train/"])
def test_the_only_table_beside_images(
    images: str, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    make_folder(tmp_path, [f"{images}1.png", f"{images}2.png", "test/9.png"][: 3 if images else 2])
    write(tmp_path / "labels.csv", [("id", "breed"), ("1", "x"), ("2", "y")])
    write(tmp_path / "sample_submission.csv", [("id", "x", "y"), ("9", "0.5", "0.5")])
    data = load_dataset(str(tmp_path))
    assert parts(data) == {"train": [(f"{images}1.png", "x"), (f"{images}2.png", "y")]}
    unlisted = [one.names for one in data.left_out if one.reason == "listed in no table"]
    assert unlisted == ([("test/9.png",)] if images else [])


def test_class_folders_precede_the_only_table(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    make_folder(tmp_path, ["images/a/1.png", "images/b/2.png"])
    write(tmp_path / "labels.csv", [("id", "breed"), ("1", "x"), ("2", "y")])
    assert load_dataset(str(tmp_path)).classes == ("a", "b")


def test_the_other_one_of_two_columns_has_the_labels(root: Path) -> None:
    """Unless its values are as many as rows."""
    table = write(root / "set.csv", [("Image", "Kind"), *(row[:2] for row in rows())])
    assert parts(load_dataset(str(table))) == expected(["train"] * 4)
    scores = [(path, f"0.{i}") for i, path in enumerate(NAMES)]
    with pytest.raises(GtaError, match="no column of labels"):
        load_dataset(str(write(root / "set.csv", [("Image", "Score"), *scores])))


@pytest.mark.parametrize("empty", ["NaN", "nan", "<NA>", "#N/A"])
def test_cells_that_programs_write_for_nothing_are_no_class(root: Path, empty: str) -> None:
    lines = [HEAD, *rows()[:3], (NAMES[3], empty, "test")]
    data = load_dataset(str(write(root / "all.csv", lines)))
    assert data.classes == ("ant", "bee")
    assert "no label in all.csv" in "; ".join(map(str, data.left_out))


def test_several_labels_of_an_image(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Refused as lists and as columns of ones; combinations in one text are warned of."""
    lists = [("image", "labels"), *((name, f"\"['{label}', 'x']\"") for name, label, _ in rows())]
    with pytest.raises(GtaError, match=r"line 2: \['ant', 'x'\] are several labels"):
        load_dataset(str(write(root / "lists.csv", lists)))
    ones = [("image", "ant", "bee", "x"), *((name, "1", "0", "1") for name in NAMES)]
    with pytest.raises(GtaError, match="line 2: ant and x are 1 in one row, but an image has one"):
        load_dataset(str(write(root / "ones.csv", ones)))
    texts = [("image", "label"), *((name, f"{label}|x") for name, label, _ in rows())]
    data = load_dataset(str(write(root / "texts.csv", texts)))
    assert data.classes == ("ant|x", "bee|x")
    assert "labels such as ant|x look like several ones" in caplog.text
