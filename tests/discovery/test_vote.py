"""Tests of back-ends that vote against their formula, from the members' own results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gtacli.discovery.build import make_backend
from gtacli.errors import UsageError
from gtacli.models import LoadedModel, load_model

SETTINGS: dict[str, dict[str, Any]] = {
    "tokencut": {"layer": -1, "tau": 0.2},
    "lost": {"layer": -2, "tau": 0.1},
    "dino": {"layer": -1},
    "gradcam": {},
}


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("demo", image_size=60)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 60, 60, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "members",
    [("tokencut", "lost"), ("tokencut", "lost", "dino"), ("lost", "gradcam")],
    ids=",".join,
)
def test_the_vote_follows_its_formula(model: LoadedModel, members: tuple[str, ...]) -> None:
    settings = {name: SETTINGS[name] for name in members}
    found = make_backend("vote", {"members": members, "settings": settings}, model).find(images())
    evidence = np.zeros((3, *model.grid))
    for name in members:
        alone = make_backend(name, SETTINGS[name], model).find(images())
        maps = alone.maps.double().numpy()
        masks = maps > 0.15 if alone.masks is None else alone.masks.numpy()
        evidence += (masks + maps) / (2 * len(members))
    np.testing.assert_allclose(found.maps.numpy(), evidence, atol=1e-6)
    assert found.masks is not None
    assert found.boxes is not None
    clear = abs(evidence - 0.5) > 1e-6
    assert (found.masks.numpy() == (evidence > 0.5))[clear].all()
    for mask, (x0, y0, x1, y1) in zip(found.masks, found.boxes.tolist(), strict=True):
        rows, columns = torch.nonzero(mask, as_tuple=True)
        if len(rows):
            edges = (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max()))
            assert edges == (x0, y0, x1 - 1, y1 - 1)


def test_resolved_options_give_the_same_vote(model: LoadedModel) -> None:
    """Cached maps are keyed by them, so they must hold all that the members chose."""
    settings = {name: SETTINGS[name] for name in ("tokencut", "lost")}
    backend = make_backend("vote", {"members": ["tokencut", "lost"], "settings": settings}, model)
    options = backend.options
    assert options.settings["tokencut"]["side"] == "center"  # chosen, not given
    assert options.layer == 5
    again = make_backend("vote", options.model_dump(), model)
    assert again.options == options
    assert torch.equal(again.find(images()).maps, backend.find(images()).maps)


def test_a_layer_is_that_of_all_members_but_those_with_their_own(model: LoadedModel) -> None:
    settings = {"tokencut": {"tau": 0.2}, "lost": {"layer": 1, "tau": 0.2}}
    given = {"members": ["tokencut", "lost"], "settings": settings, "layer": -3}
    options = make_backend("vote", given, model).options
    assert options.settings["tokencut"]["layer"] == -3
    assert options.settings["lost"]["layer"] == 1
    assert options.layer == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": ["tokencut"]}, "members.*two different back-ends or more, got tokencut"),
        ({"members": ["lost", "lost"]}, "two different back-ends or more, got lost,lost"),
        ({"members": ["lost", "vote"]}, "members: a vote is no member of a vote"),
        ({"members": ["lost", "los"]}, "unknown discovery backend 'los'; did you mean 'lost'"),
        ({"settings": {"dino": {}}}, "for members of the vote, and dino is none"),
        (
            {"members": ["lost", "dino"], "settings": {"lost": {"tu": 1}}},
            "discovery.vote.settings.lost.*unknown key 'tu'",
        ),
    ],
)
def test_wrong_members_are_named(model: LoadedModel, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_backend("vote", given, model)
