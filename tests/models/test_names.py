"""Tests of short names of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from gtacli.models.names import short_names


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["runs/none", "runs/gta"], ["none", "gta"]),
        (["a/run", "b/run", "c"], ["a_run", "b_run", "c"]),
        (["vit_tiny_patch16_224@w/v.safetensors", "demo"], ["v", "demo"]),
        (["demo", "demo", "demo"], ["demo", "demo-2", "demo-3"]),
        (["demo", "demo-2", "demo"], ["demo", "demo-2", "demo-3"]),
        (["vit_tiny_patch16_224@none", "vit_small.dino"], ["none", "vit_small.dino"]),
        (["hf-hub:timm/vit", "vit"], ["hf-hub_timm_vit", "vit"]),
        (["/", "../x", "a b"], ["_", "x", "a_b"]),
    ],
)
def test_short_names_are_unique(specs: list[str], names: list[str]) -> None:
    assert short_names(specs) == names


def test_folders_have_their_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    assert short_names(["."]) == ["run"]
    assert short_names([".."]) == [tmp_path.name]
