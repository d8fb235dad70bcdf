"""Tests of tables whose images have any number of labels."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gtacli.data import ImageDataset, load_dataset
from gtacli.data.readers.label_cells import split_labels
from gtacli.errors import GtaError

NAMES = ("0.png", "1.png", "2.png", "3.png")
EXPECTED = [("cat", "dog"), (), ("cat",), ("a bird",)]


@pytest.fixture
def root(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    return make_folder(tmp_path, NAMES)


def labels_of(data: ImageDataset) -> list[tuple[str, ...]]:
    return [tuple(data.classes[i] for i in record.every_label) for _, record in data.records()]


def write(path: Path, header: str, cells: Sequence[str]) -> str:
    lines = (f"{name},{cell}" for name, cell in zip(NAMES, cells, strict=True))
    path.write_text("\n".join((header, *lines)) + "\n")
    return str(path)


@pytest.mark.parametrize(
    "cells",
    [
        ("cat|dog", "", "cat", "a bird"),
        ("cat; dog", "nan", "cat", "a bird"),
        ('"cat, dog"', "NaN", "cat", "a bird"),
        ("\"['cat', 'dog']\"", "[]", "['cat']", "['a bird']"),
        ('"[""cat"", ""dog""]"', "[]", "cat", "a bird"),
        ("\"{'dog', 'cat'}\"", "", '"[""cat""]"', "a bird"),
        ("dog|cat|dog", " | ", "cat|", "a bird"),
    ],
)
def test_cells(root: Path, cells: Sequence[str]) -> None:
    data = load_dataset(write(root / "set.csv", "image,labels", cells), multi_label=True)
    assert data.multi_label
    assert data.classes == ("a bird", "cat", "dog")
    assert labels_of(data) == EXPECTED
    assert all(record.label == -1 for _, record in data.records())


def test_spaces_separate_where_nothing_else_does(root: Path) -> None:
    """As in tables of Kaggle's competitions; numbers are sorted by value."""
    path = write(root / "train.csv", "Id,Target", ("16 0", "7", "", "0 2"))
    data = load_dataset(path, multi_label=True)
    assert data.classes == ("0", "2", "7", "16")
    assert labels_of(data) == [("0", "16"), ("7",), (), ("0", "2")]


