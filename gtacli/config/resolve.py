"""Resolution of a command's config: defaults < recipe < environment < `set` < flags.

Every error says where the faulty value was written and what is accepted there.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gtacli.config import recipes
from gtacli.config.base import ModelT, first_problem, read_text
from gtacli.config.common import MERGED, CommandConfig, RecordConfig
from gtacli.config.values import (
    Level,
    Rank,
    Setting,
    Tree,
    find,
    literal,
    nest,
    plain,
    tree_of,
    typed,
)
from gtacli.errors import UsageError

ConfigT = TypeVar("ConfigT", bound=CommandConfig)


def resolve(
    model: type[ConfigT],
    command: str,
    *,
    recipe: str | recipes.Recipe | None = None,
    env: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str | tuple[str, ...], Any] | None = None,
    set_label: str = "set",
) -> ConfigT:
    """Return the validated config of `command`.

    Args:
        model: its class.
        command: its name ("finetune"), which environment variables and recipes contain.
        recipe: name of a shipped recipe, a .toml file, or the folder of a run to repeat; or a
            recipe itself.
        env: the environment; None: that of this process.
        sets: settings of the form "key.sub=value".
        flags: key, or its path in a recipe -> what was typed (text, a list of texts, True or
            False); None: not given.
        set_label: name of the option that `sets` come from, for errors.

    `model_fields_set` of the result holds the keys that some source has given.
    """
    levels = [
        *_from_recipe(recipe, command, model),
        *_from_environment(os.environ if env is None else env, command),
        *(_from_set(text, f"{set_label} {text}") for text in sets),
        *_from_flags(flags or {}),
    ]
    tree = model.merge_levels(_settle_exclusive(model, levels))
    tree = _read_texts(_check_parts(model, tree), model.model_fields)
    return _validate(model, tree, (), model.flat_fields())


def _from_recipe(
    recipe: str | recipes.Recipe | None, command: str, model: type[CommandConfig]
) -> list[Level]:
    if recipe is None:
        return []
    found = recipes.find(recipe) if isinstance(recipe, str) else recipe
    values = found.values(command)
    if isinstance(found, recipes.RunRecipe):
        if not issubclass(model, RecordConfig):
            text = f"`gta {command}` repeats no run; give a recipe's name or a .toml file"
            raise UsageError(text, source=found.label)
        values = {**getattr(model, "before", {}), **values}
        for key, other in model.exclusive:
            if other in values:  # `key` has its default, and a source may not have both
                values.pop(key, None)
    return [Level(Rank.RECIPE, tree_of(values, found.label))]


def _from_environment(env: Mapping[str, str], command: str) -> list[Level]:
    prefix = f"GTA_{command.upper().replace('-', '_').replace(' ', '_')}__"
    levels = []
    # The shorter first: GTA_FINETUNE__REGULARIZER, then the options of one of them.
    for name in sorted(env, key=lambda n: (n.count("__"), n)):
        if not name.startswith(prefix) or not env[name]:
            continue
        path = name.removeprefix(prefix).lower().split("__")
        if not all(path):
            raise UsageError(f"is no key ({prefix}KEY or ..__KEY__SUBKEY)", source=name)
        levels.append(Level(Rank.ENVIRONMENT, nest(path, typed(env[name], name))))
    return levels


def _from_set(text: str, source: str) -> Level:
    key, equals, value = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise UsageError("must be KEY=VALUE or KEY.SUBKEY=VALUE", source=source)
    # Keys are written as in a recipe, or with the dashes of flags. A part's name stays as it is.
    path = [part if i == 1 else part.replace("-", "_") for i, part in enumerate(path)]
    return Level(Rank.SET, nest(path, typed(value.strip(), source)))


def _from_flags(flags: Mapping[str | tuple[str, ...], Any]) -> list[Level]:
    """Return one level of the keys, and one of each option of a part, which has its own table."""
    own: Tree = {}
    levels: list[Level] = []
    for name, value in flags.items():
        if value is None:
            continue
        key = name if isinstance(name, str) else name[-1]
        setting = typed(value, key=key) if isinstance(value, str) else Setting(value, key=key)
        if isinstance(name, str):
            own[name] = setting
        else:
            levels.append(Level(Rank.FLAGS, nest(list(name), setting)))
    return [*([Level(Rank.FLAGS, own)] if own else []), *levels]


def _settle_exclusive(model: type[CommandConfig], levels: list[Level]) -> list[Level]:
    """Keep the higher source's of two keys that exclude each other.

    Raises UsageError for two from one source.
    """
    for pair in model.exclusive:
        highest = {
            key: max((lv for lv in levels if key in lv.tree), key=lambda lv: lv.rank, default=None)
            for key in pair
        }
        one, other = (highest[key] for key in pair)
        if one is None or other is None:
            continue
        if one.rank == other.rank:
            found = [find(lv.tree, (k,)) for k, lv in zip(pair, (one, other), strict=True)]
            names = " and ".join(setting.label for setting in found if setting)
            raise UsageError(f"{names} exclude each other; give one of them")
        loser = pair[1] if one.rank > other.rank else pair[0]
        levels = [Level(lv.rank, {k: v for k, v in lv.tree.items() if k != loser}) for lv in levels]
    return levels


def _check_parts(model: type[CommandConfig], tree: Tree) -> Tree:
    """Read and validate the options of built-in parts; they stay as a recipe would hold them."""
    for choice in model.part_choices:
        tables = tree.get(choice.tables)
        if not isinstance(tables, dict):
            continue
        read: Tree = {}
        for name, table in tables.items():
            options = choice.options(name)
            if options is not None and isinstance(table, dict):
                table = _read_texts(table, options.model_fields, as_written=True)
                _validate(options, table, (choice.tables, name), ())
            read[name] = table
        tree = {**tree, choice.tables: read}
    return tree


def _read_texts(tree: Tree, fields: Mapping[str, FieldInfo], *, as_written: bool = False) -> Tree:
    """Read what was typed in a shell by the type of its field.

    Where no field says the type, as in the options of a plug-in, a text is read as a TOML value if
    it is one.
    """
    read: Tree = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            read[key] = _read_texts(value, {})
        elif not value.typed:
            read[key] = value
        elif key not in fields:
            read[key] = replace(value, value=literal(value.value), typed=False)
        else:
            try:
                result = read_text(value.value, fields[key], as_written=as_written)
            except ValidationError as error:
                problem = first_problem(error, (key,), at=(key,), typed=True)
                raise value.error(problem.text) from None
            read[key] = replace(value, value=result, typed=False)
    return read


def _validate(
    model: type[ModelT], tree: Tree, at: tuple[str, ...], more_keys: Collection[str]
) -> ModelT:
    """Build `model` from its tree, which lies at the path `at` of the config's."""
    try:
        return model.model_validate(plain(tree), context=MERGED)
    except ValidationError as error:
        problem = first_problem(error, [*model.model_fields, *more_keys])
    setting = find(tree, problem.path) if problem.path else None
    if setting is None:
        raise UsageError(problem.text, option=".".join((*at, *problem.path)) or None)
    if problem.unknown_key and setting.source:
        raise UsageError(problem.text, source=setting.source)
    raise setting.error(problem.text)
