from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtacli.config.study import read_study
from gtacli.errors import UsageError
from gtacli.study.plan import (
    StudyPlan,
    cell_name,
    check_settings,
    config_for,
    make_plan,
    merged,
)

from .conftest import STUDY

HEAD = 'command = "finetune"\n[fixed]\ndata = "demo"\nmodel = "demo"\n'


def plan_of(text: str) -> StudyPlan:
    plan = make_plan(read_study(text, "s.toml"), "s.toml")
    check_settings(plan, "s.toml")
    return plan


def test_all_methods_with_the_first_seed_come_first() -> None:
    cells = [cell for cell in plan_of(STUDY).cells.values() if not cell.tunes]
    assert [cell.settings["seed"] for cell in cells] == [0] * 4 + [1] * 4 + [2] * 4
    assert [cell.turn for cell in cells] == sorted(cell.turn for cell in cells)
    assert [cell.name for cell in cells][:2] == [
        "none,sampling_rate=15,seed=0",
        "gta,sampling_rate=15,seed=0",
    ]


def test_values_are_chosen_before_the_first_cell_that_has_them_and_once_for_all_seeds() -> None:
    plan = plan_of(STUDY)
    tuning = [cell for cell in plan.cells.values() if cell.tunes]
    assert len(tuning) == 2 * 2  # two rates, two strengths, one seed
    assert {cell.settings["seed"] for cell in tuning} == {1000}
    assert all(cell.settings["hold_out"] == 20.0 for cell in tuning)
    names = list(plan.cells)
    for cell in plan.cells.values():
        assert all(names.index(need) < names.index(cell.name) for need in cell.needs)
    assert len(plan.cells["gta,sampling_rate=15,seed=2"].needs) == 2


@pytest.mark.parametrize(("wanted", "used"), [('"none"', 20.0), ('"auto"', 20.0), ("40.0", 40.0)])
def test_values_are_chosen_on_images_that_the_cells_train_on(wanted: str, used: float) -> None:
    """A study of the last epoch of all images (`hold_out = "none"`) ran all tuning for nothing."""
    head = f"{HEAD}hold_out = {wanted}\n"
    plan = plan_of(f"{head}[grid]\nseed = [0]\n[method.a]\n[method.a.tune]\nlr = [1.0, 2.0]\n")
    shares = {cell.tunes: cell.settings["hold_out"] for cell in plan.cells.values()}
    assert shares[True] == used
    assert repr(shares[False]).replace("'", '"') == wanted
    other = f'{head}[tuning]\nmetric = "drift"\n[method.a]\n[method.a.tune]\nlr = [1.0]\n'
    [tuning] = [cell for cell in plan_of(other).cells.values() if cell.tunes]
    assert repr(tuning.settings["hold_out"]).replace("'", '"') == wanted


def test_a_number_of_trials_is_the_same_budget_for_all_methods() -> None:
    text = f"""{HEAD}[tuning]
trials = 3
seeds = [7, 8]
[method.a]
[method.a.tune]
lr = [1e-4, 2e-4, 4e-4, 8e-4]
[method.b]
[method.b.tune]
lr = [1e-4, 2e-4]
lam = [0.1, 1]
"""
    tuning = [cell for cell in plan_of(text).cells.values() if cell.tunes]
    for method in ("a", "b"):
        assert sum(cell.method == method for cell in tuning) == 3 * 2


def test_a_method_with_a_grid_of_its_own_is_several_rows() -> None:
    plan = plan_of(f"{HEAD}[method.none]\n[method.gta]\n[method.gta.grid]\nlam = [0.1, 1]\n")
    assert plan.methods == ("none", "gta lam=0.1", "gta lam=1")
    assert plan.cells["gta_lam=1"].settings["lam"] == 1


def test_an_option_of_a_part_is_a_key() -> None:
    text = f"""{HEAD}[method.gta]
regularizer = ["gta", "bss"]
[method.gta.grid]
"regularizer.gta.every" = [1, 2]
"regularizer.gta.distance" = ["kl"]
[method.sgd]
optimizer = "sgd"
[method.sgd.tune]
"optimizers.sgd.momentum" = [0.5, 0.9]
"""
    plan = plan_of(text)
    every_second = [*plan.cells.values()][1]
    config: Any = config_for(every_second, every_second.settings, "s.toml")
    assert config.regularizer["gta"] == {"every": 2, "distance": "kl"}
    assert "bss" in config.regularizer
    tuned: Any = plan.cells["sgd,tune,optimizers.sgd.momentum=0.5,seed=1000"]
    config = config_for(tuned, tuned.settings, "s.toml")
    assert config.optimizers["sgd"] == {"momentum": 0.5}
    with pytest.raises(UsageError, match=r"cell a: .*evry=2: unknown key 'evry'; did you mean"):
        plan_of(f'{HEAD}[method.a]\n"regularizer.gta.evry" = 2\n')


