"""Registries of named parts: listed without importing them, loaded one at a time.

Built-in parts and those of other distributions use the same entry-point groups (`gta.models`,
`gta.discovery`, `gta.regularizers`, `gta.optimizers`, …). A part that cannot be loaded
raises an error that names its distribution and does not affect the others.

A distribution may name the class of a part's options in the group `gta.options`, as
`"regularizers.NAME" = "module:Class"`: they are then read and shown without importing the part.

A plug-in that depends on versions of gtacli without this one (`gtacli>=0.1,<0.2`) is not loaded.

`GTA_PLUGINS=a,b` enables only those distributions beside gtacli itself; empty: only gtacli.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gtacli.errors import GtaError, UsageError
from gtacli.runtime.entry_points import installed_points
from gtacli.runtime.surroundings import explain_surroundings

if TYPE_CHECKING:
    from gtacli.data import DatasetReader
    from gtacli.discovery import Discovery
    from gtacli.executors import Executor
    from gtacli.inference.attention_maps.base import MapKind
    from gtacli.models import ModelProvider
    from gtacli.models.exporters import Exporter
    from gtacli.regularizers import Regularizer
    from gtacli.training.loggers import RunLogger
    from gtacli.training.optimizers import OptimizerMethod

T = TypeVar("T")

BUILTIN = "gtacli"
OPTIONS_GROUP = "gta.options"
SWITCH = "GTA_PLUGINS"


@dataclass(frozen=True)
class Origin:
    """The origin of a registered name.

    Attributes:
        name: the part's name.
        distribution: the installed distribution that offers it.
        version: version of that distribution.
        value: "module:attribute" of the entry point.
        builtin: whether it belongs to gtacli itself.
        part: the class, if it was registered in this process.
    """

    name: str
    distribution: str
    version: str
    value: str
    builtin: bool
    part: Any = field(default=None, repr=False, compare=False)


class Registry(Generic[T]):
    """A registry of the parts of one entry-point group.

    Args:
        group: the entry-point group, such as "gta.regularizers".
        base: the class that every part derives from, or "module:Class", imported at first use.
        noun: the kind of part, for messages.
        also: words that users may write in place of a name, but that stand for no part.
    """

    def __init__(
        self, group: str, base: type[Any] | str | None, noun: str, also: tuple[str, ...] = ()
    ) -> None:
        self.group = group
        self.noun = noun
        self.also = also
        self._base = base
        self._public = base.replace(":", ".") if isinstance(base, str) else None
        self._added: dict[str, Origin] = {}

    @property
    def base(self) -> type[Any]:
        """Return the class that every part derives from. Raises GtaError if it cannot be loaded."""
        if isinstance(self._base, str):
            module_name, _, attribute = self._base.partition(":")
            try:
                self._base = getattr(importlib.import_module(module_name), attribute)
            except (ImportError, AttributeError) as error:
                raise GtaError(f"{self.noun}s cannot be loaded: {error}") from error
        return self._base or object  # type: ignore[return-value]

    def names(self) -> list[str]:
        """Return every name, sorted, without importing the parts."""
        return sorted(self._scan()[0])

    def origins(self) -> list[Origin]:
        """Return the origin of every name, sorted by name, without importing the parts."""
        found = self._scan()[0]
        return [found[name] for name in sorted(found)]

    def origin(self, name: str) -> Origin:
        """Return the origin of `name`.

        Raises UsageError that suggests the nearest known name.
        """
        found = self._scan()[0]
        if name not in found:
            words = sorted({*found, *self.also})
            near = _nearest(name, words)
            hint = f"; did you mean '{near}'?" if near else ";"
            known = ", ".join(words) or "none"
            raise UsageError(
                self.switched_off(name) or f"unknown {self.noun} '{name}'{hint} known: {known}"
            )
        return found[name]

    def load(self, name: str) -> type[T]:
        """Return the class of `name`.

        Raises UsageError for an unknown name, GtaError for a part that cannot be loaded.
        """
        origin = self.origin(name)
        part = origin.part
        if part is None:
            part = self._import(origin)
        base = self.base
        if not (isinstance(part, type) and issubclass(part, base)):
            raise GtaError(
                f"{self._about(origin)} is not a {base.__name__} "
                f"(a {self.noun} derives from {self.base_name})"
            )
        return part

    @property
    def base_name(self) -> str:
        """Return where authors import the class that every part derives from."""
        return self._public or f"{self.base.__module__}.{self.base.__qualname__}"

    def declared_options(self, name: str) -> type[Any] | None:
        """Return the class of a part's options without importing the part; None if not declared.

        Raises UsageError for an unknown name, GtaError if the class cannot be loaded.
        """
        origin = self.origin(name)
        if origin.part is not None:
            return getattr(origin.part, "Options", None)
        key = f"{self.group.partition('.')[2]}.{name}"
        for point in installed_points(OPTIONS_GROUP, key):
            if point.distribution == origin.distribution:
                declared: type[Any] = self._import(replace(origin, value=point.value))
                return declared
        return None

    def options(self, name: str) -> type[Any] | None:
        """Return the class of a part's options, of the part itself if it is not declared.

        None: the part has none. Raises as `load`.
        """
        found = self.declared_options(name) or getattr(self.load(name), "Options", None)
        if found is not None and not hasattr(found, "model_fields"):
            about = self._about(self.origin(name))
            raise GtaError(f"{about} has options that are no Pydantic class: {found!r}")
        return found

    def check(self) -> list[tuple[Origin, str | None]]:
        """Load every part; return each origin with the reason why it cannot be used, or None."""
        found, shadowed = self._scan()
        result: list[tuple[Origin, str | None]] = []
        for name in sorted(found):
            try:
                self.load(name)
            except GtaError as error:
                result.append((found[name], str(error)))
            else:
                result.append((found[name], None))
        for origin, winner in shadowed:
            result.append((origin, f"{self._about(origin)} is hidden by that of {winner}"))
        return result

    def register(self, name: str, part: type[T] | str) -> None:
        """Add a class (or "module:attr") in this process, with precedence over installed parts."""
        value = part if isinstance(part, str) else f"{part.__module__}:{part.__qualname__}"
        loaded = None if isinstance(part, str) else part
        self._added[name] = Origin(name, "(registered)", "", value, False, loaded)

    def unregister(self, name: str) -> None:
        """Remove a name that `register` added."""
        self._added.pop(name, None)

    @contextmanager
    def registered(self, name: str, part: type[T] | str) -> Iterator[None]:
        """Register a class within a `with` block."""
        self.register(name, part)
        try:
            yield
        finally:
            self.unregister(name)

    def _scan(self) -> tuple[dict[str, Origin], list[tuple[Origin, str]]]:
        """Return the parts by name, and the hidden parts with the distribution that hides each."""
        allowed = _allowed()
        origins = []
        for point in installed_points(self.group):
            dist, version = point.distribution, point.version
            builtin = _canonical(dist) == BUILTIN
            if builtin or allowed is None or _canonical(dist) in allowed:
                origins.append(Origin(point.name, dist, version, point.value, builtin))
        found: dict[str, Origin] = dict(self._added)
        shadowed = []
        for origin in sorted(origins, key=lambda o: (not o.builtin, o.distribution, o.value)):
            first = found.setdefault(origin.name, origin)
            # A distribution may be listed twice (an editable install and its source folder).
            same = (first.distribution, first.value) == (origin.distribution, origin.value)
            if first is not origin and not same:
                shadowed.append((origin, first.distribution))
        return found, shadowed

    def switched_off(self, name: str) -> str | None:
        """Return the message for a name that only a switched-off distribution has, or None."""
        if name in self.names():
            return None
        for point in installed_points(self.group, name):
            dist = point.distribution
            switch = os.environ.get(SWITCH, "")
            what = f"leaves out {dist}" if switch.strip() else "switches all plug-ins off"
            return (
                f"{self.noun} '{name}' is of {dist}, and {SWITCH}={switch} {what}; add {dist} to "
                f"{SWITCH}, or unset it"
            )
        return None

    def _import(self, origin: Origin) -> Any:
        self._require_api(origin)
        module_name, _, attribute = origin.value.partition(":")
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                part = importlib.import_module(module_name.strip())
                for step in attribute.split("[")[0].strip().split("."):
                    part = getattr(part, step)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # importing a plug-in can raise anything
            if known := explain_surroundings(error):
                raise known from error
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise GtaError(f"{self._about(origin)} cannot be loaded: {what}") from error
        return part

    def _require_api(self, origin: Origin) -> None:
        """Raise GtaError for a part of a distribution that was made for another version."""
        if origin.builtin or not origin.version:
            return
        from gtacli.runtime.versions import made_for_another

        if wanted := made_for_another(origin.distribution):
            raise GtaError(
                f"{self._about(origin)} was made for {wanted}, and this is "
                f"{BUILTIN} {metadata.version(BUILTIN)}; install another version of "
                f"{origin.distribution}"
            )

    def _about(self, origin: Origin) -> str:
        version = f" {origin.version}" if origin.version else ""
        return f"{self.noun} '{origin.name}' ({origin.value}) of {origin.distribution}{version}"


def _allowed() -> set[str] | None:
    switch = os.environ.get(SWITCH)
    if switch is None:
        return None
    return {_canonical(name) for name in switch.split(",") if name.strip()}


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _nearest(word: str, known: list[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return near[0] if near else None


MODELS: Registry[ModelProvider] = Registry("gta.models", "gtacli.models:ModelProvider", "model")
DISCOVERY: Registry[Discovery[Any]] = Registry(
    "gta.discovery", "gtacli.discovery:Discovery", "discovery backend"
)
REGULARIZERS: Registry[Regularizer[Any]] = Registry(
    "gta.regularizers", "gtacli.regularizers:Regularizer", "regularizer", also=("none",)
)
DATASETS: Registry[DatasetReader] = Registry("gta.datasets", "gtacli.data:DatasetReader", "dataset")
EXECUTORS: Registry[Executor[Any]] = Registry(
    "gta.executors", "gtacli.executors:Executor", "executor"
)
EXPORTERS: Registry[Exporter] = Registry(
    "gta.exporters", "gtacli.models.exporters:Exporter", "format"
)
OPTIMIZERS: Registry[OptimizerMethod[Any]] = Registry(
    "gta.optimizers", "gtacli.training.optimizers:OptimizerMethod", "optimizer"
)
LOGGERS: Registry[RunLogger[Any]] = Registry(
    "gta.loggers", "gtacli.training.loggers:RunLogger", "logger"
)
MAPS: Registry[MapKind[Any]] = Registry(
    "gta.maps", "gtacli.inference.attention_maps.base:MapKind", "kind of maps"
)
GROUPS: tuple[Registry[Any], ...] = (
    MODELS, DISCOVERY, MAPS, REGULARIZERS, OPTIMIZERS, LOGGERS, DATASETS, EXECUTORS, EXPORTERS,
)  # fmt: skip
