"""Tests of `gta models|plugins|recipes|doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gtacli.registry import MODELS


def test_models_list(gta: Any) -> None:
    rows = gta("models", "list", "vit_small*dino*", "--json").lines
    names = [row["model"] for row in rows]
    assert "vit_small_patch16_224.dino" in names
    assert any("reg4" in name for name in names)
    assert rows[names.index("vit_small_patch16_224.dino")]["image_size"] == 224
    every = {row["model"].split(".")[0] for row in gta("models", "list", "--json").lines}
    assert {"demo", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"} <= every
    assert not {n for n in every if n.startswith(("resnet", "swin", "beit_"))}
    assert "eva02_tiny_patch14_224" in gta("models", "list", "eva02_tiny").out


def test_models_list_marks_random_weights(gta: Any) -> None:
    with MODELS.registered("broken", "no.such.module:Model"):
        rows = {row["model"]: row for row in gta("models", "list", "--json").lines}
    assert [rows[name]["pretrained"] for name in ("demo", "demo-untrained", "broken")] == [
        True, False, None
    ]  # fmt: skip


def test_models_list_without_a_match(gta: Any) -> None:
    wrong = gta("models", "list", "resnet50")
    assert wrong.status == 2
    assert wrong.err.startswith("error: no model's name matches 'resnet50'")


@pytest.mark.usefixtures("delta")
def test_plugins(gta: Any) -> None:
    rows = gta("plugins", "list", "--json").lines
    delta = next(row for row in rows if row["name"] == "delta")
    assert delta["kind"] == "gta.regularizers"
    assert (delta["distribution"], delta["builtin"]) == ("gta-delta", False)
    checked = gta("plugins", "check", "--json").lines
    assert next(row for row in checked if row["name"] == "delta")["error"] is None
    assert "gta-delta" in gta("plugins", "list").out


def test_a_broken_plugin_is_reported_and_harms_nothing_else(
    gta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "bad_dist-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-dist\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[gta.regularizers]\nbad = not_there:Part\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gta("plugins", "list").status == 0
    checked = gta("plugins", "check")
    assert checked.status == 1
    line = next(line for line in checked.out.splitlines() if " bad " in line)
    assert "bad-dist" in line
    assert "ModuleNotFoundError" in line
    assert gta("doctor").status == 1
    assert gta("finetune", "--print-config").status == 0
    named = gta("finetune", "--regularizer", "bad", "--print-config")
    assert named.status == 2  # its options, which are flags, are not known
    assert "of bad-dist 1 cannot be loaded" in named.err
    monkeypatch.setenv("GTA_PLUGINS", "")
    assert "bad" not in gta("plugins", "list").out


def test_recipes(gta: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = gta("recipes", "list", "--json").lines
    assert {"cub", "demo"} <= {row["recipe"] for row in listed}
    assert all(row["run"].startswith("gta ") for row in listed)
    text = gta("recipes", "show", "cub").out
    assert text.startswith("# gta finetune --recipe cub")

    monkeypatch.chdir(tmp_path)
    assert gta("recipes", "copy", "cub").out == "cub.toml\n"
    assert Path("cub.toml").read_text() == text
    Path("cub.toml").write_text("mine")
    refused = gta("recipes", "copy", "cub")
    assert refused.status == 2
    assert "exists" in refused.err
    assert Path("cub.toml").read_text() == "mine"
    assert gta("recipes", "copy", "cub", ".", "--overwrite").status == 0
    assert Path("cub.toml").read_text() == text
    assert gta("recipes", "copy", "cub", "no/such/folder").status == 2
    assert gta("recipes", "show", "cubb").status == 2


def test_doctor(gta: Any) -> None:
    [report] = gta("doctor", "--json").lines
    assert report["versions"]["torch"]
    assert report["devices"][0]["device"] == "cpu"
    assert {part["name"] for part in report["plugins"]} >= {"gta", "folder", "demo"}
    assert report["wrong"] == [p["error"] for p in report["plugins"] if p["error"]]
    shown = gta("doctor").out
    assert "torch" in shown
    assert "cpu" in shown
