"""Short options belong to the backend, whichever source names it."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from gtacli.config.resolve import resolve
from gtacli.config.segment import SegmentConfig
from gtacli.config.toml import to_toml
from gtacli.errors import UsageError


def resolved(
    sets: tuple[str, ...] = (), env: dict[str, str] | None = None, **flags: Any
) -> SegmentConfig:
    return resolve(SegmentConfig, "segment", env=env or {}, sets=sets, flags=flags)


def test_flags_reach_the_backend() -> None:
    assert resolved().options == {}
    assert resolved(layer="-6", tau="0.3").options == {"layer": -6, "tau": 0.3}
    assert resolved(layer="auto", tau="auto").options == {"layer": "auto", "tau": "auto"}
    config = resolved(backend="dino", layer="-2", sets=("discovery.dino.heads=mean",))
    assert config.options == {"layer": -2, "heads": "mean"}
    assert SegmentConfig(layer=-6).options == {"layer": -6}


def test_the_higher_source_wins() -> None:
    env = {"GTA_SEGMENT__LAYER": "-3", "GTA_SEGMENT__BACKEND": "dino"}
    assert resolved(env=env).options == {"layer": -3}
    assert resolved(("discovery.dino.layer=-4",), env).options == {"layer": -4}
    assert resolved(("discovery.dino.layer=-4",), env, layer="-5").options == {"layer": -5}


def test_masks_are_refined_unless_asked_otherwise() -> None:
    """On photographs guided masks overlap the truth more, at little cost."""
    assert resolved().refine == "guided"
    assert resolved(refine="none").refine == "none"


def test_side_is_an_option_of_tokencut() -> None:
    assert resolved(side="seed").options == {"side": "seed"}
    with pytest.raises(UsageError, match="side: the backend dino has no side"):
        resolved(backend="dino", side="seed")


def test_back_ends_vote_by_their_names() -> None:
    for config in (
        resolved(vote="tokencut,lost"),
        resolved(env={"GTA_SEGMENT__VOTE": "tokencut,lost"}),
        resolved(("vote=tokencut,lost",), backend="vote"),
        SegmentConfig(vote=("tokencut", "lost")),
    ):
        assert config.backend == "vote"
        assert config.options == {"members": ["tokencut", "lost"]}
    assert resolved(vote="6,8").options == {"vote": [6, 8]}
    assert resolved(vote="none").backend == "tokencut"
    with pytest.raises(UsageError, match="vote: the back-ends lost,dino vote; leave `backend` out"):
        resolved(vote="lost,dino", backend="lost")
    with pytest.raises(UsageError, match="vote: must be two different back-ends or more, got lost"):
        resolved(vote="lost")


def test_teacher_is_another_name_of_model() -> None:
    assert resolved(teacher="x").spec == "x"
    assert resolved(env={"GTA_SEGMENT__TEACHER": "x"}, model="y").spec == "y"
    with pytest.raises(UsageError, match="exclude each other"):
        resolved(model="x", teacher="y")


@pytest.mark.parametrize(
    ("sets", "flags", "message"),
    [
        ((), {"backend": "dino", "tau": "0.2"}, "^tau: the backend dino has no tau"),
        ((), {"layer": "last"}, "^layer: must be a whole number or auto, got 'last'"),
        ((), {"backend": "dino", "layer": "auto"}, "^layer: must be a whole number, got 'auto'"),
        ((), {"backend": "gradcam", "layer": "auto"}, "layer: must be a whole number, got 'auto'"),
        (("discovery.tokencut.tu=1",), {}, "unknown key 'tu'; did you mean 'tau'"),
        ((), {"refine": "bilaterial"}, "^refine: must be one of none, bilateral, guided"),
    ],
)
def test_errors_name_their_source(
    sets: tuple[str, ...], flags: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        resolved(sets, **flags)


def test_a_printed_config_is_a_recipe() -> None:
    config = resolved(layer="-6", model="m", image_size="320x480", ground_truth="masks")
    values = tomllib.loads(to_toml(config, "segment"))
    assert values.pop("command") == "segment"
    assert SegmentConfig(**values) == config
