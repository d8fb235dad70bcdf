"""Specs in recipes and in the record of a run folder: no commands, and no downloads unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import _hub

from gtacli.cli import main
from tests.cli.conftest import Gta
from tests.conftest import write_tiny_data, write_tiny_model
from tests.web import Web

NAME = "vit_tiny_patch16_224.augreg_in21k"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, web: Web) -> list[str]:
    """Record what the hubs are asked to download; nothing is cached here."""
    names: list[str] = []

    def hub(repo_id: str, *_: Any, local_files_only: bool = False, **__: Any) -> None:
        if not local_files_only:
            names.append(repo_id)
        raise FileNotFoundError(repo_id)

    def load_dataset(name: str, *_: Any, **__: Any) -> None:
        names.append(name)
        raise ConnectionError("no network")

    def download(url: str, *_: Any, **__: Any) -> None:
        names.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr(_hub, "hf_hub_download", hub)
    monkeypatch.setattr(_hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    web.asked = names
    return names


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained")
    model, data, out = write_tiny_model(place), write_tiny_data(place), place / "run"
    words = ["-m", str(model), "--data", str(data), "-o", str(out), "--device", "cpu"]
    more = ["--batch-size", "8", "--workers", "0", "--epochs", "1"]
    assert main(["finetune", *words, *more]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A complete run, as a stranger may have sent it."""
    return shutil.copytree(trained, tmp_path / "run")


def change(run: Path, **config: object) -> None:
    """Change the config in the record of a run."""
    record = json.loads((run / "run.json").read_text())
    record["config"].update(config)
    (run / "run.json").write_text(json.dumps(record))


def one_line(error: str) -> str:
    (line,) = (line for line in error.splitlines() if "error" in line.lower())
    assert "Traceback" not in error
    return line


def commands(mark: Path) -> list[str]:
    return [
        f"wds/pipe:touch {mark}",
        f"wds/{{pipe:touch {mark},a.tar}}",
        f"wds/{{https://example.org/a.tar,pipe:touch {mark}}}",
        f"wds/file:{mark.parent}/a.tar",
    ]


@pytest.mark.parametrize("number", range(4))
def test_typed_commands_are_not_run(
    number: int, tiny_model: Path, tmp_path: Path, gta: Gta, asked: list[str]
) -> None:
    spec, mark = commands(tmp_path / "mark")[number], tmp_path / "mark"
    recipe = tmp_path / "stranger.toml"
    recipe.write_text(f"# gta finetune\ndata = {json.dumps(spec)}\n")
    for words in (["--data", spec], ["--recipe", str(recipe)], ["--set", f"data={spec}"]):
        result = gta("finetune", "-m", str(tiny_model), "-o", str(tmp_path / "new"), *words)
        assert result.status == 2
        assert "only local files and https://" in one_line(result.err)
    for words in (["predict", "--data", spec], ["data", "check", spec]):
        assert gta(*words).status == 2
    assert asked == []
    assert not mark.exists()


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("number", range(4))
def test_recorded_commands_are_not_run(
    number: int, allow: bool, run: Path, tmp_path: Path, gta: Gta, asked: list[str]
) -> None:
    mark, more = tmp_path / "mark", ["--allow-fetch"] if allow else []
    change(run, data=commands(mark)[number])
    result = gta("report", str(run), "-o", str(tmp_path / "r.html"), *more)
    assert result.status == 0
    assert "only local files and https://" in result.err
    result = gta("finetune", "--resume", str(run), *more)
    assert result.status == 2
    assert "only local files and https://" in one_line(result.err)
    assert asked == []
    assert not mark.exists()


