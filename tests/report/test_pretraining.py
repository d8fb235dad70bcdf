"""Reports of pre-training runs, alone and among others, without a browser."""

from __future__ import annotations

import base64
import json
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
from gtacli.report.groups import kinds_of
from gtacli.report.previews import read_previews
from gtacli.report.runs import Run
from tests.report.test_report import Reader, data_of, page_of


def write(out: Path, runs: Sequence[Path], *words: object) -> Reader:
    assert main(["report", *map(str, runs), "-o", str(out), "-q", *map(str, words)]) == 0
    return page_of(out)


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def pictures(page: Reader) -> dict[str, bytes]:
    found = {str(attrs["id"]): text for _, attrs, text in page.raw if "id" in attrs}
    return {key: base64.b64decode(text) for key, text in found.items() if key.startswith("v")}


@pytest.fixture(scope="module")
def page(pretrainings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return write(tmp_path_factory.mktemp("page") / "report.html", pretrainings)


def test_the_table_has_means_and_deviations_of_what_was_measured(
    pretrainings: list[Path], page: Reader
) -> None:
    for pair in (pretrainings[0:2], pretrainings[2:4]):
        for key in ("final_loss", "recon"):
            values = [summary(run)[key] for run in pair]
            assert f"{mean(values):.2f}" in page.words
            assert f"± {stdev(values):.2f}" in page.words
    top1 = [100 * summary(run)["knn_top1"] for run in pretrainings[2:4]]
    assert {f"{value:.1f}" for value in top1} <= {*page.words}
    heads = {"final loss", "error of a masked patch", "inside the object", "outside", "k-NN top-1"}
    assert heads <= {*page.words}
    assert "incomplete: 2 of 3 epochs" in page.words
    assert "best_epoch" not in str(page.words)


def test_labels_say_what_guides(page: Reader) -> None:
    told = data_of(page)
    assert told["kinds"] == ["Pre-training"]
    assert [(group["label"], len(group["runs"])) for group in told["groups"]] == [
        ("no guide, images.csv", 2),
        ("dino, images.csv", 2),
        ("dino, shuffled, images.csv", 1),
        ("dino, shuffled, photos", 1),
    ]


def test_curves_hold_the_metrics_and_gaps_where_there_were_none(
    pretrainings: list[Path], page: Reader
) -> None:
    curves = {curve["title"]: curve for curve in data_of(page)["curves"]}
    rows = [json.loads(line) for line in (pretrainings[2] / "metrics.jsonl").open()]
    for title, key in (
        ("training loss", "train_loss"),
        ("error inside the object", "recon_fg"),
        ("error outside", "recon_bg"),
        ("tau", "tau"),
    ):
        assert curves[title]["runs"][2] == [row[key] for row in rows]
    assert curves["error inside the object"]["runs"][0] is None  # nothing found its object
    neighbours = curves["k-NN top-1"]
    assert neighbours["sparse"]
    assert neighbours["runs"][2] == [None, 100 * rows[1]["knn_top1"], 100 * rows[2]["knn_top1"]]


def test_every_preview_is_there_small(pretrainings: list[Path], page: Reader) -> None:
    told, shown = data_of(page)["previews"], pictures(page)
    epochs = [[1, 2, 3]] * 5 + [[1, 2]]
    assert told == [{"run": n, "epochs": e} for n, e in enumerate(epochs)]
    assert len(shown) == 17
    whole = Image.open(pretrainings[3] / "previews" / "epoch-0002.png").convert("RGB")
    small = Image.open(BytesIO(shown["v3-1"]))
    assert (small.format, small.width) == ("JPEG", 640)
    wanted = np.asarray(whole.resize(small.size, Image.Resampling.LANCZOS), float)
    assert np.abs(np.asarray(small, float) - wanted).mean() < 12  # of 255; it is mostly noise


def test_attention_of_the_encoders_alone(page: Reader) -> None:
    """Random weights are nothing to compare with."""
    maps = data_of(page)["maps"]
    assert [column["run"] for column in maps["columns"]] == [0, 1, 2, 3, 4, 5]
    assert len({image["label"] for image in maps["images"]}) == 3
    assert data_of(page)["answers"] is None


def test_images_without_labels_are_looked_at_too(pretrainings: list[Path], tmp_path: Path) -> None:
    told = data_of(write(tmp_path / "r.html", pretrainings[5:], "--max-images", 3))
    assert [image["label"] for image in told["maps"]["images"]] == [None] * 3


def test_other_weights_are_a_source_to_compare_with(
    pretrainings: list[Path], tmp_path: Path
) -> None:
    run = shutil.copytree(pretrainings[0], tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record["config"]["init"] = str(pretrainings[2])
    (run / "run.json").write_text(json.dumps(record))
    columns = data_of(write(tmp_path / "r.html", [run]))["maps"]["columns"]
    assert [(column["label"], column["run"]) for column in columns] == [
        ("source", None),
        ("seed 1", 0),
    ]


def test_kinds_do_not_mix(runs: list[Path], pretrainings: list[Path], tmp_path: Path) -> None:
    page = write(tmp_path / "r.html", [pretrainings[0], *runs[:2], pretrainings[2]])
    told = data_of(page)
    assert told["kinds"] == ["Pre-training", "Fine-tuning"]
    assert [(g["kind"], g["runs"]) for g in told["groups"]] == [(0, [0]), (0, [3]), (1, [1, 2])]
    titles = [(curve["kind"], curve["title"]) for curve in told["curves"]]
    assert titles.count((0, "training loss")) == titles.count((1, "training loss")) == 1
    assert (0, "cross-entropy") not in titles
    losses = [curve["runs"] for curve in told["curves"] if curve["title"] == "training loss"]
    assert [[run is not None for run in of_kind] for of_kind in losses] == [
        [True, False, False, True],
        [False, True, True, False],
    ]
    assert {"Pre-training", "Fine-tuning", "test top-1", "final loss"} <= {*page.words}
    columns = [column["run"] for column in told["maps"]["columns"]]
    assert columns == [None, 0, 3, 1, 2]
    assert [entry["run"] for entry in told["answers"]["runs"]] == [1, 2]


def test_without_images_there_are_no_previews(pretrainings: list[Path], tmp_path: Path) -> None:
    page = write(tmp_path / "r.html", pretrainings, "--no-images")
    assert data_of(page)["previews"] == []
    assert pictures(page) == {}


def test_a_damaged_preview_is_told_and_an_earlier_one_left_out(
    pretrainings: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (shutil.copytree(r, tmp_path / r.name) for r in pretrainings[:2])
    (one / "previews" / "epoch-0003.png").write_bytes(b"no picture")
    (two / "previews" / "epoch-0001.png").write_bytes(b"no picture")
    told = data_of(write(tmp_path / "r.html", [one, two]))
    assert told["previews"] == [{"run": 1, "epochs": [2, 3]}]
    assert "its newest preview cannot be read" in capsys.readouterr().err


def run_of(folder: Path, **config: Any) -> Run:
    return Run(folder, folder.name, {"command": "pretrain", "config": config}, None, [])


def test_many_previews_are_thinned_and_shrunk_into_their_room(tmp_path: Path) -> None:
    """Twenty runs of forty pictures each; the newest of each stays, and the page its size."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (150, 74, 3), dtype=np.uint8))
    sheet = coarse.resize((936, 1891), Image.Resampling.BICUBIC)
    (tmp_path / "0" / "previews").mkdir(parents=True)
    for epoch in range(1, 41):
        sheet.save(tmp_path / "0" / "previews" / f"epoch-{epoch:04d}.png", compress_level=1)
        if epoch == 1:
            first = tmp_path / "0" / "previews" / "epoch-0001.png"
            continue
    for number in range(1, 20):
        (tmp_path / str(number)).symlink_to(first.parents[1])
    runs = [run_of(tmp_path / str(number)) for number in range(20)]
    room = 6 * 2**20
    found, missing = read_previews(runs, room)
    assert missing == []
    assert sum(len(jpeg) for one in found for jpeg in one.pictures) * 4 / 3 <= room
    assert all(one.epochs[-1] == 40 for one in found)
    assert len({one.epochs for one in found}) == 1
    (least,), _ = read_previews(runs[:1], 1)
    assert least.epochs == (40,)
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
        # maps that only measure are no method
        ([{}, {"maps": "m", "guide": "none"}, {"guide": "none", "tau": 0.1}], ["mae"], ()),
        (
            [{"guide": "none"}, {"guide": "none", "maps": "m", "mask": "attention"}],
            ["mask random", "mask attention, maps m"],
            ("maps", "mask"),
        ),
    ],
)  # fmt: skip
def test_what_pre_training_settings_are_called(
    changes: list[dict[str, Any]], labels: list[str], columns: tuple[str, ...]
) -> None:
    runs = [run_of(Path(str(n)), **PLAIN | change) for n, change in enumerate(changes)]
    (kind,) = kinds_of(runs)
    assert [group.label for group in kind.groups] == labels
    assert {*kind.keys} == {*columns}
