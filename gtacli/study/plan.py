"""The plan of a study: its cells, in the order in which they run.

A cell is one run of a command. All methods with the first seed come first, then the second seed, so
that a whole table with few repeats is there early. The cells that choose a cell's values come right
before it, those that follow it right after.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from gtacli.config.commands import config_of
from gtacli.config.common import CommandConfig
from gtacli.config.recipes import Recipe
from gtacli.config.resolve import resolve
from gtacli.config.study import SEED, Method, StudyFile, Then
from gtacli.errors import UsageError

Settings = Mapping[str, Any]
_RESERVED = ("out", "overwrite", "resume", "json")
_LONGEST_NAME = 180
HELD_OUT = 20.0
"""Share of each class on which values are chosen, in percent."""
_LONGEST_VALUE = 40
_OF_THE_DATA = ("data", "columns", "multi_label", "bands", "value_range")
"""Settings that belong to the images of a cell and of what follows it."""
_INSTEAD_OF_DATA = ("data", "variants")


@dataclass(frozen=True)
class Cell:
    """One run of a command.

    Attributes:
        name: its folder below `cells/`; says what it is.
        command: the command.
        method: its row.
        keys: its place in the grid, the seed included.
        settings: keys of the command, without those that are chosen.
        candidates: tuning cells by the values that each tries; those of one join `settings`.
        tunes: whether it is such a tuning cell.
        parent: name of the cell whose run is its model.
        turn: cells of a smaller turn run first.
    """

    name: str
    command: str
    method: str
    keys: Settings
    settings: Settings
    candidates: tuple[tuple[str, Settings], ...] = ()
    tunes: bool = False
    parent: str | None = None
    turn: tuple[int, int] = (0, 0)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells that must have ended before it."""
        tuning = tuple(dict.fromkeys(name for name, _ in self.candidates))
        return tuning if self.parent is None else (self.parent,)

    @property
    def repeated(self) -> str:
        """A text that cells which differ only in their seed share."""
        keys = {key: value for key, value in self.keys.items() if key != SEED}
        settings = {key: value for key, value in self.settings.items() if key != SEED}
        return _as_text([self.command, self.method, self.tunes, keys, settings])


@dataclass(frozen=True)
class StudyPlan:
    """The cells of a study by name, in order.

    Attributes:
        file: the study.
        methods: names of its rows, those of a method's own grid each by itself.
    """

    file: StudyFile
    cells: Mapping[str, Cell]
    methods: tuple[str, ...]

    def followers(self, name: str) -> Iterator[Cell]:
        """Yield the cells that need a cell, directly or not."""
        for cell in self.cells.values():
            if name in cell.needs:
                yield cell
                yield from self.followers(cell.name)


def make_plan(file: StudyFile, label: str) -> StudyPlan:
    """Return the plan of a study, whose settings are not checked; see `check_settings`.

    Args:
        label: the file's name for messages.

    Raises UsageError for two cells of one name.
    """
    rows = dict(_rows(file))
    cells: dict[str, Cell] = {}
    for turn, (keys, (name, method)) in enumerate(product(_places(file.grid), rows.items())):
        seeds = file.grid.get(SEED, [0])
        order = (seeds.index(keys.get(SEED, seeds[0])), turn)
        for cell in _group(file, name, method, keys, order):
            other = cells.setdefault(cell.name, cell)
            if other.settings != cell.settings:  # of two values that are written alike
                raise UsageError(f"two cells have the name {cell.name}", source=label)
    return StudyPlan(file, cells, tuple(rows))


def _rows(file: StudyFile) -> Iterator[tuple[str, Method]]:
    """Yield the methods; one with a grid of its own once for each place in it."""
    for name, method in (file.method or {file.command.replace(" ", "-"): Method()}).items():
        for own in _places(method.grid):
            label = " ".join([name, *(f"{key}={show_value(value)}" for key, value in own.items())])
            yield label, Method(**{**method.settings, **own}, tune=method.tune)


