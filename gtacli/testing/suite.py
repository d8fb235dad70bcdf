"""The checks of a part, by the kind of part that its class is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gtacli.errors import UsageError
from gtacli.registry import GROUPS
from gtacli.testing.dataset import dataset_promises
from gtacli.testing.discovery import discovery_promises
from gtacli.testing.executor import executor_promises
from gtacli.testing.exporter import exporter_promises
from gtacli.testing.logger import logger_promises
from gtacli.testing.map import map_promises
from gtacli.testing.model import model_promises
from gtacli.testing.optimizer import optimizer_promises
from gtacli.testing.options import Promises
from gtacli.testing.promises import BrokenPromise, Check, NotApplicable
from gtacli.testing.regularizer import regularizer_promises

PROMISES: dict[str, Callable[[Any, Mapping[str, Any], str | None], Promises]] = {
    "gta.regularizers": lambda part, given, data: regularizer_promises(part, given),
    "gta.optimizers": lambda part, given, data: optimizer_promises(part, given),
    "gta.loggers": lambda part, given, data: logger_promises(part, given),
    "gta.discovery": lambda part, given, data: discovery_promises(part, given),
    "gta.maps": lambda part, given, data: map_promises(part, given),
    "gta.models": lambda part, given, data: model_promises(part),
    "gta.datasets": lambda part, given, data: dataset_promises(part, data),
    "gta.executors": lambda part, given, data: executor_promises(part, given),
    "gta.exporters": lambda part, given, data: exporter_promises(part),
}
"""The promises of a part with some options, and a dataset reader's data, by its group."""


def checks(
    part: type[Any], options: Mapping[str, Any] | None = None, data: Path | str | None = None
) -> list[Check]:
    """Return the checks of a part, one for each promise of its contract.

    Args:
        part: a class that derives from the class of a group of the registry.
        options: values of its options; default: their defaults.
        data: for a dataset reader: a small dataset, as it stands behind `NAME:`, or behind `NAME/`
            for a family.

    Raises UsageError for a class of no kind.
    """
    given = dict(options or {})
    if not isinstance(part, type):
        raise UsageError(f"{part!r} is not a class")
    for registry in GROUPS:
        if issubclass(part, registry.base):
            found = PROMISES[registry.group](part, given, None if data is None else str(data))
            return [Check(part, promise, run) for promise, run in found.items()]
    known = ", ".join(f"{registry.base_name} ({registry.group})" for registry in GROUPS)
    raise UsageError(f"{part.__module__}.{part.__qualname__} derives from none of {known}")


def check_part(
    part: type[Any], options: Mapping[str, Any] | None = None, data: Path | str | None = None
) -> None:
    """Run all checks of a part; the arguments are those of `checks`.

    Raises BrokenPromise with one line for each promise that the part does not keep.
    """
    broken = []
    for check in checks(part, options, data):
        try:
            check()
        except BrokenPromise as error:
            broken.append(f"{check.promise}: {error}")
        except NotApplicable:
            continue
    if broken:
        raise BrokenPromise("\n".join(f"{part.__name__}: {line}" for line in broken))
