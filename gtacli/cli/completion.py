"""Values that a shell completes after an option. Nothing in here imports torch or timm."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

from gtacli.config.recipes import shipped
from gtacli.registry import DATASETS, DISCOVERY, LOGGERS, MAPS, MODELS, OPTIMIZERS, REGULARIZERS

Names = Callable[[], Iterable[str]]

TIMM_MODULES = ("vision_transformer", "deit", "eva")
"""The modules of timm with the classes that the attention extractor reads."""

# An entry of a module's default configs, or a function that builds a model.
_TIMM_NAME = re.compile(r"^ +['\"]([\w.]+)['\"]: _\w*cfg\(|^@register_model\ndef (\w+)\(", re.M)


def completer(names: Names) -> Callable[[str], list[str]]:
    """Return the function with which Typer completes one of `names`."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def model_names() -> list[str]:
    """Return the registered models and timm's vision transformers."""
    return [*MODELS.names(), *timm_names()]


def timm_names() -> list[str]:
    """Return the names of timm's vision transformers, read from its source files.

    Importing timm takes seconds, longer than anyone waits for a completion. Names that are written
    in another way than most are missing.
    """
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        return []
    files = (Path(spec.origin).parent / "models" / f"{module}.py" for module in TIMM_MODULES)
    texts = [file.read_text("utf-8") for file in files if file.is_file()]
    return sorted({a or b for text in texts for a, b in _TIMM_NAME.findall(text)})


def recipe_names(command: str | None = None) -> list[str]:
    """Return the shipped recipes, all or those of a command."""
    launch = f"gta {command or ''}".strip()
    return [name for name, recipe in shipped().items() if f"{recipe.launch} ".startswith(launch)]


def study_names() -> list[str]:
    """Return the shipped studies."""
    return recipe_names("study")


NAMES: dict[str, Names] = {
    **dict.fromkeys(("model", "source", "teacher", "compare", "init"), model_names),
    "data": DATASETS.names,
    "regularizer": REGULARIZERS.names,
    "optimizer": OPTIMIZERS.names,
    "log": LOGGERS.names,
    **dict.fromkeys(("backend", "guide"), DISCOVERY.names),
    "kind": lambda: [*MAPS.names(), *DISCOVERY.names()],
}
"""The names that an option takes, by its config key."""
