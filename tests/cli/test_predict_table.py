"""Tests of `gta predict --csv` and `--parquet`."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from PIL import Image

from gtacli.inference.prediction_table import CsvTable, TableShape
from gtacli.inference.stream import Failure
from tests.cli.conftest import Gta


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three files, the second of which is no image; the working folder is their parent."""
    folder = tmp_path / "new"
    folder.mkdir()
    for name in ("a, b.png", "c.png"):
        Image.effect_noise((32, 32), 60).convert("RGB").save(folder / name)
    (folder / "b.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    return folder


def rows(text: str) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(text))]


def test_the_table_has_a_header_and_a_row_per_image(gta: Gta, photos: Path) -> None:
    done = gta("predict", "new", "-m", "demo", "--top", "2", "--csv", "out/species.csv")
    assert done.status == 1
    table = rows(Path("out/species.csv").read_text())
    assert [*table[0]] == ["image", "class", "probability", "class2", "probability2"]
    assert [row["image"] for row in table] == ["new/a, b.png", "new/b.png", "new/c.png"]
    assert set(table[1].values()) == {"new/b.png", ""}  # unreadable, and named
    assert float(table[0]["probability"]) >= float(table[0]["probability2"]) > 0
    assert len(done.out.splitlines()) == 2  # the lines are printed too
    json = gta("predict", "new", "-m", "demo", "--json").lines[0]["top"][0]
    assert table[0]["class"] == json["class"]
    assert float(table[0]["probability"]) == pytest.approx(json["probability"], rel=1e-4)


def test_a_dash_is_stdout_instead_of_the_lines(gta: Gta, photos: Path) -> None:
    done = gta("predict", "new/c.png", "-m", "demo", "--top", "999", "--csv", "-")
    assert done.status == 0
    (row,) = rows(done.out)
    assert sum(float(v) for k, v in row.items() if k.startswith("probability")) == pytest.approx(1)
    assert gta("predict", "new", "-m", "demo", "--csv", "-", "--json").status == 2


def test_parquet_has_the_columns_of_the_csv(gta: Gta, photos: Path) -> None:
    from pyarrow import parquet

    (photos / os.fsdecode(b"\xff.png")).write_bytes((photos / "c.png").read_bytes())
    words = ["predict", "new", "-m", "demo", "--top", "2", "--unsure", "0.999"]
    done = gta(*words, "--csv", "p.csv", "--parquet", "out/p.parquet")
    assert done.status == 1
    table = parquet.read_table("out/p.parquet")
    assert [str(kind) for kind in table.schema.types] == [
        "string", "string", "double", "string", "double", "bool"
    ]  # fmt: skip
    texts = rows(Path("p.csv").read_text())
    assert table.column_names == [*texts[0]]
    found = table.to_pylist()
    assert [row["image"] for row in found][:3] == [row["image"] for row in texts][:3]
    assert found[3]["image"] == "new/\\xff.png"
    assert [row["class"] or "" for row in found] == [row["class"] for row in texts]
    assert found[1] == dict.fromkeys(table.column_names) | {"image": "new/b.png"}
    for row, text in zip(found, texts, strict=True):
        if row["class"] is not None:
            assert row["probability"] == pytest.approx(float(text["probability"]), rel=1e-4)
            assert row["unsure"] is (text["unsure"] == "yes")


def test_a_table_of_no_image_has_its_columns(
    gta: Gta, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    gta("predict", "-", "-m", "demo", "--top", "1", "--csv", "p.csv", "--parquet", "p.parquet")
    assert Path("p.csv").read_text() == "image,class,probability\n"
    table = parquet.read_table("p.parquet")
    assert (table.num_rows, table.column_names) == (0, ["image", "class", "probability"])


def test_parquet_without_pyarrow_and_other_names(
    gta: Gta, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = gta("predict", "new", "-m", "demo", "--parquet", "p.csv")
    assert done.status == 2
    assert "does not end in .parquet" in done.err
    monkeypatch.setattr("gtacli.cli.predict.find_spec", lambda name: None)
    done = gta("predict", "new", "-m", "demo", "--parquet", "p.parquet")
    assert done.status == 2
    assert "pip install 'gtacli[parquet]'" in done.err


@pytest.mark.parametrize(
    ("place", "said"), [("new/c.png", "does not end in .csv"), ("d.csv", "folder")]
)
def test_a_table_replaces_no_image_and_no_folder(
    gta: Gta, photos: Path, place: str, said: str
) -> None:
    Path("d.csv").mkdir()
    before = (photos / "c.png").read_bytes()
    done = gta("predict", "new/c.png", "-m", "demo", "--csv", place)
    assert done.status == 2
    assert f"--csv: {place}" in done.err
    assert said in done.err
    assert (photos / "c.png").read_bytes() == before


def test_every_row_is_one_line() -> None:
    lines: list[str] = []
    table = CsvTable(lines.append, TableShape(1))
    table.add({"image": "a\nb.png", "top": [{"class": 'a "fine" one', "probability": 1e-9}]})
    table.add(Failure("\x1b[2J.png", "bad"))
    assert lines == [
        "image,class,probability",
        'a\\nb.png,"a ""fine"" one",1e-09',
        "\\x1b[2J.png,,",
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@"])
def test_no_cell_is_a_formula(start: str) -> None:
    lines: list[str] = []
    table = CsvTable(lines.append, TableShape(1))
    top = {"class": f"{start}HYPERLINK(1)", "index": 0, "probability": 0.5}
    table.add({"image": f"{start}1.png", "top": [top]})  # type: ignore[typeddict-item]
    assert lines[1] == f"'{start}1.png,'{start}HYPERLINK(1),0.5"
