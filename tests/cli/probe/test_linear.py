"""Tests of `gta probe linear`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import binomtest

from gtacli.probing.results import LinearResult

TINY = {"embed_dim": 24, "depth": 5, "num_heads": 3, "img_size": 32, "patch_size": 8}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    arch = "vit_tiny_patch16_224"
    network = timm.create_model(arch, num_classes=7, **TINY)
    folder = tmp_path / "model"
    folder.mkdir()
    metadata = {"architecture": arch, "kwargs": json.dumps(TINY), "num_classes": "7"}
    save_file(network.state_dict(), folder / "model.safetensors", metadata)
    return folder


def photos(root: Path, **counts: int) -> Path:
    for part, count in counts.items():
        for label in range(3):
            for i in range(count):
                rng = np.random.default_rng((len(part), label, i))
                pixels = rng.integers(0, 206, (36, 44, 3))
                pixels[..., label] += 50
                path = root / part / f"class{label}" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return photos(tmp_path / "data", train=10, test=6)


def words(model: Path, data: Path, out: Path, *more: object) -> list[str]:
    start = ["probe", "linear", "-m", str(model), "--data", str(data), "-o", str(out)]
    return [*start, "--device", "cpu", *map(str, more)]


def test_the_result_has_the_choice_of_the_sweep(
    gta: Any, check_fields: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    done = gta(*words(model, data, tmp_path / "out", "--json"))
    assert done.status == 0, done.err
    (line,) = done.lines
    check_fields(LinearResult, line)
    assert (line["task"], line["protocol"], line["solver"]) == ("linear", "sweep", "logistic")
    assert (line["heads"], line["c"], line["lr"], line["folds"]) == (4, 10, None, 5)
    assert (line["chosen_on"], line["n_chosen_on"]) == ("folds", 30)
    assert (line["n_train"], line["n_test"], line["test_part"]) == (30, 18, "test")
    assert line["top1"] > 0.6
    assert line["features"] in ("cls", "mean", "cls+mean")
    assert line["layer"] in ([4], [1, 2, 3, 4])
    interval = binomtest(round(18 * line["top1"]), 18).proportion_ci(0.95, "wilson")
    assert line["top1_interval"] == pytest.approx([interval.low, interval.high])
    assert json.loads((tmp_path / "out/summary.json").read_text())["results"] == [line]
    # Five columns (four blocks, one mean) of two splits.
    assert len(list((tmp_path / "out/features").iterdir())) == 10
    assert "logistic regression with c 10" in done.err
    done = gta(*words(model, data, tmp_path / "out", "--json", "--solver", "sgd"))
    (line,) = done.lines
    check_fields(LinearResult, line)
    assert (line["solver"], line["heads"]) == ("sgd", 52)
    assert (line["chosen_on"], line["n_chosen_on"]) == ("held-out", 6)
    assert "learning rate" in done.err


def test_penalties_and_folds_are_for_logistic_regression(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    done = gta(*words(model, data, tmp_path / "out", "--json", "--c", "3,30", "--folds", 3))
    (line,) = done.lines
    assert (line["solver"], line["heads"], line["folds"]) == ("logistic", 8, 3)
    assert line["c"] in (3, 30)


def test_given_features_are_the_only_choice(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    done = gta(
        *words(
            model, data, tmp_path / "o", "--features", "mean", "--layer=-2", "--lr", "1,2", "--json"
        )
    )
    (line,) = done.lines
    assert (line["features"], line["layer"], line["heads"]) == ("mean", [3], 2)


def test_one_folder_for_both_protocols_and_k_nn(
    gta: Any, check_fields: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quick = ("--protocol", "mae", "--epochs", 2, "--json")
    (line,) = gta(*words(model, data, out, *quick)).lines
    check_fields(LinearResult, line)
    assert (line["protocol"], line["head_batch"], line["chosen_on"]) == ("mae", 30, None)
    (line,) = gta(*words(model, data, out, *quick, "--choose-on-test")).lines
    assert line["chosen_on"] == "test"
    gta(*words(model, data, out))
    gta("probe", "knn", *words(model, data, out)[2:])
    results = json.loads((out / "summary.json").read_text())["results"]
    assert [r["task"] for r in results] == ["linear", "linear", "knn"]
    assert [r.get("protocol") for r in results] == ["mae", "sweep", None]


def test_the_table_shows_a_choice_on_the_test_images(
    gta: Any, model: Path, data: Path, tmp_path: Path
) -> None:
    table = gta(*words(model, data, tmp_path / "a")).out.splitlines()
    assert table[0] == "30 training images, 18 to test on"
    assert [line.split("  ")[0] for line in table[2:]] == ["top 1", "top 5"]
    chosen = gta(*words(model, data, tmp_path / "b", "--choose-on-test", "--compare", model))
    assert "top 1, chosen on the test images" in chosen.out
    assert "learning rate" in chosen.err


def test_a_dry_run_writes_nothing(gta: Any, model: Path, data: Path, tmp_path: Path) -> None:
    for protocol in ("sweep", "mae"):
        more = ("--dry-run", "--json", "--protocol", protocol)
        done = gta(*words(model, data, tmp_path / "out", *more))
        assert done.status == 0, done.err
        assert done.lines[0]["task"] == "linear"
    shown = gta(*words(model, data, tmp_path / "out", "--dry-run"))
    assert "dry run: nothing is written" in shown.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", ["sweep", "mae"])
def test_an_unreadable_image_is_reported_and_the_status_is_1(
    gta: Any, model: Path, data: Path, tmp_path: Path, protocol: str
) -> None:
    (data / "train/class1/3.png").write_bytes(b"no image")
    more = ("--protocol", protocol, "--epochs", 2, "--json")
    done = gta(*words(model, data, tmp_path / "out", *more))
    assert done.status == 1
    error, result = done.lines
    assert error["image"] == "train/class1/3.png"
    assert result["n_train"] == 29


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--lr", "0"], "must be more than 0"),
        (["--protocol", "mae", "--lr", "1,2"], "--protocol mae has one learning rate"),
        (["--warmup", "3"], "--warmup is for --protocol mae"),
        (["--protocol", "mae", "--no-race"], "--no-race is for --protocol sweep"),
        (["--c", "1", "--lr", "2"], "--c is for logistic regression, --lr for SGD"),
        (["--folds", "3", "--solver", "sgd"], "--folds is for logistic regression, --solver sgd"),
        (["--solver", "logistic", "--no-race"], "--no-race is for SGD, not for --solver logistic"),
        (["--protocol", "mae", "--folds", "3"], "--folds is for --protocol sweep"),
        (["--protocol", "mae", "--solver", "sgd"], "--solver is for --protocol sweep"),
        (["--folds", "3", "--choose-on-test"], "--folds and --choose-on-test exclude each other"),
        (["--features", "both"], "must be one of all, cls, mean, cls+mean"),
        (["--layer", "0"], "--layer needs --features"),
        (["--protocol", "mae", "--layer", "0"], "--layer needs --features"),
    ],
)
def test_errors_are_one_line(
    gta: Any, model: Path, data: Path, tmp_path: Path, given: list[str], said: str
) -> None:
    done = gta(*words(model, data, tmp_path / "out"), *given)
    assert done.status == 2
    assert said in done.err