def _places(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield every combination of a grid's values, the seed last; those of the first seed first."""
    keys = sorted(grid, key=lambda key: key != SEED)
    for values in product(*(grid[key] for key in keys)):
        place = dict(zip(keys, values, strict=True))
        yield dict(sorted(place.items(), key=lambda item: item[0] == SEED))


def _group(
    file: StudyFile, name: str, method: Method, keys: Settings, order: tuple[int, int]
) -> Iterator[Cell]:
    """Yield a cell with those that choose its values and those that follow it."""
    settings = merged(file.fixed, method.settings, keys)
    tuning = list(_tuning_cells(file, name, method, keys, settings, order))
    yield from tuning
    candidates = tuple((cell.name, {k: cell.settings[k] for k in method.tune}) for cell in tuning)
    main = Cell(cell_name(name, keys), file.command, name, keys, settings, candidates, turn=order)
    yield main
    for then in file.then:
        yield _follower(main, then)


def _tuning_cells(
    file: StudyFile,
    name: str,
    method: Method,
    keys: Settings,
    settings: Settings,
    order: tuple[int, int],
) -> Iterator[Cell]:
    if not method.tune:
        return
    place = {key: value for key, value in keys.items() if key != SEED}
    values = list(_places(method.tune))
    if file.tuning.trials is not None and file.tuning.trials < len(values):
        values = random.Random(0).sample(values, file.tuning.trials)
    for seed, tried in product(file.tuning.seeds, values):
        own = {**place, SEED: seed}
        yield Cell(
            cell_name(name, {**place, "tune": "", **tried, SEED: seed}),
            file.command,
            name,
            own,
            _with_held_out(file, merged(settings, own, tried)),
            tunes=True,
            turn=order,
        )


def _with_held_out(file: StudyFile, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings under which a fine-tuning measures on held-out images.

    A study that trains its cells on all images ("none", or few of them and "auto") still chooses
    on some.
    """
    if file.command != "finetune":
        return settings
    own = merged({"hold_out": HELD_OUT, "linear_probe": False}, settings)
    if file.tuning.metric.startswith("val_") and isinstance(own["hold_out"], str):
        own["hold_out"] = HELD_OUT
    return own


def _follower(main: Cell, then: Then) -> Cell:
    """Return the cell of a command that follows another; the data and the seed are its, too."""
    fields = config_of(then.command).model_fields
    own_images = not then.settings.keys().isdisjoint(_INSTEAD_OF_DATA)
    shared = [SEED] if own_images else [SEED, *_OF_THE_DATA]
    inherited = {key: main.settings[key] for key in shared if key in {*main.settings} & {*fields}}
    return Cell(
        follower_name(main.name, then.command),
        then.command,
        main.method,
        main.keys,
        merged(inherited, then.settings),
        parent=main.name,
        turn=main.turn,
    )


def follower_name(name: str, command: str) -> str:
    """Return the name of the cell of a command that follows a cell."""
    return f"{name},{_slug(command.replace(' ', '-'))}"


def cell_name(method: str, keys: Settings) -> str:
    """Return the name of a cell: `gta,sampling_rate=15,seed=0`; safe as the name of a folder."""
    words = [_slug(method)]
    words += [
        _slug(key) + (f"={_slug(value)}" if value != "" else "") for key, value in keys.items()
    ]
    name = ",".join(words)
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 9]}-{_digest(name)}"
    return name


def _slug(value: Any) -> str:
    """Return a value as part of a name; what is replaced or cut is told apart by a digest."""
    text = show_value(value)
    slug = re.sub(r"[^\w.+=-]+", "_", text, flags=re.ASCII).strip("._") or "_"
    if slug != text or len(slug) > _LONGEST_VALUE:
        plain = text.replace(" ", "_")  # says all
        if slug == plain and len(slug) <= _LONGEST_VALUE:
            return slug
        slug = f"{slug[:_LONGEST_VALUE]}-{_digest(text)}"
    return slug


def show_value(value: Any) -> str:
    """Return a value as it stands in names of cells and rows."""
    if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
        return "+".join(map(str, value)) or "none"
    return value if isinstance(value, str) else _as_text(value).strip('"')


def _as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def merged(*tables: Settings) -> dict[str, Any]:
    """Return one table of several: the later one's value counts, tables merge key by key."""
    result: dict[str, Any] = {}
    for table in tables:
        for key, value in table.items():
            old = result.get(key)
            both = isinstance(old, dict) and isinstance(value, dict)
            result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


@dataclass(frozen=True)
class _CellRecipe(Recipe):
    """The settings of a cell, where a command expects a recipe."""

    settings: Settings = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.name

    def values(self, command: str) -> dict[str, Any]:
        return dict(self.settings)


def check_settings(plan: StudyPlan, label: str) -> None:
    """Raise UsageError that names cell and key unless the commands would accept all settings."""
    seen = set()
    for cell in plan.cells.values():
        if cell.repeated in seen:
            continue
        seen.add(cell.repeated)
        for key in _RESERVED:
            if key in cell.settings:
                text = f"{cell.name}: the study says where a cell's run lies, and goes on with it"
                raise UsageError(text, option=key, source=label)
        config_for(cell, cell.settings, label)


def config_for(cell: Cell, settings: Settings, label: str, model: str = "run") -> CommandConfig:
    """Return the config of a cell's command.

    Args:
        settings: the cell's, with those that were chosen.
        label: the study's file, for messages.
        model: what a cell that follows another one gets as model.

    Raises UsageError that names the cell and the key.
    """
    config = config_of(cell.command)
    own = dict(settings)
    if cell.parent is not None:
        own["model"] = model
    if SEED not in config.model_fields:
        own.pop(SEED, None)
    where = f"{label}, cell {cell.name}"
    # An option of a part, `"regularizer.gta.every"`: it is added to what chooses the part.
    dotted = {key: own.pop(key) for key in [*own] if "." in key}
    return resolve(
        config,
        cell.command,
        recipe=_CellRecipe(where, Path(label), own),
        env={},
        sets=[f"{key}={_as_text(value)}" for key, value in dotted.items()],
        set_label=f"{where}:",
    )