def test_json_lines(root: Path) -> None:
    rows = [{"image": n, "labels": list(own)} for n, own in zip(NAMES, EXPECTED, strict=True)]
    del rows[1]["labels"]
    (root / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert labels_of(load_dataset(str(root / "set.jsonl"), multi_label=True)) == EXPECTED


def test_lists_in_parquet(root: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    lists = [["cat", "dog"], None, ["cat"], ["a bird"]]
    parquet.write_table(pa.table({"image": NAMES, "labels": lists}), root / "set.parquet")
    assert labels_of(load_dataset(str(root / "set.parquet"), multi_label=True)) == EXPECTED
    numbers = pa.array([[7, 10], [], None, [2]])
    parquet.write_table(pa.table({"image": NAMES, "labels": numbers}), root / "set.parquet")
    data = load_dataset(str(root / "set.parquet"), multi_label=True)
    assert data.classes == ("2", "7", "10")


def test_few_bytes_of_parquet_that_are_long_lists_are_refused(root: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    long = ["x" * 100_000] * 1000
    table = pa.table({"image": NAMES, "labels": [long] * 4})
    parquet.write_table(table, root / "set.parquet", compression="zstd")
    with pytest.raises(GtaError, match=r"characters|labels in"):
        load_dataset(str(root / "set.parquet"), multi_label=True)


@pytest.mark.parametrize("yes", ["1", "1.0", "True", "yes"])
@pytest.mark.parametrize("no", ["0", "", "nan"])
def test_columns_of_zeros_and_ones(root: Path, yes: str, no: str) -> None:
    """Their order is kept; a column without any one is a class, too."""
    cells = [f"{yes},{yes},{no},0,train,7", f"{no},0,{no},0,train,8"]
    cells += [f"{yes},{no},{no},0,train,9", f"{no},{no},{no},0,test,10"]
    data = load_dataset(
        write(root / "set.csv", "image,dog,cat,emu,gnu,split,age", cells), multi_label=True
    )
    assert data.classes[:2] == ("dog", "cat")
    assert "gnu" in data.classes
    assert "age" not in data.classes
    assert labels_of(data) == [("dog", "cat"), (), ("dog",), ()]
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 3, "test": 1}


def test_uncertain_labels_are_refused(root: Path) -> None:
    path = write(root / "set.csv", "image,dog,cat", ("1,1", "0,-1.0", "0,0", "1,"))
    with pytest.raises(GtaError, match=r"line 3: cat is -1, neither 0 nor 1"):
        load_dataset(path, multi_label=True)


def test_labels_of_several_rows_are_put_together(root: Path) -> None:
    rows = "ImageID,LabelName\n0,cat\n0,dog\n1,cat\n0,cat\n"
    (root / "set.csv").write_text(rows)
    data = load_dataset(str(root / "set.csv"), multi_label=True)
    assert [(r.key, r.labels, r.first) for r in data["train"]] == [
        ("0.png", (0, 1), None),
        ("1.png", (0,), None),
    ]


def test_an_image_in_two_splits_is_refused(root: Path) -> None:
    (root / "set.csv").write_text("image,tags,split\n0.png,cat,train\n0.png,dog,test\n")
    with pytest.raises(GtaError, match=r"line 3: 0\.png is listed twice"):
        load_dataset(str(root / "set.csv"), multi_label=True)


def test_a_folder_of_tables(root: Path) -> None:
    write(root / "train.csv", "image,tags", ("cat|dog", "dog", "", "cat"))
    assert load_dataset(str(root), multi_label=True).classes == ("cat", "dog")


def test_one_line_names_the_option(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for header, cells in (
        ("image,labels", ["\"['cat', 'dog']\""] * 4),
        ("image,dog,cat", ["1,1"] * 4),
    ):
        with pytest.raises(GtaError, match="`multi_label`") as error:
            load_dataset(write(root / "set.csv", header, cells))
        assert "\n" not in str(error.value)
    load_dataset(write(root / "set.csv", "image,labels", ("cat|dog", "dog", "cat", "cat|dog")))
    assert "unless `multi_label` says" in caplog.text
    numbers = [
        f"{i}.png,{' '.join(str(b) for b in range(4) if (i >> b) & 1)}" for i in range(1, 16)
    ]
    (root / "many.csv").write_text("\n".join(("image,Target", *numbers)) + "\n")
    for i in range(1, 16):
        (root / f"{i}.png").write_bytes((root / "0.png").read_bytes())
    caplog.clear()
    load_dataset(str(root / "many.csv"))
    assert caplog.text.count("unless `multi_label` says") == 1
    names = [f"{i}.png,{c} {n}" for i, (c, n) in enumerate([("black", "cat"), ("grey", "cat")])]
    (root / "names.csv").write_text("\n".join(("image,label", *names)) + "\n")
    caplog.clear()
    load_dataset(str(root / "names.csv"))
    assert "multi_label" not in caplog.text


def test_other_datasets_have_one_class_for_each_image(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(tmp_path, ["train/a/0.png", "train/b/1.png"])
    with pytest.raises(GtaError, match=r"no train\.csv"):
        load_dataset(str(folder), multi_label=True)
    with pytest.raises(GtaError, match="has one class for each image"):
        load_dataset("demo", multi_label=True)


def test_fingerprints_depend_on_the_labels(root: Path) -> None:
    def fingerprint(first: str) -> str:
        path = write(root / "set.csv", "image,labels", (first, "dog", "cat", "dog;cat"))
        return load_dataset(path, multi_label=True).fingerprint()

    assert fingerprint("cat;dog") == fingerprint("dog;cat") != fingerprint("cat")


def test_hostile_tables(root: Path) -> None:
    """Long labels, very many classes, quotes; too many labels of one image are refused."""
    long = "x" * 100_000
    data = load_dataset(
        write(root / "set.csv", "image,labels", (f"{long}|y", "'\"", "[", "]|{|y")), True
    )
    assert long in data.classes
    many = "|".join(map(str, range(9_000)))
    more = "|".join(map(str, range(9_000, 18_000)))
    data = load_dataset(write(root / "set.csv", "image,labels", (many, more, "1", "")), True)
    assert len(data.classes) == 18_000
    cells = ("|".join(map(str, range(12_000))), "1", "2", "3")
    path = write(root / "set.csv", "image,labels", cells)
    with pytest.raises(GtaError, match="line 2: 12,000 labels of one image; at most 10,000"):
        load_dataset(path, True)
    path = write(root / "set.csv", "image,labels", ("", "", "nan", ""))
    with pytest.raises(GtaError, match="no row has a label"):
        load_dataset(path, True)


def test_very_many_columns(root: Path) -> None:
    header = "image," + ",".join(f"c{i}" for i in range(99_000))
    row = ",".join("1" if i % 50_000 == 7 else "0" for i in range(99_000))
    data = load_dataset(write(root / "set.csv", header, (row,) * 4), multi_label=True)
    assert len(data.classes) == 99_000
    assert data["train"][0].labels == (7, 50_007)


names = st.text(
    st.characters(exclude_characters="|;,[]{}\"'\\", exclude_categories=("Z", "C")),
    min_size=1,
    max_size=8,
).filter(lambda name: name.lower() not in ("nan", "<na>", "#n/a"))
rows = st.lists(st.lists(names, max_size=5, unique=True), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(rows, st.sampled_from("|;, "))
def test_written_labels_are_read(labels: list[list[str]], mark: str) -> None:
    several = any(len(own) > 1 for own in labels)
    cells = [mark.join(own) for own in labels]
    if several or mark == " ":
        assert split_labels(cells) == [tuple(own) for own in labels]
    assert split_labels([json.dumps(own) for own in labels]) == [tuple(own) for own in labels]
    assert split_labels([repr(own) for own in labels]) == [tuple(own) for own in labels]


@given(st.lists(st.text(max_size=40), max_size=6))
def test_any_text_is_read(cells: list[str]) -> None:
    stripped = [cell.strip() for cell in cells]
    for own in split_labels(stripped):
        assert len(set(own)) == len(own)
        assert all(label and label == label.strip() for label in own)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(names, max_size=4, unique=True), min_size=4, max_size=4))
def test_a_table_is_read_as_it_was_written(root: Path, labels: list[list[str]]) -> None:
    if not any(labels):
        return
    with (root / "set.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "labels"])
        writer.writerows([n, json.dumps(own)] for n, own in zip(NAMES, labels, strict=True))
    found = labels_of(load_dataset(str(root / "set.csv"), multi_label=True))
    normal = [{unicodedata.normalize("NFC", name) for name in own} for own in labels]
    assert [set(own) for own in found] == normal
