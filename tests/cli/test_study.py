"""`gta study` from its file to its table, with real runs in this process."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gtacli.cli import main
from gtacli.executors.base import Executor, ExecutorOptions, Job
from gtacli.registry import EXECUTORS
from gtacli.rendering.sheet import SIDE
from tests.conftest import write_tiny_data, write_tiny_model

STUDY = """
command = "finetune"
[fixed]
data = "DATA"
model = "MODEL"
epochs = 1
batch_size = 8
workers = 0
device = "cpu"
[grid]
seed = [0]
[method.none]
regularizer = ["none"]
[method.gta]
lam = 0.1
[[then]]
command = "probe knn"
k = [5]
"""
CELLS = ["none,seed=0", "none,seed=0,probe-knn", "gta,seed=0", "gta,seed=0,probe-knn"]


class Here(Executor[ExecutorOptions]):
    """An executor whose commands run at once, in this process."""

    def __init__(self, options: ExecutorOptions, jobs: int | None, folder: Path) -> None:
        super().__init__(options, jobs, folder)
        self.slots = 1

    def submit(self, words: Sequence[str], log: Path) -> Job:
        status = main(list(words))

        class Ended:
            def done(self) -> bool:
                return True

            def result(self) -> int:
                return status

        return Ended()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study that has run."""
    path = tmp_path_factory.mktemp("study")
    text = STUDY.replace("DATA", str(write_tiny_data(path)))
    text = text.replace("MODEL", str(write_tiny_model(path)))
    (path / "s.toml").write_text(text)
    with EXECUTORS.registered("here", Here):
        words = [str(path / "s.toml"), "-o", str(path / "out"), "--executor", "here", "-q"]
        assert main(["study", "run", *words]) == 0
        yield path


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["study", *words, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_cell_is_an_ordinary_run_that_its_recipe_repeats(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = study / "out"
    assert sorted(path.name for path in (out / "cells").iterdir()) == sorted(CELLS)
    summary = json.loads((out / "cells" / CELLS[0] / "summary.json").read_text())
    record = json.loads((out / "records" / f"{CELLS[0]}.json").read_text())
    assert record["result"] == summary
    probe = json.loads((out / "records" / f"{CELLS[1]}.json").read_text())
    assert probe["result"]["task"] == "knn"
    capsys.readouterr()
    recipe = str(out / "records" / f"{CELLS[2]}.toml")
    assert main(["finetune", "--recipe", recipe, "--print-config"]) == 0
    assert "lam = 0.1" in capsys.readouterr().out


def test_what_is_finished_is_not_run_again(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", str(study / "s.toml"), "-o", str(study / "out"), "--executor", "here"]
    (result,) = lines(capsys, *words)
    assert (result["cells"], result["finished"], result["ran"]) == (4, 4, [])
    states = lines(capsys, "status", str(study / "out"))
    assert [row["cell"] for row in states] == CELLS
    assert {row["state"] for row in states} == {"finished"}


def test_tables_figures_and_comparisons(
    study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = str(study / "out")
    (table,) = lines(capsys, "table", out)
    assert [row["method"] for row in table["rows"]] == ["none", "gta"]
    (knn,) = lines(capsys, "table", out, "--metric", "probe-knn:knn.5")
    assert 0 < knn["rows"][0]["columns"]["all"]["mean"] <= 1
    for form, text in (("markdown", "| none |"), ("latex", "\\toprule"), ("csv", "none,all")):
        capsys.readouterr()
        assert main(["study", "table", out, "--format", form]) == 0
        assert text in capsys.readouterr().out
    lines(capsys, "plot", out, "-o", str(tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    (pair,) = lines(capsys, "compare", out, "gta", "none")
    assert pair["n"] == 1
    assert pair["p"] is None
    assert main(["study", "compare", out, "gta", "nobody"]) == 2


def test_sheets_of_attention(
    study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = str(study / "out")
    (result,) = lines(capsys, "sheet", out, "--count", "3", "--at", "seed=0")
    assert list(result["models"]) == ["source", "none", "gta"]
    assert result["models"]["gta"] == str(Path(out, "cells", "gta,seed=0"))
    assert len(set(result["images"])) == 3
    width, height = Image.open(result["sheet"]).size
    assert width > 4 * SIDE  # the image and three models
    assert height > 3 * SIDE / 2
    own = result["images"][:1]
    words = [out, *own, "--method", "gta", "-o", str(tmp_path / "a.svg")]
    (less,) = lines(capsys, "sheet", *words)
    assert list(less["models"]) == ["source", "gta"]
    assert less["images"] == own
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


SEGMENT = """
command = "segment"
[fixed]
data = "demo"
backend = "dino"
device = "cpu"
[method.source]
model = "demo"
[method.random]
model = "MODEL"
"""


def test_sheets_of_objects(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from tests.study.conftest import begin, finish

    text = SEGMENT.replace("MODEL", str(write_tiny_model(tmp_path)))
    folder = begin(tmp_path / "out", text)
    for name in folder.plan.cells:
        finish(folder, name, {"mean_iou": 0.5})
    (result,) = lines(capsys, "sheet", str(folder.path), "--of", "objects", "--count", "2")
    assert list(result["models"]) == ["source", "random"]
    assert Image.open(result["sheet"]).width > 4 * SIDE  # image, ground truth, two models


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "finetune-nothing"], "unknown recipe"),
        (["run", "cub"], "neither [grid] nor [method.NAME]"),
        (["status", "."], "is no study's folder"),
        (["run", "S", "-o", "USED"], "is not empty, and no study's folder"),
        (["run", "S", "--executor", "lokal"], "did you mean 'local'"),
        (
            ["run", "S", "--dry-run", "--executor", "slurm", "--set", "executor.slurm.cluster=x"],
            "executor.slurm.cluster: must be one of slurm, local",
        ),
        (["run", "S", "--dry-run", "--set", "grid.seed"], "--set grid.seed: must be KEY=VALUE"),
        (
            ["run", "S", "--dry-run", "--set", "grid.seed=[]"],
            "must be a list with at least 1 entry",
        ),
        (["run", "S", "--dry-run", "--set", "grdi.seed=[1]"], "did you mean 'grid'"),
        (["run", "S", "--dry-run", "--set", "fixed.epochs=one"], "epochs"),
        (["sheet", "OUT", "--at", "sed=1"], "did you mean 'seed'"),
        (["sheet", "OUT", "--at", "seed"], "--at: must be KEY=VALUE"),
        (["sheet", "OUT", "--at", "seed=7"], "no cell at seed=7 is finished"),
        (["sheet", "OUT", "--method", "gat"], "did you mean 'gta'"),
        (["sheet", "OUT", "--of", "objects"], "no cell of the study runs gta segment"),
        (["sheet", "OUT", "-o", "sheet.tiff"], "must end in .png"),
        (["run", "S", "--dry-run", "--set", "grid.seed=1"], "grid.seed: must be a list"),
    ],
    ids=[
        "unknown",
        "a recipe",
        "no study",
        "used",
        "executor",
        "its option",
        "set",
        "empty",
        "table",
        "value",
        "place's key",
        "place without value",
        "empty place",
        "row",
        "no segment",
        "suffix",
        "list",
    ],
)
def test_wrong_usage_is_one_line(
    study: Path,
    words: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(STUDY)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    named = {"S": "s.toml", "USED": "used", "OUT": str(study / "out")}
    assert main(["study", *(named.get(word, word) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert message in line
    assert line.startswith("error: ")


def test_a_study_is_no_recipe_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.toml").write_text(STUDY)
    assert main(["finetune", "--recipe", str(tmp_path / "s.toml")]) == 2
    assert "is a study of many runs" in capsys.readouterr().err


def test_the_cells_are_listed_without_running_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text(STUDY)
    found = lines(capsys, "run", str(tmp_path / "s.toml"), "--dry-run")
    assert [row["cell"] for row in found] == CELLS


def test_a_report_of_a_study_shows_its_finished_cells(
    study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    words = ["report", str(study / "out"), "-o", str(page), "--no-images", "--json"]
    capsys.readouterr()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 4
    text = page.read_text()
    assert all(name.split(",")[0] in text for name in CELLS)
    assert "Study out" in text
    assert "mean ± standard deviation over seeds" in text
    assert 'src="data:image/svg+xml' in text


def test_keys_are_set_on_the_command_line_and_stay_in_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = STUDY.replace("DATA", str(write_tiny_data(tmp_path))).replace("MODEL", "demo")
    (tmp_path / "s.toml").write_text(f"# gta study run s.toml{text}")
    sets = ["--set", "grid.seed=[3]", "--set", "method.gta.lam=0.5", "--set", "fixed.optimizer=sgd"]
    words = ["run", str(tmp_path / "s.toml"), *sets]
    assert [row["cell"] for row in lines(capsys, *words, "--dry-run")] == [
        name.replace("seed=0", "seed=3") for name in CELLS
    ]
    with EXECUTORS.registered("none", NoneRuns):
        main(["study", *words, "-o", str(tmp_path / "out"), "--executor", "none", "-q"])
    found = (tmp_path / "out" / "study.toml").read_text()
    assert found.startswith("# gta study run s.toml\n# Set: grid.seed=[3]\n")
    values = tomllib.loads(found)
    assert values["grid"] == {"seed": [3]}
    assert values["method"]["gta"] == {"lam": 0.5}
    assert values["fixed"]["optimizer"] == "sgd"
    assert values["fixed"]["epochs"] == 1


class NoneRuns(Here):
    """An executor whose commands fail at once."""

    def submit(self, words: Sequence[str], log: Path) -> Job:
        return super().submit(["recipes", "show", "no-such-recipe"], log)


def test_a_study_is_not_changed_while_another_command_hands_out_its_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No cell is at work yet, or none just now; the command then failed, as its cell was gone."""
    text = STUDY.replace("DATA", str(write_tiny_data(tmp_path))).replace("MODEL", "demo")
    (tmp_path / "s.toml").write_text(text)
    out = tmp_path / "out"
    words = ["study", "run", str(tmp_path / "s.toml"), "-o", str(out), "-q", "--executor"]
    changed = ["--set", "grid.seed=[3]"]
    seen: list[int] = []

    class Meanwhile(NoneRuns):
        """An executor while whose command begins, two other ones begin."""

        def submit(self, command: Sequence[str], log: Path) -> Job:
            if not seen:
                seen.append(main([*words, "none", *changed]))
                seen.append(main([*words, "none"]))
            return super().submit(command, log)

    with EXECUTORS.registered("none", NoneRuns), EXECUTORS.registered("while", Meanwhile):
        assert main([*words, "while"]) == 1
        assert seen == [2, 1]
        told = capsys.readouterr().err
        assert f"another study is at work in {out}; wait until it ends" in told
        assert "none,seed=0 failed: it ended with status 2 (log: " in told
        assert tomllib.loads((out / "study.toml").read_text())["grid"] == {"seed": [0]}
        (out / ".gta-lock-run-killed").touch()
        assert main([*words, "none", *changed]) == 1
    assert tomllib.loads((out / "study.toml").read_text())["grid"] == {"seed": [3]}
    assert not [*out.glob(".gta*")]
