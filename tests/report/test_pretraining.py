"""Reports of pre-training runs, alone and with other runs, without a browser."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtacli.cli import main
from gtacli.report.groups import group_by_command
from gtacli.report.previews import read_previews
from gtacli.report.run_folders import ReportRun
from tests.report.test_report import PageParser, data_of, page_of


def write(out: Path, runs: Sequence[Path], *words: object) -> PageParser:
    assert main(["report", *map(str, runs), "-o", str(out), "-q", *map(str, words)]) == 0
    return page_of(out)


def summary(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return content


def pictures(page: PageParser) -> dict[str, bytes]:
    texts = {str(attrs["id"]): text for _, attrs, text in page.raw if "id" in attrs}
    return {key: base64.b64decode(text) for key, text in texts.items() if key.startswith("v")}


@pytest.fixture(scope="module")
def page(pretrainings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PageParser:
    return write(tmp_path_factory.mktemp("page") / "report.html", pretrainings)


def test_table_has_means_and_deviations(pretrainings: list[Path], page: PageParser) -> None:
    for pair in (pretrainings[0:2], pretrainings[2:4]):
        for key in ("final_loss", "recon"):
            values = [summary(run)[key] for run in pair]
            assert f"{mean(values):.2f}" in page.words
            assert f"± {stdev(values):.2f}" in page.words
    top1 = [100 * summary(run)["knn_top1"] for run in pretrainings[2:4]]
    assert {f"{value:.1f}" for value in top1} <= {*page.words}
    titles = {"final loss", "reconstruction error", "error inside the object", "k-NN top-1"}
    assert titles <= {*page.words}
    assert "incomplete: 2 of 3 epochs" in page.words
    assert "best_epoch" not in str(page.words)


def test_labels_name_the_guide(page: PageParser) -> None:
    data = data_of(page)
    assert data["commands"] == ["Pre-training"]
    assert [(group["label"], len(group["runs"])) for group in data["groups"]] == [
        ("no guide, images.csv", 2),
        ("dino, images.csv", 2),
        ("dino, shuffled, images.csv", 1),
        ("dino, shuffled, photos", 1),
    ]


def test_curves_contain_the_metrics_and_gaps_for_missing_values(
    pretrainings: list[Path], page: PageParser
) -> None:
    curves = {curve["title"]: curve for curve in data_of(page)["curves"]}
    rows = [json.loads(line) for line in (pretrainings[2] / "metrics.jsonl").open()]
    for title, key in (
        ("training loss", "train_loss"),
        ("error inside the object", "recon_fg"),
        ("error outside the object", "recon_bg"),
        ("tau", "tau"),
    ):
        assert curves[title]["runs"][2] == [row[key] for row in rows]
    assert curves["error inside the object"]["runs"][0] is None  # an unguided run has no object
    neighbours = curves["k-NN top-1"]
    assert neighbours["sparse"]
    assert neighbours["runs"][2] == [None, 100 * rows[1]["knn_top1"], 100 * rows[2]["knn_top1"]]


def test_page_has_every_preview_shrunk(pretrainings: list[Path], page: PageParser) -> None:
    previews, shown = data_of(page)["previews"], pictures(page)
    epochs = [[1, 2, 3]] * 5 + [[1, 2]]
    assert previews == [{"run": n, "epochs": e} for n, e in enumerate(epochs)]
    assert len(shown) == 17
    whole = Image.open(pretrainings[3] / "previews" / "epoch-0002.png").convert("RGB")
    small = Image.open(BytesIO(shown["v3-1"]))
    assert (small.format, small.width) == ("JPEG", 640)
    wanted = np.asarray(whole.resize(small.size, Image.Resampling.LANCZOS), float)
    assert (
        np.abs(np.asarray(small, float) - wanted).mean() < 12
    )  # of 255; the picture is mostly noise


def test_random_weights_have_no_column(page: PageParser) -> None:
    maps = data_of(page)["maps"]
    assert [column["run"] for column in maps["columns"]] == [0, 1, 2, 3, 4, 5]
    assert len({image["label"] for image in maps["images"]}) == 3
    assert data_of(page)["predictions"] is None


def test_images_without_labels_are_shown(pretrainings: list[Path], tmp_path: Path) -> None:
    data = data_of(write(tmp_path / "r.html", pretrainings[5:], "--max-images", 3))
    assert [image["label"] for image in data["maps"]["images"]] == [None] * 3


def test_initial_weights_are_a_source(pretrainings: list[Path], tmp_path: Path) -> None:
    run = shutil.copytree(pretrainings[0], tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["config"]["init"] = str(pretrainings[2])
    (run / "run.json").write_text(json.dumps(record))
    columns = data_of(write(tmp_path / "r.html", [run]))["maps"]["columns"]
    assert [(column["label"], column["run"]) for column in columns] == [
        ("source", None),
        ("seed 1", 0),
    ]


def test_commands_are_separate(runs: list[Path], pretrainings: list[Path], tmp_path: Path) -> None:
    page = write(tmp_path / "r.html", [pretrainings[0], *runs[:2], pretrainings[2]])
    data = data_of(page)
    assert data["commands"] == ["Pre-training", "Fine-tuning"]
    assert [(g["command"], g["runs"]) for g in data["groups"]] == [(0, [0]), (0, [3]), (1, [1, 2])]
    titles = [(curve["command"], curve["title"]) for curve in data["curves"]]
    assert titles.count((0, "training loss")) == titles.count((1, "training loss")) == 1
    assert (0, "cross-entropy") not in titles
    losses = [curve["runs"] for curve in data["curves"] if curve["title"] == "training loss"]
    assert [[run is not None for run in own] for own in losses] == [
        [True, False, False, True],
        [False, True, True, False],
    ]
    assert {"Pre-training", "Fine-tuning", "test top-1", "final loss"} <= {*page.words}
    columns = [column["run"] for column in data["maps"]["columns"]]
    assert columns == [None, 0, 3, 1, 2]
    assert [entry["run"] for entry in data["predictions"]["runs"]] == [1, 2]


def test_no_images_omits_previews(pretrainings: list[Path], tmp_path: Path) -> None:
    page = write(tmp_path / "r.html", pretrainings, "--no-images")
    assert data_of(page)["previews"] == []
    assert pictures(page) == {}


def test_damaged_newest_preview_is_noted_and_earlier_one_skipped(
    pretrainings: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (shutil.copytree(r, tmp_path / r.name) for r in pretrainings[:2])
    (one / "previews" / "epoch-0003.png").write_bytes(b"no picture")
    (two / "previews" / "epoch-0001.png").write_bytes(b"no picture")
    data = data_of(write(tmp_path / "r.html", [one, two]))
    assert data["previews"] == [{"run": 1, "epochs": [2, 3]}]
    assert "its newest preview cannot be read" in capsys.readouterr().err


def make_run(folder: Path, **config: Any) -> ReportRun:
    return ReportRun(folder, folder.name, {"command": "pretrain", "config": config}, None, [])


def test_many_previews_are_thinned_out_and_shrunk(tmp_path: Path) -> None:
    """Six runs of sixteen pictures each keep their newest one, within the size limit."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (150, 74, 3), dtype=np.uint8))
    sheet = coarse.resize((936, 1891), Image.Resampling.BICUBIC)
    previews_of_first = tmp_path / "0" / "previews"
    previews_of_first.mkdir(parents=True)
    first = previews_of_first / "epoch-0001.png"
    sheet.save(first, compress_level=1)
    for epoch in range(2, 17):
        os.link(first, previews_of_first / f"epoch-{epoch:04d}.png")
    for number in range(1, 6):
        (tmp_path / str(number)).symlink_to(tmp_path / "0")
    runs = [make_run(tmp_path / str(number)) for number in range(6)]
    room = 9 * 2**18
    previews, missing = read_previews(runs, room)
    assert missing == []
    assert sum(len(jpeg) for one in previews for jpeg in one.pictures) * 4 / 3 <= room
    assert all(one.epochs[-1] == 16 for one in previews)
    assert all(1 < len(one.epochs) < 16 for one in previews)
    assert len({one.epochs for one in previews}) == 1
    (least,), _ = read_previews(runs[:1], 1)
    assert least.epochs == (16,)
    assert Image.open(BytesIO(least.pictures[0])).width == 240


