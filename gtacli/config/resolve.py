"""One precedence: defaults < recipe < environment < --set < flags.

Every error names the source that it came from and says what is accepted there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gtacli.config import recipes
from gtacli.config.base import first_problem
from gtacli.config.common import CommandConfig
from gtacli.config.values import (
    Given,
    Level,
    Rank,
    Tree,
    find,
    nest,
    plain,
    read_text,
    replace,
    second_reading,
    tree_of,
)
from gtacli.errors import UsageError

ConfigT = TypeVar("ConfigT", bound=CommandConfig)
ModelT = TypeVar("ModelT", bound=BaseModel)


def resolve(
    model: type[ConfigT],
    command: str,
    *,
    recipe: str | None = None,
    env: Mapping[str, str] | None = None,
    sets: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> ConfigT:
    """The validated config of `command`.

    Args:
        model: its class.
        command: its name ("finetune"); it is in the environment's variables and in recipes.
        recipe: name of a shipped recipe, or a .toml file.
        env: the environment; None: the process's own.
        sets: "key.sub=value" each.
        flags: key -> what was typed (text, a list of texts, or True / False); None: not given.

    `model_fields_set` of the result holds the keys that were given somewhere.
    """
    levels = [
        *_from_recipe(recipe, command),
        *_from_environment(os.environ if env is None else env, command),
        *(_from_set(text) for text in sets),
        *_from_flags(flags or {}),
    ]
    tree = model.merge_levels(_settle_exclusive(model, levels))
    for path, options in model.parts(tree):
        tree, _ = _validate(options, tree, path, [])
    return _validate(model, tree, (), list(model.flat_fields()))[1]


def _from_recipe(recipe: str | None, command: str) -> list[Level]:
    if recipe is None:
        return []
    found = recipes.find(recipe)
    return [Level(Rank.RECIPE, tree_of(found.values(command), f"recipe {found.name}"))]


def _from_environment(env: Mapping[str, str], command: str) -> list[Level]:
    prefix = f"GTA_{command.upper().replace('-', '_').replace(' ', '_')}__"
    levels = []
    # The shorter first: GTA_FINETUNE__REGULARIZER, then what it says of one of them.
    for name in sorted(env, key=lambda n: (n.count("__"), n)):
        if not name.startswith(prefix) or not env[name]:
            continue
        path = name.removeprefix(prefix).lower().split("__")
        if not all(path):
            raise UsageError(f"{name}: is no key ({prefix}KEY or ..__KEY__SUBKEY)")
        levels.append(Level(Rank.ENVIRONMENT, nest(path, read_text(env[name], name))))
    return levels


def _from_set(text: str) -> Level:
    key, equals, value = text.partition("=")
    path = [part.strip() for part in key.split(".")]
    if not equals or not all(path):
        raise UsageError(f"--set {text}: must be KEY=VALUE or KEY.SUBKEY=VALUE")
    # Keys as in a recipe; the dashes of option names are understood. A part's name stays.
    path = [part if i == 1 else part.replace("-", "_") for i, part in enumerate(path)]
    return Level(Rank.SET, nest(path, read_text(value.strip(), f"--set {text}")))


def _from_flags(flags: Mapping[str, Any]) -> list[Level]:
    tree: Tree = {}
    for key, value in flags.items():
        if value is None:
            continue
        source = "--" + key.replace("_", "-")
        tree[key] = read_text(value, source) if isinstance(value, str) else Given(value, source)
    return [Level(Rank.FLAGS, tree)] if tree else []


def _settle_exclusive(model: type[CommandConfig], levels: list[Level]) -> list[Level]:
    """Of two keys that exclude each other the higher source's stays; from one source it is an
    error."""
    for pair in model.exclusive:
        highest = {
            key: max((lv for lv in levels if key in lv.tree), key=lambda lv: lv.rank, default=None)
            for key in pair
        }
        one, other = (highest[key] for key in pair)
        if one is None or other is None:
            continue
        if one.rank == other.rank:
            labels = [find(lv.tree, (k,)) for k, lv in zip(pair, (one, other), strict=True)]
            names = " and ".join(given.label for given in labels if given)
            raise UsageError(f"{names} exclude each other; give one of them")
        loser = pair[1] if one.rank > other.rank else pair[0]
        levels = [Level(lv.rank, {k: v for k, v in lv.tree.items() if k != loser}) for lv in levels]
    return levels


def _validate(
    model: type[ModelT], tree: Tree, prefix: tuple[str, ...], known: list[str]
) -> tuple[Tree, ModelT]:
    """`model` of the subtree at `prefix`, and the tree as it was finally read."""
    tried: set[tuple[str, ...]] = set()
    first_text: dict[tuple[str, ...], str] = {}
    while True:
        try:
            return tree, model.model_validate(plain(_at(tree, prefix)))
        except ValidationError as error:
            path, text = first_problem(error, model, known)
            where = (*prefix, *path)
            given = find(tree, where) if path else None
            text = first_text.setdefault(where, text)
            again = second_reading(given, text) if given and where not in tried else None
            if again is None:
                raise UsageError(_message(given, where, text)) from None
            tried.add(where)
            tree = replace(tree, where, again)


def _at(tree: Tree, path: tuple[str, ...]) -> Tree:
    for step in path:
        below = tree[step]
        assert isinstance(below, dict)
        tree = below
    return tree


def _message(given: Given | None, path: tuple[str, ...], text: str) -> str:
    if given is None:
        key = ".".join(path)
        return f"{key}: {text}" if key else text
    return f"{given.source if text.startswith('unknown key') else given.label}: {text}"
