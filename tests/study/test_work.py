from __future__ import annotations

import json
from pathlib import Path

import pytest

from gtacli.errors import UsageError
from gtacli.runtime.ownership import owned
from gtacli.study.code import code_digest
from gtacli.study.folder import State, StudyFolder
from gtacli.study.metrics import metric_of
from gtacli.study.states import StudyProgress
from gtacli.study.work import BUSY, CellTask, work

from .conftest import STUDY, begin, finish

NONE, GTA = "none,sampling_rate=15,seed=0", "gta,sampling_rate=15,seed=0"


def printing(*lines: object, status: int = 0, files: tuple[str, ...] = ("run.json",)) -> object:
    """A command that prints lines of JSON and leaves files in its folder."""

    def run(task: CellTask) -> tuple[int, str]:
        task.out.mkdir(parents=True, exist_ok=True)
        for name in files:
            (task.out / name).write_text("{}")
        return status, "".join(f"{json.dumps(line)}\n" for line in lines)

    return run


def test_a_cell_is_run_by_its_recipe_and_its_last_result_is_recorded(folder: StudyFolder) -> None:
    tasks: list[CellTask] = []

    def run(task: CellTask) -> tuple[int, str]:
        tasks.append(task)
        return printing({"image": "a"}, {"test_top1": 0.5})(task)  # type: ignore[operator]

    assert work(folder.path, NONE, run) == 0
    (task,) = tasks
    assert task.recipe.read_text().startswith('command = "finetune"\ndata = "demo"')
    assert (task.resume, task.overwrite) == ("auto", False)
    record = folder.record(NONE)
    assert record is not None
    assert record.result == {"test_top1": 0.5}
    assert record.data == {"demo": "D"}
    assert work(folder.path, NONE, lambda task: pytest.fail("it is finished")) == 0


def test_a_summary_is_the_result_of_a_command_on_images(folder: StudyFolder) -> None:
    work(folder.path, NONE, printing({"image": "a"}, {"summary": {"mean_iou": 0.4}}))
    record = folder.record(NONE)
    assert record is not None
    assert record.result == {"mean_iou": 0.4}


def test_the_result_is_that_of_the_cells_own_model(folder: StudyFolder) -> None:
    """A probe prints a line for each model, its own first (`compare`)."""
    lines = [{"task": "knn", "model": name, "knn": {"20": k}} for name, k in (("a", 0.5), ("b", 1))]
    work(folder.path, NONE, printing(*lines))
    record = folder.record(NONE)
    assert record is not None
    assert record.result == lines[0]


def test_the_result_on_several_datasets_has_all_of_them_and_their_mean(folder: StudyFolder) -> None:
    lines = [
        {"task": "transfer", "model": model, "data": data, "knn": k, "how": {"k": 20}}
        for data, model, k in (("x/pets", "a", 0.5), ("x/pets", "b", 1), ("dtd.csv", "a", 0.7))
    ]
    work(folder.path, NONE, printing(*lines))
    record = folder.record(NONE)
    assert record is not None
    assert record.result is not None
    found = {k: record.result[k] for k in ("task", "model", "how", "knn")}
    assert found == {"task": "transfer", "model": "a", "how": {"k": 20}, "knn": 0.6}
    assert record.result["pets"] == lines[0]
    assert metric_of(record.result, "dtd_csv.knn") == 0.7


def test_the_code_is_that_which_has_computed_the_cell(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_digest()

    def run(task: CellTask) -> tuple[int, str]:
        monkeypatch.setattr("gtacli.study.work.code_digest", lambda: "of an update meanwhile")
        return 0, '{"test_top1": 0.5}'

    work(folder.path, NONE, run)
    record = folder.record(NONE)
    assert record is not None
    assert record.code == before


def test_what_was_chosen_is_run_and_recorded(folder: StudyFolder) -> None:
    with pytest.raises(UsageError, match="has to wait"):
        work(folder.path, GTA, printing({"test_top1": 0.5}))
    for lam, accuracy in ((0.01, 0.4), (0.1, 0.6)):
        name = f"gta,sampling_rate=15,tune,lam={lam},seed=1000"
        finish(folder, name, {"val_top1": accuracy})
    work(folder.path, GTA, printing({"test_top1": 0.5}))
    record = folder.record(GTA)
    assert record is not None
    assert record.settings["lam"] == 0.1
    assert "lam = 0.1" in (folder.records / f"{GTA}.toml").read_text()


def test_a_failure_is_recorded_with_the_last_line_of_the_log(folder: StudyFolder) -> None:
    folder.records.mkdir(parents=True)
    folder.log(NONE).write_text("epoch 1\nerror: data: no such folder\n\n")
    assert work(folder.path, NONE, printing(status=2)) == 2
    record = folder.record(NONE)
    assert record is not None
    assert (record.status, record.error, record.starts) == (2, "data: no such folder", 1)
    assert work(folder.path, NONE, printing({"test_top1": 0.5})) == 0
    record = folder.record(NONE)
    assert record is not None
    assert (record.error, record.starts) == (None, 2)


def test_an_interrupted_cell_has_no_record_and_goes_on(folder: StudyFolder) -> None:
    assert work(folder.path, NONE, printing(status=130)) == 130
    assert folder.record(NONE) is None


def test_an_earlier_failure_does_not_hide_that_the_cell_is_killed_now(folder: StudyFolder) -> None:
    finish(folder, NONE, None)

    def killed(task: CellTask) -> tuple[int, str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(folder.path, NONE, killed)
    assert StudyProgress(folder).states[NONE] is State.READY
    assert folder.record(NONE) is None
    finish(folder, NONE, None)
    work(folder.path, NONE, printing({"test_top1": 0.5}))
    record = folder.record(NONE)
    assert record is not None
    assert record.starts == 2


def test_a_cell_of_another_process_is_left_to_it(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gtacli.runtime.ownership.PATIENCE", 0.01)
    with owned(folder.cells, "study", part=NONE, shared=True):
        assert work(folder.path, NONE, lambda task: pytest.fail("it runs already")) == BUSY


def test_a_finished_cell_that_has_changed_is_not_run_over(folder: StudyFolder) -> None:
    finish(folder, NONE, {"test_top1": 0.5}, code="other")
    with pytest.raises(UsageError, match="other code or packages"):
        work(folder.path, NONE, lambda task: pytest.fail("it has a result"))


def test_states_go_when_a_cell_is_finished_and_weights_of_those_that_choose(
    folder: StudyFolder,
) -> None:
    files = ("state.pt", "state-previous.pt", "model.safetensors", "summary.json")
    tuning = "gta,sampling_rate=15,tune,lam=0.1,seed=1000"
    for name, kept in ((NONE, files[2:]), (tuning, files[3:])):
        work(folder.path, name, printing({"val_top1": 0.5}, files=files))
        assert {path.name for path in folder.run(name).iterdir()} == set(kept)


def test_a_probe_on_a_cell_starts_over_where_it_was_interrupted(tmp_path: Path) -> None:
    folder = begin(tmp_path, STUDY + '[[then]]\ncommand = "probe knn"\n')
    finish(folder, NONE, {"test_top1": 0.5})
    name = f"{NONE},probe-knn"
    folder.run(name).mkdir(parents=True)
    (folder.run(name) / "run.json").touch()
    tasks: list[CellTask] = []

    def run(task: CellTask) -> tuple[int, str]:
        tasks.append(task)
        return 0, '{"top1": 0.5}'

    work(folder.path, name, run)
    assert (tasks[0].resume, tasks[0].overwrite) == (None, True)
    assert f'model = "{folder.run(NONE)}"' in tasks[0].recipe.read_text()
