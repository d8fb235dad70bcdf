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
from gtacli.config.study import read_study
from gtacli.config.training import TrainingConfig
from gtacli.errors import UsageError
from gtacli.study.plan import StudyPlan, check_settings, make_plan

MODELS: dict[str, type[TrainingConfig]] = {
    "finetune": FinetuneConfig,
    "pretrain": PretrainConfig,
}
ROOT = Path(__file__).resolve().parents[2]


def test_recipes_are_shipped() -> None:
    assert {"cub", "fine-grained", "demo"} <= set(recipes.shipped())


STUDIES = [name for name, r in recipes.shipped().items() if r.launch.startswith("gta study ")]
RUNS = [name for name in recipes.shipped() if name not in STUDIES]


@pytest.mark.parametrize("name", RUNS)
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
    if words[0] == "report" or words[:2] in (["study", "table"], ["study", "plot"]):
        assert main([*words[: 1 + (words[0] == "study")], "--help"]) == 0
        return
    if words[0] == "study":
        assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
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


DATASETS = {
    "cub": "CUB_200_2011",
    "dogs": "StanfordDogs",
    "cars": "stanford_cars",
    "aircraft": "fgvc-aircraft-2013b",
    "pets": "oxford-iiit-pet",
}
SOURCES = ("vit_small_patch16_224.dino", "deit_small_patch16_224.fb_in1k")
METHODS = {
    "none": {},
    "l2-sp": {"l2-sp": 0.01},
    "bss": {"bss": 0.001},
    "gta": {"gta": 0.1},
    "gta-transmix": {"gta": 0.1},
}


def test_the_study_covers_the_papers_grid() -> None:
    """Five datasets, four rates, five methods, two sources; only the method differs."""
    plan = plan_of("fine-grained")
    assert plan.methods == tuple(METHODS)
    grid = plan.file.grid
    assert grid["data"] == list(DATASETS.values())
    assert grid["model"] == list(SOURCES)
    assert grid["sampling_rate"] == [15, 30, 50, 100]
    same = set(FinetuneConfig.model_fields) - {"regularizer", "lam", "mix"}
    configs = {}
    for method, expected in METHODS.items():
        cell = next(cell for cell in plan.cells.values() if cell.method == method)
        configs[method] = config = FinetuneConfig(**cell.settings)
        assert list(config.regularizer) == list(expected)
        assert config.lam == next(iter(expected.values()), None)
        assert config.mix == ("transmix" if method.endswith("transmix") else "none")
        assert all(getattr(config, key) == getattr(configs["none"], key) for key in same)
    assert all(timm.is_model_pretrained(source) for source in SOURCES)


@pytest.mark.parametrize("data", DATASETS)
def test_a_datasets_recipe_is_its_row_of_the_study(data: str) -> None:
    flags = {"data": DATASETS[data]}
    config = resolve(FinetuneConfig, "finetune", recipe=data, flags=flags, env={})
    cells = plan_of("fine-grained").cells.values()
    (row,) = (
        cell.settings
        for cell in cells
        if cell.method == "gta"
        and {**cell.keys, "seed": 0, "sampling_rate": 15, "model": SOURCES[0]} == cell.keys
        and cell.settings["data"] == DATASETS[data]
    )
    assert config == FinetuneConfig(**row)
    former = resolve(FinetuneConfig, "finetune", recipe=f"{data}-gta", flags=flags, env={})
    assert former == config
    with pytest.raises(UsageError, match=f"study fine-grained; one such run is recipe {data} "):
        recipes.find(f"{data}-l2sp")


def plan_of(name: str) -> StudyPlan:
    """Return the plan of a shipped study, as `gta study run` checks it."""
    found = recipes.find(name)
    plan = make_plan(read_study(found.text, found.label), found.label)
    check_settings(plan, found.label)
    return plan


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_is_valid_and_says_how_many_cells_it_has(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipes.find(name)
    assert recipe.launch == f"gta study run {name} -o runs/{name}"
    (cells,) = re.findall(r"^# Cost: (\d+) cells", recipe.text, re.MULTILINE)
    assert len(plan_of(name).cells) == int(cells)
    assert main(["finetune", "--recipe", name]) == 2
    assert f"is a study of many runs; `gta study run {name}`" in capsys.readouterr().err


def test_further_probes_of_a_study_are_valid() -> None:
    head, further, tail = recipes.find("attg").text.partition("# Further probes")
    tables = tail.partition("\n")[2].replace("# ", "").replace("#\n", "\n")
    assert further
    plan = make_plan(read_study(head + tables, "attg"), "attg")
    check_settings(plan, "attg")
    assert len(plan.file.then) == 6


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
    assert "fine-grained" in run.stdout
