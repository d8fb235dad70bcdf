"""A call of a command: its switches beside the config, and how its body is run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gtacli.cli.ahead import ask_hosts_ahead
from gtacli.config.common import CommandConfig
from gtacli.config.recipes import RunRecipe, find
from gtacli.errors import Interrupted
from gtacli.runtime.fetching import may_fetch, recorded_specs

if TYPE_CHECKING:
    from gtacli.runtime.run_folder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """The call of a command, beside its config.

    Attributes:
        command: its name.
        json: whether results are JSON Lines.
        quiet: whether only warnings are logged.
        verbose: whether everything is logged.
        dry_run: whether one batch of every phase is run and only the report written.
        argv: the words after `gta`.
        cleanup: is closed at the end of the command.
    """

    command: str
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    dry_run: bool = False
    argv: tuple[str, ...] = ()
    cleanup: ExitStack = field(default_factory=ExitStack, compare=False)
    _own: set[Path] = field(default_factory=set, compare=False)

    def own(self, folder: RunFolder) -> None:
        """Let no other process write into a folder until the command has ended.

        Raises UsageError if another one does.
        """
        if folder.path not in self._own:
            self.cleanup.enter_context(folder.owned(self.command))
            self._own.add(folder.path)


def run_body(
    body: Callable[..., int | None],
    config: CommandConfig,
    call: Call,
    own: Mapping[str, Any],
    recipe: str | None = None,
) -> int | None:
    """Run a command's body and return its exit status.

    Args:
        own: its parameters beside config and call.
        recipe: that the config was read from.

    Raises GtaError, also for memory that does not suffice; Interrupted for Ctrl-C.
    """
    try:
        with _recorded(recipe, config), _reading(config), call.cleanup:
            if may_fetch():
                ask_hosts_ahead(config)
            return body(config, call, **own)
    except KeyboardInterrupt:  # Typer would turn it into a status without a message
        raise Interrupted("interrupted") from None
    except Exception as error:
        from gtacli.runtime.limits import explain_limit

        keys = ("batch_size", "workers", "fit_memory")
        sizes = {key: getattr(config, key, None) for key in keys}
        limit = explain_limit(error, **sizes)
        if limit is None:
            raise
        raise limit from error


def _reading(config: CommandConfig) -> AbstractContextManager[None]:
    """Let the command read deep images as its options say."""
    bands, value_range = getattr(config, "bands", None), getattr(config, "value_range", None)
    if bands is None and value_range is None:
        return nullcontext()
    from gtacli.images.depth import reading_as  # NumPy and Pillow

    return reading_as(bands, value_range)


def _recorded(recipe: str | None, config: CommandConfig) -> AbstractContextManager[None]:
    """Let the command download nothing that only a run's record names, unless it is allowed to."""
    run = None if recipe is None else find(recipe)
    if not isinstance(run, RunRecipe):
        return nullcontext()
    return recorded_specs(run.label, getattr(config, "allow_fetch", False))
