"""Precedence of the sources, and errors that name the source."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gtacli.config.finetune import FinetuneConfig
from gtacli.config.predict import PredictConfig
from gtacli.config.resolve import resolve
from gtacli.config.toml import to_toml
from gtacli.errors import UsageError


def resolved(
    recipe: str | None = None,
    env: dict[str, str] | None = None,
    sets: tuple[str, ...] = (),
    **flags: Any,
) -> FinetuneConfig:
    return resolve(FinetuneConfig, "finetune", recipe=recipe, env=env or {}, sets=sets, flags=flags)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "my.toml") -> str:
        (tmp_path / name).write_text(text)
        return name

    return write


def test_defaults() -> None:
    config = resolved()
    assert config == FinetuneConfig()
    assert config.regularizer == {"gta": {}}
    assert config.lam is None
    assert config.model_fields_set == set()


SOURCES = ("recipe", "env", "set", "flag")


@pytest.mark.parametrize("given", [SOURCES[:n] for n in range(5)], ids=len)
@pytest.mark.parametrize("key", ["epochs", "lam", "layers"])
def test_each_source_beats_those_below(recipe: Any, given: tuple[str, ...], key: str) -> None:
    """Of the first n sources the last one wins."""
    value = {name: 10 + i for i, name in enumerate(SOURCES)}
    config = resolved(
        recipe(f"{key} = {value['recipe']}") if "recipe" in given else None,
        {f"GTA_FINETUNE__{key.upper()}": str(value["env"])} if "env" in given else {},
        (f"{key}={value['set']}",) if "set" in given else (),
        **({key: str(value["flag"])} if "flag" in given else {}),
    )
    defaults = {"epochs": 20, "lam": None, "layers": None}
    got = config.regularizer["gta"].get(key) if key == "layers" else getattr(config, key)
    assert got == (value[given[-1]] if given else defaults[key])


def test_different_keys_of_several_sources_are_combined(recipe: Any) -> None:
    config = resolved(
        recipe("epochs = 3\n[regularizer.gta]\nguide = 'msa'"),
        {"GTA_FINETUNE__REGULARIZER__GTA__LAYERS": "last", "GTA_PREDICT__TOP": "3", "HOME": "/"},
        ("head-lr-scale=5", "regularizer.gta.center=true"),
        flip=False,
    )
    assert (config.epochs, config.head_lr_scale, config.flip) == (3, 5.0, False)
    assert config.regularizer == {"gta": {"guide": "msa", "layers": "last", "center": True}}
    assert config.model_fields_set == {"epochs", "head_lr_scale", "flip", "regularizer"}


def test_the_last_set_wins_and_an_empty_variable_is_unset() -> None:
    assert resolved(sets=("epochs=3", "epochs=4")).epochs == 4
    assert resolved(env={"GTA_FINETUNE__EPOCHS": ""}).epochs == 20


def test_the_environment_of_the_process_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_FINETUNE__REGULARIZER__L2_SP__BETA", "0.2")
    assert resolve(FinetuneConfig, "finetune").regularizer == {"l2-sp": {"beta": 0.2}}


def test_text_is_read_by_the_type_of_the_key() -> None:
    config = resolved(
        env={"GTA_FINETUNE__COMPILE": "1", "GTA_FINETUNE__DRIFT": "off"},
        out="2024",
        model="7",
        image_size="320x224",
        lr=".5",
        layers="-1",
    )
    assert config.out == Path("2024")
    assert config.model == "7"
    assert (config.compile, config.drift) == (True, False)
    assert config.image_size == (320, 224)
    assert config.lr == 0.5
    assert resolved(image_size="224").image_size == (224, 224)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"epochs": "ten"}, "epochs: must be a whole number or auto, got 'ten'"),
        ({"epochs": "2.5"}, "epochs: must be a whole number or auto, got 2.5"),
        ({"lam": "-1"}, "lam: must be at least 0 or auto, got -1"),
        ({"lam": "-1", "regularizer": ["none"]}, "lam: must be at least 0 or auto, got -1"),
        ({"head_lr_scale": "0"}, "head_lr_scale: must be more than 0, got 0"),
        ({"sampling_rate": "101"}, "sampling_rate: must be at most 100, got 101"),
        ({"lr": "nan"}, "lr: must be a finite number, got nan"),
        ({"precision": "fp8"}, "precision: must be one of auto, fp32, bf16, fp16, got 'fp8'"),
        ({"device": "gpu"}, "device: must be one of auto, cpu, cuda, cuda:N, mps, got 'gpu'"),
        ({"image_size": "12x"}, "image_size: must be a number of pixels, or HEIGHTxWIDTH"),
        ({"image_size": "0"}, "image_size: must be a number of pixels, or HEIGHTxWIDTH"),
        ({"layers": "some"}, "layers: must be all, last, or block numbers such as -1,-2"),
        ({"rows": "cl"}, "rows: must be one of cls, all, got 'cl'; did you mean 'cls'?"),
        ({"regularizer": ["bss:x"]}, "regularizer: must be a number or auto, got 'x'"),
        ({"regularizer": ["gtaa"]}, "regularizer: unknown regularizer 'gtaa'; did you mean"),
        (
            {"shots": "3", "sampling_rate": "15"},
            "`sampling_rate` and `shots` exclude each other; give one of them",
        ),
    ],
)
def test_wrong_flags(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(**flags)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "recipe my.toml: unknown key 'epoch'; did you mean 'epochs'?"),
        ("layer = 3", "recipe my.toml: unknown key 'layer'; did you mean 'layers'?"),
        ('epochs = "3"', "recipe my.toml: epochs: must be a whole number or auto, got '3'"),
        ("epochs = true", "recipe my.toml: epochs: must be a whole number or auto, got true"),
        ("lr = 2020-01-01", "recipe my.toml: lr: must be a number"),
        ("model = 3", "recipe my.toml: model: must be text, got 3"),
        ("out = 3", "recipe my.toml: out: must be a path, got 3"),
        (
            "[epochs]\nx = 1",
            "recipe my.toml: epochs.x: must be a whole number or auto, got {'x': 1}",
        ),
        ("[regularizer.gta]\nlayer = 3", "recipe my.toml: unknown key 'layer'; did you mean"),
        ("[regularizer.bss]\nk = 0", "recipe my.toml: regularizer.bss.k: must be at least 1"),
        ("[regularizer.l2-sp]\nbeta = 'x'", "recipe my.toml: regularizer.l2-sp.beta: must be a"),
        ("[regularizer.gtaa]", "recipe my.toml: unknown regularizer 'gtaa'; did you mean 'gta'?"),
        ("epochs = ", "recipe my.toml: is not TOML: "),
        ("command = 'predict'", "recipe my.toml: is for `gta predict`, not for `gta finetune`"),
        ("command = 3", "recipe my.toml: command must be text, got 3"),
        ("shots = 3\nsampling_rate = 15", "recipe my.toml: sampling_rate and recipe my.toml"),
    ],
)
def test_wrong_recipes(recipe: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(recipe(text))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (
            {"env": {"GTA_FINETUNE__LAM": "x"}},
            "GTA_FINETUNE__LAM: must be a number or auto, got 'x'",
        ),
        ({"env": {"GTA_FINETUNE__EPOCH": "3"}}, "GTA_FINETUNE__EPOCH: unknown key 'epoch'; did"),
        ({"env": {"GTA_FINETUNE__": "3"}}, "GTA_FINETUNE__: is no key"),
        (
            {"env": {"GTA_FINETUNE__REGULARIZER__GTA__ROWS": "x"}},
            "GTA_FINETUNE__REGULARIZER__GTA__ROWS: must be one of cls, all, got 'x'",
        ),
        ({"sets": ("lam=x",)}, "set lam=x: must be a number or auto, got 'x'"),
        ({"sets": ("lam",)}, "set lam: must be KEY=VALUE or KEY.SUBKEY=VALUE"),
        ({"sets": ("a..b=3",)}, "set a..b=3: must be KEY=VALUE or KEY.SUBKEY=VALUE"),
        ({"sets": ("epoch=3",)}, "set epoch=3: unknown key 'epoch'; did you mean 'epochs'?"),
        ({"sets": ("epochs.x=3",)}, "set epochs.x=3: must be a whole number"),
        ({"recipe": "nowhere.toml"}, "recipe nowhere.toml: there is no such file"),
        ({"recipe": "fine-graned"}, "unknown recipe 'fine-graned'; did you mean 'fine-grained'?"),
    ],
)
def test_other_wrong_sources(sources: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(**sources)
    assert str(caught.value).startswith(message)


def test_of_two_exclusive_keys_the_higher_source_wins(recipe: Any) -> None:
    over_rate = resolved(recipe("sampling_rate = 15"), shots="3")
    assert (over_rate.shots, over_rate.sampling_rate) == (3, 100)
    over_shots = resolved(recipe("shots = 3"), sampling_rate="15")
    assert (over_shots.shots, over_shots.sampling_rate) == (None, 15)


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"shots": "3"},
        {"regularizer": ["none"]},
        {"regularizer": ["bss:0.1", "gta"], "lam": "0.2", "layers": "-1,-2"},
        {"image_size": "320x224", "out": "runs/x", "lr": "1e-5", "drift": False},
        {"image_size": "96", "resume": "runs/y", "device": "cuda:1"},
    ],
)
def test_a_printed_config_is_a_recipe_for_it(recipe: Any, flags: dict[str, Any]) -> None:
    config = resolved(**flags)
    text = to_toml(config, "finetune")
    assert tomllib.loads(text)["command"] == "finetune"
    assert resolved(recipe(text)) == config


@pytest.mark.parametrize("flags", [{}, {"regularizer": ["bss:0.1", "gta"], "image_size": "96"}])
def test_a_config_survives_json(flags: dict[str, Any]) -> None:
    config = resolved(**flags)
    again = FinetuneConfig.model_validate(config.model_dump(mode="json"))
    assert again == config


def test_short_forms_in_python() -> None:
    config = FinetuneConfig(regularizer="bss:0.01", out="runs/x")  # type: ignore[arg-type]
    assert config.regularizer == {"bss": {}}
    assert config.lam == 0.01
    assert FinetuneConfig(regularizer={"gta": {}}, lam=None).lam is None


def test_predict() -> None:
    config = resolve(PredictConfig, "predict", env={"GTA_PREDICT__TOP": "3"}, flags={"model": "m"})
    assert (config.top, config.model) == (3, "m")


def test_no_torch() -> None:
    code = (
        "import sys; from gtacli.config.resolve import resolve;"
        "from gtacli.config.finetune import FinetuneConfig;"
        "resolve(FinetuneConfig, 'finetune', env={}, flags={'layers': 'last', 'lam': '3'});"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("recipe", "flags", "size", "fits"),
    [
        ("", {"batch_size": "auto"}, 32, True),
        ("batch_size = 4096", {"batch_size": "auto"}, 4096, True),
        ('batch_size = "auto"', {"batch_size": "16"}, 16, False),
        ('batch_size = "auto"', {}, 32, True),
        ("fit_memory = true", {"batch_size": "16"}, 16, True),
        ('batch_size = "auto"', {"lr": "0.1"}, 32, True),
    ],
)
def test_batch_size_auto_keeps_the_number_of_lower_sources(
    recipe: str, flags: dict[str, str], size: int, fits: bool, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(recipe)
    config = resolve(FinetuneConfig, "finetune", recipe=str(tmp_path / "r.toml"), flags=flags)
    assert (config.batch_size, config.fit_memory) == (size, fits)
    assert FinetuneConfig(**config.model_dump(include={"batch_size", "fit_memory"})) is not None


def test_batch_size_auto_in_python() -> None:
    config = FinetuneConfig(batch_size="auto")
    assert (config.batch_size, config.fit_memory) == (32, True)
    with pytest.raises(UsageError, match="whole number"):
        resolve(FinetuneConfig, "finetune", flags={"batch_size": "automatic"})
