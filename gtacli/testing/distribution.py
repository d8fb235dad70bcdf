"""The conformance suite on all parts of a distribution, installed or a project's folder."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from packaging.utils import canonicalize_name

from gtacli.errors import GtaError, UsageError
from gtacli.registry import GROUPS, OPTIONS_GROUP, Origin, Registry
from gtacli.runtime.strict_toml import parse_toml
from gtacli.testing.promises import BrokenPromise, NotApplicable, require
from gtacli.testing.state import unchanged_process
from gtacli.testing.suite import checks

log = logging.getLogger(__name__)

LOADS = "it loads and changes nothing in the process"
DECLARES = "the options that it declares are its own"


@dataclass(frozen=True)
class Verdict:
    """The result of one check of a part.

    Attributes:
        kind: entry-point group of the part.
        origin: the part.
        promise: what was checked.
        state: kept, broken, or not checked.
        reason: why it is broken or was not checked; else None.
    """

    kind: str
    origin: Origin
    promise: str
    state: Literal["kept", "broken", "not checked"]
    reason: str | None = None


def check_distribution(what: str) -> Iterator[Verdict]:
    """Run the suite on each part of a distribution.

    Args:
        what: the name of an installed distribution, or the folder of a project.

    Raises UsageError for a name or a folder without parts.
    """
    with ExitStack() as stack:
        project = Path(what, "pyproject.toml")
        installed = canonicalize_name(what) in _distributions()
        if not installed and (project.is_file() or "/" in what or what.startswith(".")):
            what = stack.enter_context(_as_if_installed(project))
        elif installed and project.is_file():
            log.info(
                "checking the installed %s, not the folder of that name (./%s is the folder)",
                *(what, what),
            )
        parts = _parts(what)
        for registry, origin in parts:
            yield from _check(registry, origin)


def _distributions() -> dict[str, list[tuple[Registry[Any], Origin]]]:
    """Return the parts of all distributions by the canonical name."""
    found: dict[str, list[tuple[Registry[Any], Origin]]] = {}
    for registry in GROUPS:
        for origin in registry.origins():
            name = canonicalize_name(origin.distribution)
            found.setdefault(name, []).append((registry, origin))
    return found


def _parts(name: str) -> Sequence[tuple[Registry[Any], Origin]]:
    found = _distributions()
    key = canonicalize_name(name)
    if key not in found:
        near = get_close_matches(key, found, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UsageError(
            f"no installed distribution '{name}' offers parts{hint} "
            f"(known: {', '.join(sorted(found))}; a project is named by its folder)"
        )
    return found[key]


def _check(registry: Registry[Any], origin: Origin) -> Iterator[Verdict]:
    """Load a part and run its checks."""

    def broken(promise: str, error: Exception) -> Verdict:
        return Verdict(registry.group, origin, promise, "broken", str(error))

    module = origin.value.partition(":")[0].strip()
    try:
        if module in sys.modules:
            part = registry.load(origin.name)
        else:
            with unchanged_process("importing it"):
                part = registry.load(origin.name)
    except (GtaError, BrokenPromise) as error:
        yield broken(LOADS, error)
        return
    yield Verdict(registry.group, origin, LOADS, "kept")
    try:
        declared = registry.declared_options(origin.name)
        own = getattr(part, "Options", None)
        require(
            declared in (None, own),
            f"the entry point in {OPTIONS_GROUP} names {_named(declared)}, but "
            f"{part.__name__}.Options is {_named(own)}",
        )
    except (GtaError, BrokenPromise) as error:
        yield broken(DECLARES, error)
    for check in checks(part):
        try:
            with redirect_stdout(sys.stderr):  # stdout is for results
                check()
        except BrokenPromise as error:
            yield broken(check.promise, error)
        except NotApplicable as reason:
            yield Verdict(registry.group, origin, check.promise, "not checked", str(reason))
        else:
            yield Verdict(registry.group, origin, check.promise, "kept")


def _named(kind: object) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else repr(kind)


@contextmanager
def _as_if_installed(project: Path) -> Iterator[str]:
    """Put a project on `sys.path` with the metadata that an installer would write.

    Yields the distribution's name.
    """
    name, metadata, groups = _read_project(project)
    log.info("%s is not installed: checking the project in %s", name, project.parent)
    folder = project.parent.absolute()
    source = folder / "src"
    with tempfile.TemporaryDirectory() as site:
        info = Path(site, f"{name.replace('-', '_')}-0.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(metadata, encoding="utf-8")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        before = sys.path[:]
        sys.path[:0] = [site, str(source if source.is_dir() else folder)]
        try:
            yield name
        finally:
            sys.path[:] = before


def _read_project(project: Path) -> tuple[str, str, Mapping[str, Mapping[str, str]]]:
    """Return name, metadata and entry points of a project. Raises UsageError without parts."""
    if not project.is_file():
        raise UsageError(f"{project.parent} is no project: it has no pyproject.toml")
    try:
        found = parse_toml(project.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError) as error:
        raise UsageError(f"{project} cannot be read: {error}") from error
    points = found.get("entry-points", {})
    known = {registry.group for registry in GROUPS}
    if "name" not in found or not known & points.keys():
        raise UsageError(
            f'{project} offers no parts: it has no table [project.entry-points."GROUP"] with one '
            f"of the groups {', '.join(sorted(known))}"
        )
    lines = ["Metadata-Version: 2.1", f"Name: {found['name']}"]
    lines += [f"Version: {found.get('version', '0')}"]
    lines += [f"Requires-Dist: {text}" for text in found.get("dependencies", [])]
    return found["name"], "\n".join((*lines, "")), points
