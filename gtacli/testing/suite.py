"""The checks of a part, by the kind of part that its class is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gtacli.data.base import DatasetReader
from gtacli.discovery.base import Discovery
from gtacli.errors import UsageError
from gtacli.executors.base import Executor
from gtacli.models.exporters.base import Exporter
from gtacli.models.specs import ModelProvider
from gtacli.regularizers.base import Regularizer
from gtacli.testing.dataset import dataset_promises
from gtacli.testing.discovery import discovery_promises
from gtacli.testing.executor import executor_promises
from gtacli.testing.exporter import exporter_promises
from gtacli.testing.model import model_promises
from gtacli.testing.promises import BrokenPromise, Check, NotApplicable
from gtacli.testing.regularizer import regularizer_promises


def checks(
    part: type[Any], options: Mapping[str, Any] | None = None, data: Path | str | None = None
) -> list[Check]:
    """Return the checks of a part, one for each promise of its contract.

    Args:
        part: a class that derives from Regularizer, Discovery, ModelProvider, DatasetReader,
            Executor or Exporter.
        options: values of its options; default: their defaults.
        data: for a dataset reader: a small dataset, as it stands behind `NAME:`, or behind `NAME/`
            for a family.

    Raises UsageError for a class of no kind.
    """
    given = dict(options or {})
    if not isinstance(part, type):
        raise UsageError(f"{part!r} is not a class")
    if issubclass(part, Regularizer):
        promises = regularizer_promises(part, given)
    elif issubclass(part, Discovery):
        promises = discovery_promises(part, given)
    elif issubclass(part, ModelProvider):
        promises = model_promises(part)
    elif issubclass(part, DatasetReader):
        promises = dataset_promises(part, None if data is None else str(data))
    elif issubclass(part, Executor):
        promises = executor_promises(part, given)
    elif issubclass(part, Exporter):
        promises = exporter_promises(part)
    else:
        raise UsageError(
            f"{part.__name__} derives from none of Regularizer, Discovery, ModelProvider, "
            "DatasetReader, Executor and Exporter"
        )
    return [Check(part, promise, run) for promise, run in promises.items()]


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
