"""Tests of the commands as functions."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

import gtacli
from gtacli.cli import functions, main
from gtacli.cli.follow import Ending
from gtacli.cli.options import DECLARED
from gtacli.errors import GtaError, Interrupted, UsageError

NOT_OPTIONS = {"help", "json", "verbose", "print_config", "null"}
"""What a command line has and a function does not: it returns what `json` prints."""


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_a_function_has_the_options_of_its_command(name: str) -> None:
    signature = inspect.signature(getattr(functions, name))
    entry = functions.FUNCTIONS[name]
    app = importlib.import_module(f"gtacli.cli.{entry.module}").app
    click: Any = typer.main.get_command(app)
    if " " in entry.command:
        click = click.commands[entry.command.split()[-1]]
    tables = {
        key
        for key, field in DECLARED[entry.command].model.model_fields.items()
        if (field.json_schema_extra or {}).get("flag") is False  # type: ignore[union-attr]
    }
    shown = {p.name for p in click.params} - NOT_OPTIONS
    assert {*signature.parameters} == shown | tables


def test_the_declarations_are_those_of_the_functions() -> None:
    script = Path(__file__).parents[2] / "docs" / "scripts" / "functions.py"
    if not script.is_file():
        pytest.skip("needs a checkout")
    scope: dict[str, Any] = {"__file__": str(script), "__name__": "functions_script"}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), scope)
    written = scope["FILE"].read_text(encoding="utf-8")
    assert scope["text"]() == written, "run: python docs/scripts/functions.py"


def test_all_are_names_of_the_package() -> None:
    packages = {"report", "demo"}
    assert {*functions.FUNCTIONS} - packages <= {*gtacli.__all__}
    for name in {*functions.FUNCTIONS} - packages:
        assert getattr(gtacli, name) is getattr(functions, name)


def test_they_are_listed_without_torch() -> None:
    code = "import gtacli, sys; gtacli.finetune, gtacli.predict; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def trained(tiny_data: Path, tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {
        **gtacli.finetune(
            data=tiny_data,
            model=tiny_model,
            out=tmp_path / "run",
            lam=0,
            epochs=1,
            workers=0,
            device="cpu",
            head_init="random",
        )
    }
    return found


def test_results_are_those_of_the_command(
    trained: dict[str, Any], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert capsys.readouterr() == ("", "")  # quiet
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = [tiny_data / "test" / "red" / "0.png", tmp_path / "broken.png"]
    found = gtacli.predict(images, model=tmp_path / "run", top=2)
    assert capsys.readouterr() == ("", "")
    words = ["predict", *map(str, images), "-m", str(tmp_path / "run"), "--top", "2", "--json"]
    assert main([*words, "-q"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == lines
    assert "error" in found[1]


def test_one_path_or_several(trained: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    image = tiny_data / "test" / "red" / "0.png"
    one, several, text = (
        gtacli.predict(images, model=trained["run"]) for images in (image, [image], str(image))
    )
    assert one == several == text
    run = trained["run"]
    out = {"out": tmp_path / "maps", "overwrite": True}
    assert len(gtacli.attention_map(image, model=run, compare=run, **out)) == 2
    assert len(gtacli.attention_map(image, model=run, compare=[run, run], **out)) == 3
    merged = gtacli.merge(tmp_path / "run", out=tmp_path / "merged", alpha=1.0)
    assert merged["alpha"] == 1


def test_tables_of_parts_are_set_by_their_keys(
    trained: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    given = {"discovery.tokencut.tau": 0.25, "discovery.tokencut.layer": -1}
    image, out = tiny_data / "test" / "red" / "0.png", tmp_path / "masks"
    gtacli.segment(image, model=trained["run"], out=out, refine="none", set=given)
    options = json.loads((out / "run.json").read_text())["config"]["discovery"]["tokencut"]
    assert options == {"tau": 0.25, "layer": -1}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gtacli.finetune(lamb=1), r"finetune\(\) has no option 'lamb'; did you mean 'lam'"),  # type: ignore[call-arg]
        (lambda: gtacli.predict([], "x"), "too many positional arguments"),  # type: ignore[misc]
    ],
    ids=["unknown", "positional"],
)
def test_unknown_options_are_type_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_wrong_input_raises(tmp_path: Path) -> None:
    with pytest.raises(GtaError, match="no such file or folder"):
        gtacli.finetune(data=tmp_path / "nowhere", model="demo")
    with pytest.raises(UsageError, match="epochs: must be"):
        gtacli.finetune(epochs=0)
    with pytest.raises(UsageError, match="nproc: a function runs in its own process"):
        gtacli.finetune(nproc=2)


def test_the_environment_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_FINETUNE__EPOCHS", "0")
    with pytest.raises(GtaError, match="no folder or file"):
        gtacli.finetune(data="nowhere", model="demo")


def declare(monkeypatch: pytest.MonkeyPatch, body: Callable[..., Any]) -> Any:
    monkeypatch.delitem(vars(functions), "calibrate", raising=False)
    assert functions.calibrate  # imports the command
    monkeypatch.delitem(vars(functions), "calibrate")
    changed = DECLARED["calibrate"]._replace(body=body)
    monkeypatch.setitem(DECLARED, "calibrate", changed)
    return functions.calibrate


def test_ctrl_c_is_a_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(config: Any, call: Any, run: Path) -> int:
        raise Interrupted("stopped; continue with `resume`")

    with pytest.raises(KeyboardInterrupt, match="stopped; continue with `resume`"):
        declare(monkeypatch, stopped)("run")

    def ended(config: Any, call: Any, run: Path) -> int:
        return Ending(130, 1, 0).status

    with pytest.raises(KeyboardInterrupt, match="what was written so far is kept"):
        declare(monkeypatch, ended)("run")


def test_quiet_leaves_logging_alone(trained: dict[str, Any]) -> None:
    before = (logging.getLogger("gtacli").level, [*logging.getLogger().handlers])
    with pytest.raises(UsageError, match="no images"):
        gtacli.predict([], model=trained["run"])
    assert before == (logging.getLogger("gtacli").level, [*logging.getLogger().handlers])
