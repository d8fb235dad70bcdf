"""Tests of `gta merge`, against the plain formula in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gtacli.cli import main
from gtacli.models import load_model


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def merged(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["merge", *map(str, words), "--json", "--device", "cpu", "--workers", "0"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_several_runs_give_their_mean(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [trained / "run0", trained / "run1"]
    summary = merged(capsys, *runs, "-o", tmp_path / "m")
    one, other = map(weights, runs)
    assert any(not torch.equal(one[k], other[k]) for k in one)
    for key, value in weights(tmp_path / "m").items():
        torch.testing.assert_close(value, ((one[key].double() + other[key].double()) / 2).float())
    assert summary["alpha"] == 1.0
    assert summary["n_val"] > 0
    assert summary["n_test"] > 0
    assert [run["kept"] for run in summary["runs"]] == [True, True]
    # The run folder is a model for other commands, with the same accuracy.
    capsys.readouterr()
    image = next((trained / "tiny-data" / "test" / "red").iterdir())
    assert main(["predict", str(image), "-m", str(tmp_path / "m"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top"][0]["class"] in ("red", "blue", "green")
    assert load_model(str(tmp_path / "m")).classes == load_model(str(runs[0])).classes


def test_the_mean_is_tested_at_the_runs_size_of_the_test(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own test accuracy tells: a run averaged with nothing is the run."""
    words = ["finetune", "-m", trained / "tiny-model", "--data", trained / "tiny-data", "--json"]
    words += ["--epochs", 1, "--batch-size", 8, "--lr", "1e-3", "--device", "cpu"]
    words += ["--workers", 0, "-o", tmp_path / "run", "--test-size", 64]
    assert main([*map(str, words)]) == 0
    own = json.loads(capsys.readouterr().out)
    summary = merged(capsys, tmp_path / "run", "--alpha", "1", "-o", tmp_path / "m")
    assert summary["test_top1"] == own["test_top1"]
    assert load_model(str(tmp_path / "m")).image_size == (64, 64)
    assert (
        weights(tmp_path / "m")["pos_embed"].shape == weights(trained / "run0")["pos_embed"].shape
    )
    other = ["merge", tmp_path / "run", trained / "run0", "-o", tmp_path / "n"]
    assert main([*map(str, other)]) == 2
    assert "differ in test_size" in capsys.readouterr().err


def test_a_run_and_its_source_are_averaged_but_for_the_classifier(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merged(capsys, trained / "run0", "--alpha", "0.25", "-o", tmp_path / "m")
    source = weights(trained / "tiny-model")
    run, found = weights(trained / "run0"), weights(tmp_path / "m")
    for key, value in found.items():
        expected = run[key].double()
        if not key.startswith("head"):
            expected = 0.75 * source[key].double() + 0.25 * expected
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)


def test_alpha_is_chosen_on_held_out_images(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = merged(capsys, trained / "run0", "-o", tmp_path / "auto")
    scores = {
        alpha: merged(capsys, trained / "run0", "--alpha", alpha, "-o", tmp_path / str(alpha))
        for alpha in (0.25, 0.5, 0.75, 1.0)
    }
    assert chosen["val_top1"] == max(each["val_top1"] for each in scores.values())
    assert chosen["test_top1"] == scores[chosen["alpha"]]["test_top1"]


def test_the_greedy_soup_leaves_a_bad_run_out(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for name in ("run.json", "split.json", "summary.json"):
        (bad / name).write_bytes((trained / "run0" / name).read_bytes())
    from safetensors import safe_open

    with safe_open(trained / "run0" / "model.safetensors", "pt") as file:
        header = file.metadata()
    noise = {k: torch.full_like(v, 3.0) for k, v in weights(trained / "run0").items()}
    save_file(noise, bad / "model.safetensors", header)
    runs = [bad, trained / "run0", trained / "run1"]
    summary = merged(capsys, *runs, "--greedy", "-o", tmp_path / "m")
    best = max(run["val_top1"] for run in summary["runs"])
    assert summary["val_top1"] >= best
    if best > summary["runs"][0]["val_top1"]:
        assert not summary["runs"][0]["kept"]
    assert any(run["kept"] for run in summary["runs"][1:])


def test_without_held_out_images_alpha_is_the_papers(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "split.json", "summary.json", "model.safetensors"):
        (run / name).write_bytes((trained / "run0" / name).read_bytes())
    split = json.loads((run / "split.json").read_text())
    (run / "split.json").write_text(json.dumps(split | {"val": []}))
    summary = merged(capsys, run, "-o", tmp_path / "m")
    assert (summary["alpha"], summary["val_top1"], summary["n_val"]) == (0.5, None, 0)
    capsys.readouterr()
    assert main(["merge", str(run), str(run), "--greedy", "-o", str(tmp_path / "n")]) == 2
    assert "no run has learned from" in capsys.readouterr().err
    # What one run has learned from chooses nothing.
    learned = split | {"train": [*split["train"], *split["val"]]}
    (run / "split.json").write_text(json.dumps(learned))
    assert merged(capsys, run, trained / "run0", "-o", tmp_path / "o")["n_val"] == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", '["green", "blue", "red"]', "in another order"),
        ("classes", '["a", "b", "c"]', "differ in classes:"),
        ("architecture", "vit_small_patch16_224", "differ in architecture"),
    ],
    ids=["order", "classes", "architecture"],
)
def test_other_networks_are_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str,
    message: str,
) -> None:  # fmt: skip
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_bytes((trained / "run0" / "run.json").read_bytes())
    from safetensors import safe_open

    with safe_open(trained / "run0" / "model.safetensors", "pt") as file:
        header = file.metadata()
    save_file(weights(trained / "run0"), other / "model.safetensors", header | {key: value})
    capsys.readouterr()
    assert main(["merge", str(trained / "run0"), str(other), "-o", str(tmp_path / "m"), "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "m" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no run"),
        (["nowhere"], "no run with a trained model"),
        (["R", "--alpha", "2"], "--alpha"),
        (["R", "--greedy", "--alpha", "auto"], "exclude each other"),
        (["R", "--source", "R2@none"], "--source"),
    ],
    ids=["none", "no run", "range", "both", "source"],
)
def test_wrong_usage_is_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str],
    message: str,
) -> None:  # fmt: skip
    names = {"R": str(trained / "run0"), "R2@none": "vit_tiny_patch16_224@none"}
    given = [names.get(word, word) for word in words]
    capsys.readouterr()
    assert main(["merge", *given, "-o", str(tmp_path / "m"), "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
