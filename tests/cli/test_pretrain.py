"""`gta pretrain` as a user and a script meet it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = (
    "--device", "cpu", "--workers", "0", "--epochs", "1", "--batch-size", "8",
    "--decoder-dim", "16", "--decoder-depth", "1", "--decoder-heads", "2",
)  # fmt: skip


def test_discover_pretrain_finetune(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """Both papers in three commands."""
    model, data, maps, run = (
        str(p) for p in (tiny_model, tiny_data, tmp_path / "m", tmp_path / "r")
    )
    kept = gta(
        "discover", "--data", data, "--teacher", model, "--backend", "dino", "-o", maps, "-q"
    )
    assert kept.status == 0
    done = gta("pretrain", "-m", model, "--data", data, "--maps", maps, "-o", run, "--json", *SMALL)
    assert done.status == 0
    (line,) = done.lines
    assert line["command"] == "pretrain"
    assert line["recon_fg"] > 0
    assert "epoch 1, loss" in done.err
    assert "object" in done.err
    tuned = gta("finetune", "-m", run, "--data", data, "-o", str(tmp_path / "t"), "--device", "cpu",
                "--workers", "0", "--epochs", "1", "--json")  # fmt: skip
    assert tuned.lines[0]["n_train"] > 0
    assert gta("attention-map", "-m", run, f"{data}/test", "-o", str(tmp_path / "a")).status == 0


def test_the_table_is_for_people(
    gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    words = ("-m", str(tiny_model), "--data", str(tiny_data), "-o", str(tmp_path / "r"), *SMALL)
    shown = gta("pretrain", *words, "-q")
    assert "20-nn top-1 %" in shown.out
    assert "inside the object" not in shown.out  # there are no maps
    again = gta("pretrain", *words)
    assert again.status == 2
    assert "is not empty" in again.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--guide", "tokencut"), "--guide tokencut needs maps"),
        (("--tau", "fast"), "--tau: must be a number or START:END, got 'fast'"),
        (("--guide", "tokenct", "--teacher", "demo"), "did you mean 'tokencut'?"),
        (("--gamma", "1", "--tau", "0.001", "--teacher", "demo"), "overflows"),
        (("--mask", "attention"), "--mask attention needs maps"),
        (("--resume", "nowhere"), "nowhere"),
        (("--teacher", "demo", "--set", "discovery.tokencut.leyer=1"), "leyer"),
    ],
)
def test_mistakes(
    words: tuple[str, ...], said: str, gta: Any, tiny_model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    base = ("-m", str(tiny_model), "--data", str(tiny_data), "-o", str(tmp_path / "r"), *SMALL)
    result = gta("pretrain", *(base if "--resume" not in words else ()), *words)
    assert result.status == 2
    assert said in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "r").exists()


def test_print_config_comes_back(gta: Any, tmp_path: Path) -> None:
    words = ("--tau", "0.7", "--guide", "dino", "--teacher", "demo", "--image-size", "64x96")
    printed = gta("pretrain", *words, "--print-config").out
    recipe = tmp_path / "mine.toml"
    recipe.write_text(printed)
    assert gta("pretrain", "--recipe", str(recipe), "--print-config").out == printed
    assert json.loads(json.dumps(printed)).count("tau = 0.7") == 1
