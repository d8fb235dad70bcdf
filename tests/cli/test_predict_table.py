"""Tests of `gta predict --csv`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from PIL import Image

from gtacli.cli.prediction_table import PredictionTable
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
    table = PredictionTable(lines.append, 1)
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
    table = PredictionTable(lines.append, 1)
    top = {"class": f"{start}HYPERLINK(1)", "index": 0, "probability": 0.5}
    table.add({"image": f"{start}1.png", "top": [top]})  # type: ignore[typeddict-item]
    assert lines[1] == f"'{start}1.png,'{start}HYPERLINK(1),0.5"
