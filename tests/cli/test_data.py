"""Tests of `gta data check`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def test_dataset_without_problems(gta: Any, tiny_data: Path) -> None:
    result = gta("data", "check", str(tiny_data))
    assert result.status == 0
    assert "tiny-data: 30 images, 3 classes" in result.out
    assert "published" not in result.out
    assert result.out.endswith("all is well\n")
    (report,) = gta("data", "check", "folder", str(tiny_data), "--json").lines
    assert report["data"] == f"folder:{tiny_data}"
    assert (report["ok"], report["wrong"]) == (True, [])
    assert report["parts"]["test"]["images"] == 12


def test_unreadable_and_duplicate_images(gta: Any, tiny_data: Path) -> None:
    for i in range(1, 6):
        (tiny_data / f"train/red/{i}.png").write_bytes(b"no image")
    copy = (tiny_data / "train/blue/0.png").read_bytes()
    (tiny_data / "test/blue/3.png").write_bytes(copy)
    result = gta("data", "check", str(tiny_data))
    assert result.status == 1
    assert result.out.count("not an image") == 5
    assert "the same image: train: train/blue/0.png = test: test/blue/3.png" in result.out
    assert "wrong: 5 images are unreadable, first train/red/1.png" in result.out
    (report,) = gta("data", "check", str(tiny_data), "--json").lines
    assert [row["image"] for row in report["unreadable"]] == [
        f"train/red/{i}.png" for i in range(1, 6)
    ]
    assert gta("data", "check", str(tiny_data), "--quick").status == 1  # the duplicate


def test_long_lists_are_truncated(gta: Any, tiny_data: Path) -> None:
    for path in tiny_data.glob("train/*/*.png"):
        path.write_bytes(path.name.encode() + path.parent.name.encode())
    out = gta("data", "check", str(tiny_data)).out
    assert out.count("not an image") == 10
    assert "… and 8 more (--json lists all)" in out


def test_unreadable_dataset(gta: Any, tmp_path: Path) -> None:
    for words in (["pets", str(tmp_path)], ["pets", "gone"], ["torch/cifar10", str(tmp_path)]):
        result = gta("data", "check", *words)
        assert result.status == 2
        assert result.out == ""
        assert result.err.startswith("error: ")
    assert "published at https://www.robots" in gta("data", "check", "pets", str(tmp_path)).err
    assert gta("data", "check", "pest", str(tmp_path)).status == 2


def test_family_with_name_and_root(gta: Any, tmp_path: Path) -> None:
    result = gta("data", "check", "wds", str(tmp_path))
    assert result.status == 2
    assert f"wds/{tmp_path}: no .tar in that folder" in result.err


def test_what_is_left_out_is_counted(gta: Any, tiny_data: Path) -> None:
    """All is well only where all is read; a table's missing image is a problem."""
    (tiny_data / "train/red/notes.txt").write_text("x")
    (tiny_data / "test/new").mkdir()
    shutil.copy(tiny_data / "test/red/0.png", tiny_data / "test/new/0.png")
    done = gta("data", "check", str(tiny_data))
    assert done.status == 0
    assert "left out: 1 file (1 .txt): of no known image type, first train/red/notes" in done.out
    assert "classes without training images, left out where one learns: 'new'" in done.out
    assert done.out.endswith("what is read is well\n")
    (report,) = gta("data", "check", str(tiny_data), "--json").lines
    assert (report["ok"], report["unseen"]) == (True, ["new"])
    assert report["left_out"] == [
        {
            "kind": "files",
            "reason": "of no known image type",
            "count": 1,
            "suffixes": {".txt": 1},
            "names": ["train/red/notes.txt"],
        }
    ]


def test_columns_of_a_table(gta: Any, tiny_data: Path) -> None:
    table = tiny_data / "set.csv"
    table.write_text("nr,kind\ntrain/red/0.png,a\ntrain/blue/0.png,b\ntrain/no.png,b\n")
    refused = gta("data", "check", str(table))
    assert refused.status == 2
    assert "name it, as in --columns image=NAME,label=NAME" in refused.err
    done = gta("data", "check", str(table), "--columns", "image=nr,label=kind")
    assert done.status == 1
    assert "set: 2 images, 2 classes" in done.out
    assert "wrong: left out: 1 image: no such image, first train/no.png" in done.out
    assert gta("data", "check", str(tiny_data), "--columns", "image=nr").status == 2


def test_one_class(gta: Any, tmp_path: Path, make_image: Any) -> None:
    make_image(tmp_path / "only/1.png")
    done = gta("data", "check", str(tmp_path))
    assert done.status == 1
    assert "has one class alone, 'only'" in done.out
    refused = gta("finetune", "--data", str(tmp_path), "--model", "demo")
    assert refused.status == 2
    assert "--data: " in refused.err
    assert "has one class alone" in refused.err


def test_any_number_of_labels(gta: Any, tiny_data: Path) -> None:
    rows = ["red/0.png,warm|bright", "red/1.png,warm", "blue/0.png,", "blue/1.png,cold|bright"]
    table = tiny_data / "train" / "set.csv"
    table.write_text("\n".join(("image,labels", *rows)) + "\n")
    result = gta("data", "check", str(table), "--multi-label")
    assert result.status == 0
    assert "set: 4 images, 3 classes" in result.out
    (report,) = gta("data", "check", str(table), "--multi-label", "--json").lines
    train = report["parts"]["train"]
    assert (train["labels"], train["unlabeled"], train["fewest"], train["most"]) == (1.25, 1, 1, 2)
    assert "unless --multi-label says that they are several" in gta("data", "check", str(table)).err
    refused = gta("data", "check", str(tiny_data), "--multi-label")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
