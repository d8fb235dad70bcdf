"""The search for register neurons, in a network with a neuron that writes outliers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from gtacli.errors import UsageError
from gtacli.models import load_model, register_search
from gtacli.models.loading import LoadedModel
from gtacli.models.register_search import RegisterSearch, search, with_registers
from gtacli.models.registers import registers_of

CPU = torch.device("cpu")
LAYER, NEURON, PLACES = 1, 7, (2, 5)


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(register_search, "SCENES", 4)
    monkeypatch.setattr(register_search, "NEURONS", (1, 2))
    monkeypatch.setenv("GTA_CACHE", str(tmp_path))


def plain() -> LoadedModel:
    torch.manual_seed(0)
    small = load_model("vit_tiny_patch16_224@none", 3, 64)
    network: Any = small.model
    network.blocks = network.blocks[:3]
    with torch.no_grad():
        network.patch_embed.proj.weight.mul_(0.1)
        network.pos_embed.copy_(nn.functional.normalize(torch.randn(1, 17, 192), dim=-1))
    return small


def planted() -> LoadedModel:
    """A neuron of block 1 fires at two places, and writes a large vector."""
    model = plain()
    network: Any = model.model
    with torch.no_grad():
        place = network.pos_embed[0, 1 + PLACES[0]].clone()
        network.pos_embed[0, 1 + PLACES[1]] = place
        mlp = network.blocks[LAYER].mlp
        mlp.fc1.weight[NEURON] = 3 * place
        mlp.fc1.bias[NEURON] = -15
        mlp.fc2.weight[:, NEURON] = torch.randn(192)
    return model


def test_the_planted_neuron_is_found(caplog: pytest.LogCaptureFixture) -> None:
    model = planted()
    caplog.set_level(logging.INFO)
    found = with_registers(model, "auto", CPU)
    registers = registers_of(found.model)
    assert registers is not None
    assert NEURON in registers.neurons[LAYER]
    assert max(registers.neurons) == LAYER  # none after the onset
    assert found.num_prefix_tokens == 1 + registers.tokens
    assert "has outlier tokens (2.0 an image" in caplog.text


def test_its_outliers_are_gone_and_a_number_of_tokens_is_kept() -> None:
    model = planted()
    batches = [*register_search._draw_scenes(model, CPU)]
    found = search(model, batches, tokens=2)
    assert found.ratio > register_search.OUTLIER
    assert found.block >= LAYER
    assert found.tokens == 2
    assert found.neurons[0] == [LAYER, NEURON]
    after = with_registers(model, 2, CPU).model
    with torch.no_grad():
        ratios = [register_search._ratios(register_search._run(after, x)[0]) for x in batches]
    assert torch.cat(ratios).max() < register_search.OUTLIER


def test_a_network_without_outliers_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = plain()
    caplog.set_level(logging.INFO)
    assert with_registers(model, "auto", CPU) is model
    assert registers_of(model.model) is None
    assert "has no outlier tokens (the largest norm of a patch is 1." in caplog.text
    with pytest.raises(UsageError, match="has no outlier tokens") as error:
        with_registers(model, 1, CPU, option="source_registers")
    assert error.value.option == "source_registers"


def test_none_searches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register_search, "search", None)
    model = planted()
    assert with_registers(model, "none", CPU) is model


def test_the_result_is_cached_for_any_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    first = planted()
    with_registers(first, "auto", CPU)
    monkeypatch.setattr(register_search, "search", None)
    other: Any = planted()
    other.model.head = nn.Linear(192, 9)
    with_registers(other, "auto", CPU)
    assert registers_of(other.model) == registers_of(first.model)
    changed: Any = planted()
    with torch.no_grad():
        changed.model.norm.weight[0] += 1
    with pytest.raises(TypeError):
        with_registers(changed, "auto", CPU)


def test_a_damaged_cache_is_searched_again(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    with_registers(planted(), "auto", CPU)
    (file,) = (tmp_path / "registers").iterdir()
    file.write_text("{")
    model = with_registers(planted(), "auto", CPU)
    assert registers_of(model.model) is not None
    assert "the search is repeated" in caplog.text
    RegisterSearch.model_validate_json(file.read_text())


def test_a_model_of_other_neurons_is_named() -> None:
    model: Any = planted()
    model.model.blocks[0].mlp.drop1 = nn.Sequential()
    with pytest.raises(UsageError, match="neurons of Mlp cannot be read") as error:
        with_registers(model, "auto", CPU, option="registers")
    assert error.value.option == "registers"
