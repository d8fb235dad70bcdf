"""The file of a study: one command with many settings, as a table of methods and a grid of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tomli_w
from pydantic import ConfigDict, Field, model_validator

from gtacli.config.base import StrictModel, build
from gtacli.config.commands import config_of
from gtacli.config.recipes import Recipe, find, is_study
from gtacli.config.values import Setting, Tree, literal, merge, nest, plain, tree_of
from gtacli.errors import UsageError
from gtacli.runtime.strict_toml import parse_toml

Values = Annotated[list[Any], Field(min_length=1)]
SEED = "seed"
_CHOSEN = "chosen_"


class Method(StrictModel):
    """A row of the study: keys of the command, beside these tables.

    Attributes:
        grid: further keys with the values of which each makes a row of its own.
        tune: keys with the values of which one is chosen on held-out images.
    """

    model_config = ConfigDict(extra="allow")

    grid: dict[str, Values] = Field(default_factory=dict)
    tune: dict[str, Values] = Field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of the command."""
        return dict(self.model_extra or {})


class Tuning(StrictModel):
    """The choice of values, which is equal for all methods."""

    seeds: Annotated[list[int], Field(min_length=1)] = Field(default_factory=lambda: [1000])
    metric: str = "val_top1"
    lower_is_better: bool | None = None
    """None: as the metric is known to be."""
    trials: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check_metric(self) -> Tuning:
        if self.metric.split(".")[-1].startswith(("test", "linear_probe")):
            raise ValueError(f"'{self.metric}' is measured on test images, which choose nothing")
        return self


class OtherMetric(StrictModel):
    """A row that shows another metric of a method's runs, such as a linear probe's accuracy."""

    method: str
    metric: str


class Then(StrictModel):
    """A command that follows each cell, on the cell's run: keys of that command, too."""

    model_config = ConfigDict(extra="allow")

    command: str

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of the command."""
        return dict(self.model_extra or {})


class StudyFile(StrictModel):
    """The content of a study's file.

    Attributes:
        command: the command of each cell.
        fixed: keys of the command with the same value in every cell.
        grid: keys with a list of values; every combination is a cell of each method.
        method: the methods by name.
        row: further rows of tables, by name.
        tuning: how the values in the methods' `tune` are chosen.
        then: commands that follow each cell.
        executor: options of executors, by the executor's name.
    """

    command: str
    fixed: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Values] = Field(default_factory=dict)
    method: dict[str, Method] = Field(default_factory=dict)
    row: dict[str, OtherMetric] = Field(default_factory=dict)
    tuning: Tuning = Field(default_factory=Tuning)
    then: list[Then] = Field(default_factory=list)
    executor: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_keys(self) -> StudyFile:
        tuned = any(method.tune for method in self.method.values())
        if tuned and (shared := set(self.tuning.seeds) & set(self.grid.get(SEED, [0]))):
            raise ValueError(
                f"seed {min(shared)} of `tuning.seeds` is in the grid: what is chosen on a seed "
                "is not reported on it"
            )
        if (
            tuned
            and self.command.startswith("probe")
            and not self.tuning.metric.startswith(_CHOSEN)
        ):
            raise ValueError(
                f"'{self.tuning.metric}' of `{self.command}` is measured on test images, which "
                f"choose nothing; its `{_CHOSEN}top1`, where it has one, is on held-out images"
            )
        for key in self.fixed:
            if key in self.grid:
                raise ValueError(f"'{key}' of `fixed` is in `grid`, too: set grid.{key} to a list")
        for name, row in self.row.items():
            if row.method not in self.method:
                raise ValueError(f"row '{name}' is of method '{row.method}', which is not there")
            if name in self.method:
                raise ValueError(f"'{name}' is a row and a method")
        for name, method in self.method.items():
            own = [*method.settings, *method.grid, *method.tune]
            for key in own:
                if key in self.grid or own.count(key) > 1:
                    where = "in `grid`" if key in self.grid else "twice in this method"
                    raise ValueError(f"'{key}' of method '{name}' is {where}, too")
        return self


def find_study(spec: str) -> Recipe:
    """Return a study by the name of a shipped recipe, or by its file."""
    recipe = find(spec)
    if spec.endswith(".json") or recipe.path.suffix == ".json":
        raise UsageError("is no study, which is a .toml file", source=spec)
    return recipe


def change_study(text: str, label: str, sets: Sequence[str], set_label: str = "set") -> str:
    """Return the text of a study's file with some of its keys set.

    Args:
        text: the file's.
        label: its name for messages.
        sets: settings of the form "key.sub=value", keys as in the file, values in TOML or bare
            words; tables are merged key by key, the later setting counts.
        set_label: name of the option that `sets` come from, for errors.

    The comments at the file's head stay, and say what was set; those below are lost. Raises
    UsageError for a setting without a key or a value.
    """
    if not sets:
        return text
    tree: Tree = tree_of(_read(text, label))
    for each in sets:
        key, equals, value = each.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            raise UsageError("must be KEY=VALUE or KEY.SUB=VALUE", source=f"{set_label} {each}")
        tree = merge(tree, nest(path, Setting(literal(value.strip()))))
    head = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    head += [f"# Set: {' '.join(each.split())}" for each in sets]
    try:
        return "\n".join([*head, tomli_w.dumps(plain(tree))])
    except TypeError as error:
        raise UsageError(f"is no TOML with what was set: {error}", source=label) from None


def read_study(text: str, label: str) -> StudyFile:
    """Return the content of a study's file.

    Args:
        text: the file's.
        label: its name for messages.

    Raises UsageError with one line that names the key.
    """
    values = _read(text, label)
    if not is_study(values):
        command = values.get("command", "finetune")
        raise UsageError(
            f"is no study, for it has neither [grid] nor [method.NAME]; it is a recipe of "
            f"`gta {command}`",
            source=label,
        )
    file = build(StudyFile, values, source=label)
    for command in (file.command, *(then.command for then in file.then)):
        config_of(command, label)
    return file


def _read(text: str, label: str) -> Mapping[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:
        raise UsageError(f"is not TOML: {error}", source=label) from None
