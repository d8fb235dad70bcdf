"""Tests of the demo's source model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gtacli import attention, load_model
from gtacli.config.recipes import shipped
from gtacli.demo.model import WEIGHTS
from gtacli.errors import GtaError
from gtacli.measures.attention import object_attention
from gtacli.measures.object_fractions import object_fractions
from gtacli.models.files import read_weights
from gtacli.models.specs import resolve
from gtacli.scenes.trials import draw_trial
from gtacli.scenes.world import DEMO, DEMO_SOURCE


def test_all_weights_load_without_drawing_data(own_cache: Path) -> None:
    model = load_model("demo")
    assert model.report.coverage == 1
    assert not model.report.unexpected
    assert model.image_size == (96, 96)
    assert not own_cache.exists()
    assert all(p.dtype == torch.float32 for p in model.model.parameters())


def test_source_and_demo_share_no_class() -> None:
    model = load_model("demo")
    assert model.classes == tuple(species.name for species in DEMO_SOURCE.species)
    families = {name.split("-")[1] for name in model.classes}
    assert not families & {species.name.split("-")[1] for species in DEMO.species}


def test_metadata_describe_the_training_run() -> None:
    _, metadata = read_weights(WEIGHTS)
    recipe = shipped()[metadata["recipe"]]
    values = recipe.values("finetune")
    assert recipe.launch.startswith(metadata["command"])
    assert metadata["data"] == values["data"] == DEMO_SOURCE.name
    assert int(metadata["seed"]) == values.get("seed", 0)
    assert int(metadata["epochs"]) == values["epochs"]
    assert len(metadata["drawing"]) == 10
    assert 0 < float(metadata["test_top1"]) <= 1
    assert json.loads(metadata["image_size"]) == [96, 96]
    assert WEIGHTS.stat().st_size < 4e6


def test_recipe_starts_from_random_weights() -> None:
    start = resolve("demo-untrained")
    assert start.tensors is None
    assert start.kwargs == resolve("demo").kwargs


@torch.no_grad()
def test_attention_falls_on_unknown_creatures() -> None:
    """Neither the creatures nor grounds of two sceneries occur in the training data."""
    model = load_model("demo")
    shares, areas = [], []
    for index in range(0, 24, 2):  # of the demo's species
        image, mask = draw_trial(index, 96)
        pixels = torch.tensor(image).permute(2, 0, 1)[None]
        (tap,) = attention(model.model, model.view(torch.device("cpu"))(pixels))
        share = object_fractions(mask.astype("int32"), model.grid)
        shares.append(object_attention(tap, share[None]).mean().item())
        areas.append(share.mean().item())
    assert sum(shares) > 2.5 * sum(areas)


def test_wheel_contains_the_weights(tmp_path: Path) -> None:
    """pyproject.toml includes everything below gtacli/ that git does not ignore."""
    builder = pytest.importorskip("hatchling.builders.wheel")
    root = WEIGHTS.parents[2]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    packed = {
        file.distribution_path for file in builder.WheelBuilder(str(root)).recurse_included_files()
    }
    assert WEIGHTS.relative_to(root).as_posix() in packed


def test_name_takes_precedence_over_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gta demo --out demo` creates such a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_model("demo").report.coverage == 1
    with pytest.raises(GtaError, match=r"demo is not a run folder"):
        load_model("./demo")
