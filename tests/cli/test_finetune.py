"""`gta finetune` and `gta predict` as a user and a script meet them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gtacli.cli import main

Capture = Any


def finetune(model: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "finetune", "-m", str(model), "--data", str(data), "-o", str(out), "--device", "cpu",
        "--batch-size", "8", "--workers", "0", "--epochs", "2", "--lr", "1e-3", *more,
    ]  # fmt: skip


def test_json_is_one_line_and_the_log_is_elsewhere(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture
) -> None:
    assert main(finetune(tiny_model, tiny_data, tmp_path / "run", "--json")) == 0
    out, err = capfd.readouterr()
    (line,) = out.splitlines()
    assert json.loads(line)["test_top1"] >= 0
    assert "epoch 2" in err
    assert "loaded" in err


def test_table_for_people(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture
) -> None:
    assert main(finetune(tiny_model, tiny_data, tmp_path / "run", "-q")) == 0
    out, err = capfd.readouterr()
    assert "test top-1 %" in out
    assert err == ""


def test_a_dry_run_shows_what_would_be_done_and_no_accuracy(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture
) -> None:
    assert main(finetune(tiny_model, tiny_data, tmp_path / "run", "--dry-run")) == 0
    out, _ = capfd.readouterr()
    assert out.startswith("dry run")
    rows = dict(line.rsplit(None, 1) for line in out.splitlines()[1:])
    assert rows["epochs"] == "2"
    assert not [label for label in rows if "%" in label or "best" in label or "drift" in label]


def test_flags_reach_the_regulariser(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture
) -> None:
    words = finetune(tiny_model, tiny_data, tmp_path / "run", "--lam", "0.5", "--layers", "-1,-2")
    assert main(words) == 0
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert config["lam"] == 0.5
    assert config["regularizer"]["gta"]["layers"] == "-1,-2"


def test_predict_streams_and_names_bad_images(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture, monkeypatch: Any
) -> None:
    run = tmp_path / "run"
    assert main(finetune(tiny_model, tiny_data, run, "-q")) == 0
    capfd.readouterr()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    good = tiny_data / "test" / "red" / "0.png"
    words = ["predict", str(good), str(broken), str(tiny_data / "test" / "blue"), "-m", str(run)]
    assert main([*words, "--json", "--top", "2", "--batch-size", "2"]) == 1
    out, err = capfd.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [Path(x["image"]).name for x in lines] == [
        "0.png",
        "broken.png",
        *(f"{i}.png" for i in range(4)),
    ]
    assert "broken.png" in err
    assert "error" in lines[1]
    for line in (lines[0], *lines[2:]):
        assert len(line["top"]) == 2
        assert {t["class"] for t in line["top"]} <= {"red", "green", "blue"}
    total = 3
    assert main(["predict", str(good), "-m", str(run), "--json", "--top", "9"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    probabilities = [t["probability"] for t in json.loads(line)["top"]]
    assert len(probabilities) == total
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("separator", ["\n", pytest.param("\0", marks=pytest.mark.slow)])
def test_predict_reads_paths_from_a_pipe(separator: str, tiny_model: Path, tiny_data: Path) -> None:
    images = [str(p) for p in sorted((tiny_data / "test").rglob("*.png"))]
    null = ["-0"] if separator == "\0" else []
    gta = [sys.executable, "-c", "import sys; from gtacli.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*gta, "predict", "-", *null, "-m", str(tiny_model), "--json", "-q"],
        input=separator.join(images).encode(),
        capture_output=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [x["image"] for x in lines] == images


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def bad_inputs(root: Path, model: Path, data: Path) -> dict[str, tuple[list[str], str]]:
    """Words after `gta finetune ... -o OUT`, and a piece of the line that answers them."""
    (root / "empty").mkdir()
    hollow = root / "hollow"
    for name in ("red", "green"):
        (hollow / "train" / name).mkdir(parents=True)
    (hollow / "train" / "red" / "a.png").write_bytes(
        (data / "train" / "red" / "0.png").read_bytes()
    )
    recipe = root / "wrong.toml"
    recipe.write_text('command = "finetune"\nwarmup = "ten"\n')
    cut = root / "cut.safetensors"
    cut.write_bytes((model / "model.safetensors").read_bytes()[:500])
    bomb = root / "bomb.pth"
    bomb.write_bytes(pickle.dumps(Bomb(root / "ran")))
    other = root / "other.pth"
    torch.save({"conv1.weight": torch.zeros(3)}, other)
    tiny = "vit_tiny_patch16_224"
    return {
        "missing folder": (["--data", str(root / "nowhere")], "nowhere"),
        "empty folder": (["--data", str(root / "empty")], "empty"),
        "one class with images": (["--data", str(hollow)], "red"),
        "unknown data set": (["--data", "cubb:."], "cub"),
        "unknown regulariser": (["--regularizer", "gtaa"], "did you mean 'gta'"),
        "unknown model": (["-m", "vit_tiny_patch16_225"], "did you mean"),
        "unknown option": (["--epoch", "3"], "--epoch"),
        "wrong type in a recipe": (["--recipe", str(recipe)], "warmup"),
        "weights of another architecture": (["-m", f"{tiny}@{other}"], "fills only 0 of"),
        "truncated safetensors": (["-m", f"{tiny}@{cut}"], "damaged"),
        "a pickle that would run code": (["-m", f"{tiny}@{bomb}"], "bomb.pth"),
        "no ViT": (["-m", "resnet18@none"], "ResNet"),
        "negative strength": (["--lam", "-1"], "--lam"),
        "no such block": (["--layers", "99"], "no block 99"),
        "no block at all": (["--layers", "x"], "layers"),
        "no such device": (["--device", "cuda:63"], "cuda:63"),
        "unknown optimiser": (["--optimizer", "adamww"], "adamww"),
        "rate out of range": (["--sampling-rate", "0"], "sampling-rate"),
        "rate and shots": (["--sampling-rate", "15", "--shots", "3"], "exclude"),
        "size that does not fit": (["--image-size", "33"], "patch size"),
        "unknown policy": (["--auto-augment", "randm9"], "rand-m9"),
    }


CASES = [
    "missing folder", "empty folder", "one class with images", "unknown data set",
    "unknown regulariser", "unknown model", "unknown option", "wrong type in a recipe",
    "weights of another architecture", "truncated safetensors", "a pickle that would run code",
    "no ViT", "negative strength", "no such block", "no block at all", "no such device",
    "unknown optimiser", "rate out of range", "rate and shots", "size that does not fit",
    "unknown policy",
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_line_and_status_2(
    case: str, tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture
) -> None:
    cases = bad_inputs(tmp_path, tiny_model, tiny_data)
    assert set(cases) == set(CASES)
    words, answer = cases[case]
    assert main(finetune(tiny_model, tiny_data, tmp_path / "run", "-q", *words)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    *before, line = err.splitlines()
    assert all(one.startswith("warning: left out: ") for one in before)
    assert line.startswith("error: ")
    assert answer in line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "ran").exists()


def test_a_used_out_is_kept(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "note").write_text("keep")
    assert main(finetune(tiny_model, tiny_data, out)) == 2
    assert "--out" in capfd.readouterr().err
    assert [p.name for p in out.iterdir()] == ["note"]


def test_data_without_a_model(tiny_data: Path, capfd: Capture) -> None:
    assert main(["finetune", "--data", str(tiny_data)]) == 2
    assert "--model" in capfd.readouterr().err


def test_predict_needs_images_and_a_classifier(tiny_model: Path, capfd: Capture) -> None:
    assert main(["predict", "-m", str(tiny_model)]) == 2
    assert "no images" in capfd.readouterr().err
    assert main(["predict", "x.png"]) == 2
    assert "--model" in capfd.readouterr().err


def test_predict_refuses_before_it_begins(
    tiny_model: Path, tiny_data: Path, tmp_path: Path, capfd: Capture
) -> None:
    good = str(tiny_data / "test" / "red" / "0.png")
    (tmp_path / "hollow").mkdir()
    assert main(["predict", good, str(tmp_path / "hollow"), "-m", str(tiny_model)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "hollow" in err
    assert main(["predict", good, "-m", "vit_tiny_patch16_224@none", "-q"]) == 2
    assert "no classifier" in capfd.readouterr().err
