"""Commands made from configs."""

from __future__ import annotations

import importlib
import sys
import tomllib
from typing import Annotated, Any

import pytest
import typer

from gtacli.cli import lazy
from gtacli.cli.call import Call
from gtacli.cli.options import DECLARED, config_command
from gtacli.config.finetune import FinetuneConfig

Calls = list[tuple[FinetuneConfig, Call, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Add a command `tune`; return the list of its calls."""
    importlib.import_module("gtacli.cli.finetune")  # whose declaration comes back afterwards
    monkeypatch.setitem(DECLARED, "finetune", DECLARED["finetune"])
    calls: Calls = []
    app = lazy.new_app()

    @config_command(app, FinetuneConfig, "finetune")
    def tune(
        config: FinetuneConfig,
        call: Call,
        images: Annotated[list[str] | None, typer.Argument(help="image files")] = None,
        nul: Annotated[bool, typer.Option("-0", help="paths are separated by NUL")] = False,
    ) -> int:
        """Train something."""
        calls.append((config, call, {"images": images, "nul": nul}))
        return 1

    monkeypatch.setitem(sys.modules, "tune_module", type("module", (), {"app": app}))  # type: ignore[arg-type]
    monkeypatch.setitem(lazy.COMMANDS, "tune", ("tune_module", "Train."))
    return calls


def test_flags_reach_the_config(gta: Any, calls: Calls) -> None:
    words = "tune -m vit --epochs 3 --no-drift --overwrite --regularizer bss:0.1 --regularizer gta"
    words += " --layers -1,-2 --lam 0.5 -o runs/x --set head_lr_scale=5 --set flip=false"
    result = gta(*words.split())
    assert (result.status, result.out) == (1, "")
    [(config, call, own)] = calls
    assert config.regularizer == {"bss": {}, "gta": {"layers": "-1,-2"}}
    assert (config.model, config.epochs, config.lam) == ("vit", 3, 0.5)
    assert (config.drift, config.overwrite, config.flip) == (False, True, False)
    assert config.head_lr_scale == 5
    assert call == Call("finetune", argv=tuple(words.split()))
    assert own == {"images": None, "nul": False}


def test_absent_flags_do_not_count_as_given(gta: Any, calls: Calls) -> None:
    gta("tune")
    assert calls[0][0] == FinetuneConfig()
    assert calls[0][0].model_fields_set == set()


def test_switches_and_own_parameters(gta: Any, calls: Calls) -> None:
    gta("tune", "a", "b", "-0", "--json", "-q", "-v", "--dry-run")
    [(_, call, own)] = calls
    assert (call.json, call.quiet, call.verbose, call.dry_run) == (True, True, True, True)
    assert own == {"images": ["a", "b"], "nul": True}


def test_recipe_and_environment(
    gta: Any, calls: Calls, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "r.toml").write_text("epochs = 3\nlam = 1")
    monkeypatch.setenv("GTA_FINETUNE__LAM", "2")
    gta("tune", "--recipe", str(tmp_path / "r.toml"))
    assert (calls[0][0].epochs, calls[0][0].lam) == (3, 2)


def test_print_config_only_prints(gta: Any, calls: Calls) -> None:
    shown = gta("tune", "--print-config", "--lam", "0.3")
    assert (shown.status, shown.err, calls) == (0, "", [])
    assert tomllib.loads(shown.out)["lam"] == 0.3


def test_a_wrong_value_is_one_line(gta: Any, calls: Calls) -> None:
    wrong = gta("tune", "--epochs", "ten")
    assert (wrong.status, wrong.out, calls) == (2, "", [])
    assert wrong.err == "error: --epochs: must be a whole number or auto, got 'ten'\n"
    assert "did you mean" in gta("tune", "--regularizer", "gtaa").err
    assert gta("tune", "--lam").status == 2


def test_help_contains_every_field(gta: Any, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(gta("tune", "--help").out.split())
    for name, field in {**FinetuneConfig.model_fields, **FinetuneConfig.flat_fields()}.items():
        if (field.json_schema_extra or {}).get("flag") is False:
            continue
        assert "--" + name.replace("_", "-") in text
        assert field.description
    for part in (
        "passes over the training images",
        "--cache auto|ram|none",
        "--drift / --no-drift",
        "-m, --model SPEC",
        "Regularizer gta: --guide logits|msa|block",
        "Common to all commands: --device",
        "--layers all|last|LIST",
    ):
        assert part in text
    assert "[default: 20]" in text
    assert "path,label[,split]" in text


def test_the_help_of_finetune_begins_with_what_everyone_needs(gta: Any) -> None:
    lines = gta("finetune", "--help").out.splitlines()
    start = lines.index("Most used:")
    assert start < lines.index("Options:")
    shown = [word for line in lines[start : lines.index("Options:")] for word in line.split()[:2]]
    first = [word for word in shown if word.startswith("--")]
    assert first == [f"--{key.replace('_', '-')}" for key in FinetuneConfig.first]
    assert len(first) == 10
    assert sum(line.split()[:1] == ["--epochs"] for line in lines) == 1