def test_a_command_that_follows_has_the_run_as_model_and_its_data_and_seed() -> None:
    plan = plan_of(f'{HEAD}[grid]\nseed = [5]\n[[then]]\ncommand = "probe knn"\nk = [20]\n')
    main, then = plan.cells.values()
    assert (then.parent, then.command) == (main.name, "probe knn")
    assert dict(then.settings) == {"data": "demo", "seed": 5, "k": [20]}


def test_what_belongs_to_the_images_follows_with_them() -> None:
    then = '[grid]\nseed = [5]\n[[then]]\ncommand = "probe knn"\n'
    _, same = plan_of(f'{HEAD}columns = "image=photo"\n{then}').cells.values()
    assert dict(same.settings) == {"data": "demo", "columns": "image=photo", "seed": 5}
    own = f'{HEAD}columns = "image=photo"\n{then}data = "other"\n'
    _, other = plan_of(own).cells.values()
    assert dict(other.settings) == {"data": "other", "seed": 5}
    _, background = plan_of(
        f'{HEAD}[grid]\nseed = [5]\n[[then]]\ncommand = "probe background"\nvariants = "in9"\n'
    ).cells.values()
    assert dict(background.settings) == {"variants": "in9", "seed": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}[method.a]\nlra = 1\n", "cell a: unknown key 'lra'"),
        (f"{HEAD}[method.a]\nlr = -1\n", "cell a: lr: must be more than 0, got -1"),
        (f'{HEAD}[method.a]\nout = "x"\n', "out: a: the study says where"),
        (f"{HEAD}[grid]\nlr = [1.0]\n[method.a]\nlr = 1.0\n", "'lr' of method 'a' is in `grid`"),
        (f"{HEAD}[grid]\nseed = [1000]\n[method.a]\n[method.a.tune]\nlr = [1.0]\n", "seed 1000"),
        (f'{HEAD}[tuning]\nmetric = "test_top1"\n[method.a]\n', "test images, which choose"),
        (f"{HEAD}[grid]\nlr = []\n", "grid.lr"),
        (f"{HEAD}[row.x]\nmethod = 'b'\nmetric = 'm'\n[method.a]\n", "which is not there"),
        ('command = "fintune"\n[grid]\nseed = [0]\n', "did you mean 'finetune'"),
        ('command = "finetune"\nlr = 1.0\n', "neither [grid] nor [method.NAME]"),
        (f"{HEAD}[grids]\nlr = [1.0]\n[method.a]\n", "unknown key 'grids'"),
        (f"{HEAD}[method.a", "is not TOML"),
        (f"{HEAD}lr = 0.1\n[grid]\nlr = [1.0]\n", "'lr' of `fixed` is in `grid`, too"),
        (f'{HEAD}[tuning]\nmetric = "linear_probe_top1"\n[method.a]\n', "test images, which"),
        (
            'command = "probe linear"\n[fixed]\ndata = "demo"\n[tuning]\nmetric = "top1"\n'
            '[method.a.tune]\nlayer = ["last", "-2"]\n',
            "'top1' of `probe linear` is measured on test images",
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_anything_runs(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        plan_of(text)
    assert str(error.value).startswith("s.toml")


def test_the_environment_changes_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GTA_FINETUNE__LR", "-1")
    plan_of(STUDY)


@given(
    st.text(min_size=1), st.dictionaries(st.text(min_size=1), st.text() | st.floats(), max_size=4)
)
def test_a_name_is_one_safe_part_of_a_path(method: str, keys: dict[str, object]) -> None:
    name = cell_name(method, keys)
    assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_.,=+-]*", name) or name[0] in "-="
    assert len(name) <= 180
    assert name == cell_name(method, keys)


@given(st.lists(st.text(min_size=1, max_size=60), min_size=2, max_size=2, unique=True))
def test_other_values_have_other_names(values: list[str]) -> None:
    one, other = (cell_name("m", {"data": value}) for value in values)
    assert one != other


def test_tables_merge_key_by_key() -> None:
    low = {"a": {"x": 1, "y": 2}, "b": 1}
    assert merged(low, {"a": {"y": 3}}, {"b": {"z": 1}}) == {"a": {"x": 1, "y": 3}, "b": {"z": 1}}
    assert low == {"a": {"x": 1, "y": 2}, "b": 1}
