"""The source model that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gtacli import attention, load_model
from gtacli.config.recipes import shipped
from gtacli.demo.model import WEIGHTS
from gtacli.errors import GtaError
from gtacli.measures.attention import inside_share
from gtacli.measures.object_shares import object_shares
from gtacli.models.specs import resolve
from gtacli.models.weights import read_weights
from gtacli.scenes.trials import draw_trial
from gtacli.scenes.world import DEMO, DEMO_SOURCE


def test_it_loads_whole_without_training_anything(own_cache: Path) -> None:
    model = load_model("demo")
    assert model.report.coverage == 1
    assert not model.report.unexpected
    assert model.image_size == (96, 96)
    assert not own_cache.exists()
    assert all(p.dtype == torch.float32 for p in model.model.parameters())


def test_it_knows_none_of_the_demos_classes() -> None:
    model = load_model("demo")
    assert model.classes == tuple(species.name for species in DEMO_SOURCE.species)
    families = {name.split("-")[1] for name in model.classes}
    assert not families & {species.name.split("-")[1] for species in DEMO.species}


def test_its_file_says_how_it_came_to_be() -> None:
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


def test_the_recipe_starts_from_nothing() -> None:
    start = resolve("demo-untrained")
    assert start.tensors is None
    assert start.kwargs == resolve("demo").kwargs


@torch.no_grad()
def test_its_attention_finds_creatures_that_it_has_not_learnt() -> None:
    """On two grounds at once, which it has not learnt either."""
    model = load_model("demo")
    shares, areas = [], []
    for index in range(0, 24, 2):  # of the demo's species
        image, mask = draw_trial(index, 96)
        pixels = torch.tensor(image).permute(2, 0, 1)[None]
        (tap,) = attention(model.model, model.view(torch.device("cpu"))(pixels))
        share = object_shares(mask.astype("int32"), model.grid)
        shares.append(inside_share(tap, share[None]).mean().item())
        areas.append(share.mean().item())
    assert sum(shares) > 2.5 * sum(areas)


def test_a_built_wheel_has_it(tmp_path: Path) -> None:
    """What is packed follows from pyproject.toml: everything below gtacli/ that git does not
    ignore."""
    builder = pytest.importorskip("hatchling.builders.wheel")
    root = WEIGHTS.parents[1]
    if not (root / "pyproject.toml").is_file():
        pytest.skip("not in a checkout")
    packed = {
        file.distribution_path for file in builder.WheelBuilder(str(root)).recurse_included_files()
    }
    assert f"gtacli/{WEIGHTS.name}" in packed


def test_the_name_wins_over_a_folder_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`gta demo --out demo` makes one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_model("demo").report.coverage == 1
    with pytest.raises(GtaError, match=r"demo is no run folder"):
        load_model("./demo")
