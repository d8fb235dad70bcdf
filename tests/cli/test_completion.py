"""Shell completion, asked for in the way in which the shells ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm

from gtacli.cli.completion import TIMM_MODULES, recipe_names, timm_names

GTA = "import sys; from gtacli.cli import main; status = main(); "
LOADED = "print(*sorted({'torch', 'timm', 'numpy'} & set(sys.modules)), file=sys.stderr); "


def ask(env: dict[str, str]) -> str:
    """Return what `gta` prints for a shell; it must not import anything heavy."""
    run = subprocess.run(
        [sys.executable, "-c", f"{GTA}{LOADED}sys.exit(status)"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stderr.strip() == ""
    return run.stdout


def complete(line: str) -> list[str]:
    """Return bash's completions at the end of a command line."""
    words = line.split(" ")
    protocol = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return ask({"_GTA_COMPLETE": "complete_bash", **protocol}).split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gta fin", {"finetune"}),
        ("gta ", {"finetune", "attention-map", "doctor"}),
        ("gta probe ", {"knn", "linear"}),
        ("gta recipes sh", {"show"}),
        ("gta finetune --lay", {"--layers", "--layer-decay"}),
        ("gta finetune --no-dr", {"--no-drift"}),
        ("gta finetune --mix ", {"none", "mixup", "cutmix", "transmix"}),
        ("gta finetune --epochs 3 --log w", {"wandb"}),
        ("gta finetune --layers ", {"all", "last"}),
        ("gta finetune --device cu", {"cuda"}),
        ("gta finetune --recipe cu", {"cub"}),
        ("gta study run attg-", {"attg-tau", "attg-masking", "attg-small"}),
        ("gta recipes show attg-mae-v", {"attg-mae-vitb", "attg-mae-vitl"}),
        ("gta finetune --regularizer ", {"gta", "l2-sp", "bss", "none"}),
        ("gta finetune --lam ", {"auto"}),
        ("gta segment --backend t", {"tokencut"}),
        ("gta attention-map --kind r", {"rollout"}),
        ("gta pretrain --guide n", {"none"}),
        ("gta probe knn --data cu", {"cub"}),
        ("gta finetune -m vit_small_patch16_224.d", {"vit_small_patch16_224.dino"}),
        ("gta finetune --source demo", {"demo", "demo-untrained"}),
        ("gta probe attention --compare deit_tiny_", {"deit_tiny_patch16_224.fb_in1k"}),
        ("gta finetune --epochs ", {"auto"}),
        ("gta finetune --hold-out ", {"auto", "none"}),
        ("gta finetune --batch-size ", {"auto"}),
        ("gta finetune --seed ", set()),
    ],
)
def test_bash(line: str, expected: set[str]) -> None:
    completed = complete(line)
    assert set(completed) >= expected
    if not expected:
        assert completed == []
    last = line.rpartition(" ")[2]
    assert all(word.startswith(last) for word in completed)


def test_zsh_and_fish() -> None:
    line = {"_TYPER_COMPLETE_ARGS": "gta finetune --mix tr"}
    assert '"transmix"' in ask({"_GTA_COMPLETE": "complete_zsh", **line})
    fish = {"_GTA_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **line}
    assert ask(fish) == "transmix\n"


def test_recipes_are_those_of_the_command() -> None:
    assert "attg-mae-vitb" in recipe_names("pretrain")
    assert "attg-mae-vitb" not in recipe_names("finetune")
    assert {*recipe_names("finetune"), *recipe_names("pretrain")} <= set(recipe_names())


def test_almost_all_models_of_timm_are_completed() -> None:
    listed = {
        name for module in TIMM_MODULES for name in timm.list_models(module=module, pretrained=True)
    }
    assert len(listed & set(timm_names())) > 0.9 * len(listed)


def test_the_script_is_shown_and_installed(tmp_path: Path) -> None:
    """The shell is the parent process; `; true` keeps bash from replacing itself."""
    for option in ("--show-completion", "--install-completion"):
        done = subprocess.run(
            ["bash", "--norc", "-c", f"{sys.executable} -m gtacli {option}; true"],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "gta" in done.stdout, done.stderr
    assert "_GTA_COMPLETE" in (tmp_path / ".bash_completions" / "gta.sh").read_text()