@pytest.mark.parametrize(
    "config",
    [
        {"data": "wds/https://example.org/{0..1}.tar"},
        {"data": "hfds/owner/name"},
        {"data": "hfds/FOLDER"},
        {"model": NAME},
        {"source": NAME},
        {"source": "hf-hub:owner/name"},
        {"init": "hf-hub:owner/name"},
    ],
)
def test_recorded_names_are_downloaded_only_if_allowed(
    config: dict[str, str], run: Path, tmp_path: Path, gta: Gta, asked: list[str]
) -> None:
    # A folder that a stranger sent along; `datasets` follows the URLs in its README.md.
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "README.md").write_text("---\nconfigs:\n- data_files: https://example.org/x\n---\n")
    config = {key: value.replace("FOLDER", str(folder)) for key, value in config.items()}
    change(run, allow_fetch=True, **config)  # the record cannot allow it
    report = ["report", str(run), "-o", str(tmp_path / "r.html"), "--device", "cpu"]
    resume = ["finetune", "--resume", str(run)]
    result = gta(*report)
    assert result.status == 0
    assert "--allow-fetch" in result.err
    result = gta(*resume)
    assert result.status == 2
    assert "--allow-fetch" in one_line(result.err)
    assert asked == []
    for words in (report, resume):
        asked.clear()
        assert "--allow-fetch" not in gta(*words, "--allow-fetch").err
        assert asked != []


@pytest.mark.parametrize("option", ["data", "model"])
def test_typed_names_are_downloaded(
    option: str, tiny_model: Path, tiny_data: Path, tmp_path: Path, gta: Gta, asked: list[str]
) -> None:
    values = {"model": str(tiny_model), "data": str(tiny_data), "out": str(tmp_path / "new")}
    values[option] = {"data": "wds/https://example.org/0.tar", "model": NAME}[option]
    words = [word for key, value in values.items() for word in (f"--{key}", value)]
    assert gta("finetune", *words).status == 2
    assert asked != []


def test_the_permission_is_not_recorded(run: Path) -> None:
    assert "allow_fetch" not in json.loads((run / "run.json").read_text())["config"]


def test_a_run_folder_as_a_model_downloads_nothing(
    run: Path, tiny_data: Path, tmp_path: Path, gta: Gta, asked: list[str]
) -> None:
    change(run, model=NAME, source=NAME, data="hfds/owner/name")
    image = next(tiny_data.rglob("*.png"))
    assert gta("predict", str(image), "--model", str(run)).status == 0
    words = ["-m", str(run), "--data", str(tiny_data), "-o", str(tmp_path / "probe")]
    assert gta("probe", "knn", *words, "--device", "cpu", "--workers", "0").status == 0
    assert asked == []


@pytest.mark.parametrize("test", [["OUTSIDE"], ["../outside.png"], [["a"]], "a", 3, {"a": 1}])
def test_keys_of_a_split_are_no_paths(
    test: Any, run: Path, tiny_data: Path, tmp_path: Path, gta: Gta
) -> None:
    outside = tmp_path / "outside.png"
    shutil.copy(next(tiny_data.rglob("*.png")), outside)
    if test == ["OUTSIDE"]:
        test = [str(outside)]
    (run / "split.json").write_text(json.dumps({"test": test}))
    page = tmp_path / "r.html"
    result = gta("report", str(run), "-o", str(page), "--device", "cpu")
    assert result.status == 0
    assert "no predictions on its test images" in result.err
    assert "outside.png" not in "".join(
        line for line in page.read_text().splitlines() if "the data lacks" not in line
    )


@pytest.mark.parametrize("cached", [[9, 0.5], [-1, 0.5]])
def test_cached_predictions_of_unknown_classes_are_not_used(
    cached: list[float], run: Path, tmp_path: Path, gta: Gta
) -> None:
    words = ["report", str(run), "-o", str(tmp_path / "r.html"), "--device", "cpu"]
    assert gta(*words).status == 0
    file = run / "predictions.json"
    content = json.loads(file.read_text())
    content["top1"] = dict.fromkeys(content["top1"], cached)
    file.write_text(json.dumps(content))
    assert gta(*words).status == 0
    assert json.loads(file.read_text())["top1"] != content["top1"]


@pytest.mark.parametrize("config", [{"model": NAME}, {"data": "hfds/owner/name"}])
def test_a_repeated_run_downloads_nothing_unasked(
    config: dict[str, str], run: Path, tmp_path: Path, gta: Gta, asked: list[str]
) -> None:
    change(run, allow_fetch=True, **config)
    result = gta("finetune", "--recipe", str(run), "-o", str(tmp_path / "new"))
    assert result.status == 2
    assert "--allow-fetch" in one_line(result.err)
    assert asked == []
