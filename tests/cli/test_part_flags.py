"""Flags of the options of the parts that a command line chooses."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gtacli.cli import main
from gtacli.config.parts import RegularizerOptions
from gtacli.registry import DISCOVERY, REGULARIZERS


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return the config that a command line resolves to."""
    capsys.readouterr()
    assert main([*words, "--print-config"]) == 0
    return tomllib.loads(capsys.readouterr().out)


def sections(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    """Return the help of a command line by its headings."""
    capsys.readouterr()
    assert main([*words, "--help"]) == 0
    found: dict[str, str] = {}
    title = ""
    for line in capsys.readouterr().out.splitlines():
        if line.endswith(":") and not line.startswith(" "):
            title = line[:-1]
        found[title] = found.get(title, "") + line + "\n"
    return found


@pytest.mark.usefixtures("delta")
def test_the_help_shows_a_plugins_options(capsys: pytest.CaptureFixture[str]) -> None:
    shown = sections(capsys, "finetune", "--regularizer", "delta")
    assert "--channel-weights" in shown["Regularizer delta (--lam 0.01 by default)"]
    assert "Regularizer gta" not in shown
    assert [*shown].index("Regularizer delta (--lam 0.01 by default)") < [*shown].index("Training")
    both = sections(capsys, "finetune", "--regularizer=gta", "--regularizer", "bss:0.01")
    assert "--k " in both["Regularizer bss (--lam 0.001 by default)"]
    assert "--guide" in both["Regularizer gta"]
    assert "--k " not in "".join(sections(capsys, "finetune").values())


@pytest.mark.usefixtures("delta")
def test_the_help_says_the_strength_of_the_chosen_part(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the part has no other option, so that it has no heading."""

    def default(*words: str) -> str:
        text = " ".join("".join(sections(capsys, "finetune", *words).values()).split())
        found: str = text.partition("strength of the first regularizer")[2].partition("]")[0]
        return found.partition("[default: ")[2]

    class Plain(REGULARIZERS.load("bss")):  # type: ignore[misc]
        Options = RegularizerOptions

    assert default() == "gta 0.1, l2-sp 0.01, bss 0.001"
    assert default("--regularizer", "delta") == "delta 0.01"
    with REGULARIZERS.registered("plain", Plain):
        assert default("--regularizer", "plain", "--regularizer", "delta") == (
            "plain 0.1, delta 0.01"
        )


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["finetune", "--k", "3"], "it is an option of bss: add --regularizer bss; see"),
        (["finetune", "--no-decoupled"], "it is an option of l2-sp: add --regularizer l2-sp"),
        (["finetune", "--channel-weights", "w"], "it is an option of delta: add --regularizer"),
        (
            ["segment", "--heads", "max"],
            "it is an option of dino and object-dino: add --backend dino or --backend object-dino",
        ),
    ],
)
@pytest.mark.usefixtures("delta")
def test_an_option_of_a_part_that_is_not_chosen(
    capsys: pytest.CaptureFixture[str], words: list[str], hint: str
) -> None:
    assert main(words) == 2
    assert hint in capsys.readouterr().err
    assert main([words[0], "--no-such-option"]) == 2
    assert "is an option of" not in capsys.readouterr().err


def test_the_help_of_a_plugin_does_not_import_torch(delta_site: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(delta_site)!r}); from gtacli.cli import main; "
        "main(['finetune', '--regularizer', 'delta', '--help']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"--channel-weights" in done.stdout


@pytest.mark.usefixtures("delta")
def test_a_flag_is_the_key_of_its_part(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", "--regularizer", "delta", "--layers", "-1,-4", "--channel-weights", "w"]
    table = printed(capsys, *words)["regularizer"]
    assert table == {"delta": {"layers": "-1,-4", "channel_weights": "w"}}
    words = [
        "finetune",
        "--regularizer",
        "bss",
        "--regularizer",
        "l2-sp",
        "--k",
        "2",
        "--decoupled",
    ]
    table = printed(capsys, *words)["regularizer"]
    assert table == {"bss": {"k": 2}, "l2-sp": {"decoupled": True}}


def test_options_of_gta_are_flags_whatever_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "finetune", "--layers", "last")["regularizer"]["gta"]["layers"] == "last"
    found = printed(capsys, "finetune", "--regularizer", "none", "--layers", "last")
    assert found["regularizer"] == "none"


def test_a_recipe_chooses_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text("[regularizer.bss]\nk = 2\n")
    found = printed(capsys, "finetune", "--recipe", str(recipe), "--k", "3")
    assert found["regularizer"] == {"bss": {"k": 3}}


def test_back_ends_have_flags_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["discover", "--backend", "gradcam", "-m", "demo", "--data", "demo", "-o", "x"]
    found = printed(capsys, *words, "--target-class", "3")
    assert found["discovery"] == {"gradcam": {"target_class": 3}}
    found = printed(capsys, "pretrain", "--guide", "dino", "--teacher", "demo", "--heads", "best")
    assert found["discovery"] == {"dino": {"heads": "best"}}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "--regularizer", "bss", "--k", "zero"], "--k: must be"),
        (["finetune", "--regularizer", "bss", "--k", "0"], "--k: must be"),
        (["finetune", "--k", "2"], "no such option: --k"),
        (["finetune", "--regularizer", "bbs", "--help-not"], "no such option"),
        (["finetune", "--regularizer", "bbs"], "did you mean 'bss'"),
    ],
    ids=["text", "range", "not chosen", "option first", "name"],
)
def test_errors_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("registry", [REGULARIZERS, DISCOVERY], ids=["regularizers", "discovery"])
def test_built_in_parts_declare_their_options(registry: Any) -> None:
    for name in registry.names():
        if registry.origin(name).builtin:
            assert registry.declared_options(name) is registry.load(name).Options, name
