from __future__ import annotations

from pathlib import Path

import pytest

from gtacli.config.study import Tuning
from gtacli.errors import GtaError, UsageError
from gtacli.runtime.ownership import owned
from gtacli.study.clean import clean
from gtacli.study.folder import State, StudyFolder
from gtacli.study.states import StudyProgress, choose
from gtacli.study.status import statuses

from .conftest import STUDY, begin, finish, finish_all

NONE, GTA = "none,sampling_rate=15,seed=0", "gta,sampling_rate=15,seed=0"
TUNE = "gta,sampling_rate=15,tune,lam={},seed=1000"


def state(folder: StudyFolder, name: str) -> State:
    return StudyProgress(StudyFolder(folder.path)).states[name]


def test_a_cell_waits_until_its_values_are_chosen_on_held_out_images(folder: StudyFolder) -> None:
    assert state(folder, NONE) is State.READY
    assert state(folder, GTA) is State.WAITING
    finish(folder, TUNE.format(0.01), {"val_top1": 0.9, "test_top1": 0.1})
    assert state(folder, GTA) is State.WAITING
    finish(folder, TUNE.format(0.1), {"val_top1": 0.8, "test_top1": 0.9})
    assert state(folder, GTA) is State.READY
    progress = StudyProgress(folder)
    settings = progress.settings(folder.plan.cells[GTA])
    assert settings is not None
    assert settings["lam"] == 0.01
    assert settings["seed"] == 0
    assert "hold_out" not in settings


def test_of_a_loss_the_lowest_is_chosen() -> None:
    tried = [({"lr": lr}, {"final_loss": loss}) for lr, loss in ((1.0, 0.5), (2.0, 0.3))]
    assert choose(tried, Tuning(metric="final_loss")) == {"lr": 2.0}
    assert choose(tried, Tuning(metric="final_loss", lower_is_better=False)) == {"lr": 1.0}


def test_where_no_image_can_be_held_out_the_other_places_choose(folder: StudyFolder) -> None:
    for lam in (0.01, 0.1):
        finish(folder, TUNE.format(lam), {"val_top1": None})
    assert state(folder, GTA) is State.WAITING
    other = "gta,sampling_rate=100,tune,lam={},seed=1000"
    finish(folder, other.format(0.01), {"val_top1": 0.5})
    assert state(folder, GTA) is State.WAITING
    finish(folder, other.format(0.1), {"val_top1": 0.7})
    progress = StudyProgress(folder)
    cell = folder.plan.cells[GTA]
    settings = progress.settings(cell)
    assert settings is not None
    assert settings["lam"] == 0.1
    assert progress.is_borrowed(cell)
    assert not progress.is_borrowed(folder.plan.cells["gta,sampling_rate=100,seed=0"])


def test_a_metric_that_no_tuning_cell_has_fails_the_cells_that_need_it(
    folder: StudyFolder,
) -> None:
    for rate in (15, 100):
        for lam in (0.01, 0.1):
            name = TUNE.format(lam).replace("=15", f"={rate}")
            finish(folder, name, {"val_top1": None})
    assert state(folder, GTA) is State.FAILED
    row = next(row for row in statuses(folder) if row["cell"] == GTA)
    assert "no tuning cell has 'val_top1'" in (row["reason"] or "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"settings": {"lr": 1.0}}, "lr was 1.0"),
        ({"code": "other"}, "other code or packages"),
        ({"data": {"demo": "E"}}, "data demo was other"),
        ({"command": "pretrain"}, "the command was pretrain"),
    ],
    ids=["settings", "code", "data", "command"],
)
def test_a_finished_cell_that_was_computed_with_something_else_has_changed(
    folder: StudyFolder, change: dict[str, object], reason: str
) -> None:
    finish(folder, NONE, {"test_top1": 0.5})
    assert state(folder, NONE) is State.FINISHED
    finish(folder, NONE, {"test_top1": 0.5}, **change)
    assert state(folder, NONE) is State.CHANGED
    assert StudyProgress(folder).result(folder.plan.cells[NONE]) is None
    assert any(reason in (row["reason"] or "") for row in statuses(folder))


def test_cells_run_fail_and_are_interrupted(folder: StudyFolder) -> None:
    with owned(folder.cells, "study", part=NONE, shared=True):
        assert state(folder, NONE) is State.RUNNING
    assert state(folder, NONE) is State.READY
    folder.run(NONE).mkdir(parents=True)
    (folder.run(NONE) / "run.json").write_text("{}")
    assert state(folder, NONE) is State.INTERRUPTED
    finish(folder, NONE, None)
    assert state(folder, NONE) is State.FAILED


def test_what_follows_a_changed_cell_is_changed_or_waits(tmp_path: Path) -> None:
    text = STUDY + '[[then]]\ncommand = "probe knn"\n'
    folder = begin(tmp_path, text)
    finish(folder, NONE, {"test_top1": 0.5})
    assert state(folder, f"{NONE},probe-knn") is State.READY
    finish(folder, NONE, {"test_top1": 0.5}, code="other")
    assert state(folder, f"{NONE},probe-knn") is State.WAITING


def test_a_record_of_a_stranger_is_read_by_a_schema(folder: StudyFolder) -> None:
    folder.records.mkdir(parents=True)
    (folder.records / f"{NONE}.json").write_text('{"command": 3}')
    with pytest.raises(GtaError, match="'command' must be text, got 3"):
        StudyProgress(folder)
    with pytest.raises(UsageError, match="no study's folder"):
        StudyFolder.existing(folder.path / "cells")


def test_clean_removes_what_no_longer_fits_and_what_is_no_longer_needed(
    folder: StudyFolder,
) -> None:
    finish_all(folder, lambda name: {"val_top1": 0.5, "test_top1": 0.5})
    finish(folder, NONE, {"test_top1": 0.5}, code="other")
    tuned = TUNE.format(0.1)
    for name in (NONE, GTA, tuned, "gone"):
        run = folder.run(name)
        run.mkdir(parents=True)
        for file in ("state.pt", "model.safetensors", "summary.json"):
            (run / file).write_bytes(b"0123456789")
    outside = folder.path.parent / "kept"
    outside.mkdir()
    (outside / "file").touch()
    (folder.cells / "link").symlink_to(outside)

    planned = clean(folder, dry_run=True)
    assert planned["removed"] == ["gone", "link", NONE]
    assert folder.run("gone").is_dir()

    assert clean(folder)["removed"] == planned["removed"]
    assert {path.name for path in folder.cells.iterdir()} == {GTA, tuned}
    assert {path.name for path in folder.run(GTA).iterdir()} == {
        "model.safetensors",
        "summary.json",
    }
    assert {path.name for path in folder.run(tuned).iterdir()} == {"summary.json"}
    assert (outside / "file").is_file()
    assert state(folder, NONE) is State.READY
    assert state(folder, GTA) is State.FINISHED


def test_nothing_is_removed_through_a_link(folder: StudyFolder, tmp_path: Path) -> None:
    outside = tmp_path / "kept"
    outside.mkdir()
    (outside / "state.pt").touch()
    folder.cells.mkdir(parents=True)
    folder.run(NONE).symlink_to(outside)
    finish(folder, NONE, {"test_top1": 0.5})
    clean(folder)
    assert (outside / "state.pt").exists()