PLAIN = {
    "guide": None,
    "maps": None,
    "teacher": None,
    "tau": "1:0.5",
    "method": "mae",
    "mask": "random",
}


@pytest.mark.parametrize(
    ("changes", "labels", "columns"),
    [
        ([{}], ["mae"], ()),
        ([{}, {"maps": "runs/m"}], ["no guide", "guided"], ("guide", "tau")),
        (
            [{"maps": "m"}, {"maps": "m", "shuffle_maps": True}, {"maps": "m", "guide": "none"}],
            ["guided", "shuffled maps", "no guide"],
            ("guide", "tau"),
        ),
        (
            [{"maps": "m"}, {"maps": "m", "tau": 0.3}, {"guide": "none"}],
            ["guided, tau 1:0.5", "guided, tau 0.3", "no guide"],
            ("guide", "tau"),
        ),
        (
            [{"maps": "a/m"}, {"maps": "a/n"}],
            ["maps m", "maps n"],
            ("maps",),
        ),
        ([{"teacher": "t"}, {"method": "crossmae"}], ["tokencut, mae", "no guide, crossmae"],
         ("guide", "tau", "method")),
        ([{}, {"previews_every": 1, "knn_every": 0}], ["mae"], ()),
        # maps that are used only for metrics do not change the method
        ([{}, {"maps": "m", "guide": "none"}, {"guide": "none", "tau": 0.1}], ["mae"], ()),
        (
            [{"guide": "none"}, {"guide": "none", "maps": "m", "mask": "attention"}],
            ["mask random", "mask attention, maps m"],
            ("maps", "mask"),
        ),
    ],
)  # fmt: skip
def test_labels_of_pre_training_settings(
    changes: list[dict[str, Any]], labels: list[str], columns: tuple[str, ...]
) -> None:
    runs = [make_run(Path(str(n)), **PLAIN | change) for n, change in enumerate(changes)]
    (command,) = group_by_command(runs)
    assert [group.label for group in command.groups] == labels
    assert {*command.keys} == {*columns}
