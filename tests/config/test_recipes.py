"""The shipped recipes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import timm

from gtacli.cli import main
from gtacli.config import recipes
from gtacli.config.finetune import FinetuneConfig
from gtacli.config.pretrain import PretrainConfig
from gtacli.config.resolve import resolve
from gtacli.config.training import TrainingConfig
from gtacli.errors import UsageError

MODELS: dict[str, type[TrainingConfig]] = {
    "finetune": FinetuneConfig,
    "pretrain": PretrainConfig,
}
ROOT = Path(__file__).resolve().parents[2]


def test_recipes_are_shipped() -> None:
    assert {"cub-gta", "cub-l2sp", "demo"} <= set(recipes.shipped())


@pytest.mark.parametrize("name", recipes.shipped())
def test_a_shipped_recipe_resolves_with_the_command_in_its_first_line(name: str) -> None:
    recipe = recipes.find(name)
    gta, command, *rest = shlex.split(recipe.launch)
    assert gta == "gta"
    assert rest[:2] == ["--recipe", name]
    assert 'command = "' in recipe.text
    config = resolve(MODELS[command], command, recipe=name, flags=_flags(rest[2:]), env={})
    assert isinstance(config, FinetuneConfig | PretrainConfig)
    assert config.model is not None


def _flags(words: list[str]) -> dict[str, str]:
    """Return the values of `--key value` pairs."""
    return {k.removeprefix("--"): v for k, v in zip(words[::2], words[1::2], strict=True)}


COMMANDS = [
    (name, line.removeprefix("#").strip())
    for name, recipe in recipes.shipped().items()
    for line in recipe.text.splitlines()
    if re.match(r"#\s+(gta|torchrun) ", line)
]


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_every_command_in_a_recipe_is_valid(
    name: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.replace("$tau", "0.5"))
    words = words[words.index("gta" if "gta" in words else "gtacli") + 1 :]
    if words[0] == "report":
        assert main(["report", "--help"]) == 0
        return
    assert main([*words, "--print-config"]) == 0, capsys.readouterr().err


PRETRAINING = {
    "mae-vitb": {"guide": "none"},
    "attg-mae-vitl": {"model": "vit_large_patch16_224"},
    "attg-mae-tau": {"tau": 1.0},
    "attg-mae-mask": {"guide": "none", "mask": "attention"},
}


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_recipes_differ_only_in_the_method(name: str) -> None:
    flags = {"maps": "imagenet-maps"}
    paper = resolve(PretrainConfig, "pretrain", recipe="attg-mae-vitb", flags=flags, env={})
    assert (paper.epochs, paper.warmup, paper.batch_size) == (800, 40, 4096)
    own = resolve(PretrainConfig, "pretrain", recipe=name, flags=flags, env={})
    assert own.model_dump() == paper.model_dump() | PRETRAINING[name]


DATASETS = ("cub", "cars", "aircraft", "dogs", "pets")
METHODS = {
    "none": {},
    "l2sp": {"l2-sp": 0.01},
    "bss": {"bss": 0.001},
    "gta": {"gta": 0.1},
    "gta-transmix": {"gta": 0.1},
}


@pytest.mark.parametrize("data", DATASETS)
@pytest.mark.parametrize("method", METHODS)
def test_finetuning_recipes_cover_the_papers_grid(data: str, method: str) -> None:
    """Five datasets, four rates, five methods, two sources; only the method differs."""
    for rate in ("15", "30", "50", "100"):
        for model in ("vit_small_patch16_224.dino", "deit_small_patch16_224.fb_in1k"):
            flags = {"sampling_rate": rate, "model": model, "data": "ROOT"}
            name = f"{data}-{method}"
            config = resolve(FinetuneConfig, "finetune", recipe=name, flags=flags, env={})
            assert (config.sampling_rate, config.model) == (float(rate), model)
            expected = METHODS[method]
            if data == "dogs" and method == "l2sp":
                expected = {"l2-sp": 0.1}  # TLlib's strength for this set
            assert list(config.regularizer) == list(expected)
            assert config.lam == next(iter(expected.values()), None)
            assert config.mix == ("transmix" if method.endswith("transmix") else "none")
            plain = resolve(FinetuneConfig, "finetune", recipe=f"{data}-none", flags=flags, env={})
            same = set(FinetuneConfig.model_fields) - {"regularizer", "lam", "mix"}
            assert all(getattr(config, key) == getattr(plain, key) for key in same)
    assert timm.is_model_pretrained("vit_small_patch16_224.dino")
    assert timm.is_model_pretrained("deit_small_patch16_224.fb_in1k")


def test_a_file_is_found_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("epochs = 2")
    spec = str(tmp_path / "own.toml")
    assert recipes.find(spec).values("finetune") == {"epochs": 2}
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    bad = recipes.find(str(tmp_path / "bad.toml"))
    with pytest.raises(UsageError, match="cannot be read"):
        bad.values("finetune")


@pytest.mark.slow
def test_the_wheel_carries_the_recipes(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    where = ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*build, *where], check=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {f"gtacli/_recipes/{p.name}" for p in (ROOT / "recipes").glob("*.toml")} <= names
    code = "from gtacli.config.recipes import folder, shipped; print(folder(), *shipped())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "site",
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in run.stdout
    assert "cub-gta" in run.stdout
