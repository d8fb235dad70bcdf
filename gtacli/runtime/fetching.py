"""Permission to download what a spec names.

A spec that is typed, or that stands in a recipe, is the user's own: it may name a hub or a URL. The
record of a run folder may be a stranger's, so nothing that it names is downloaded unless the user
allows it (`allow_fetch`). Whoever follows a record opens `recorded_specs`; whatever downloads asks
`require_fetching` or `may_fetch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from gtacli.errors import GtaError

_RECORD: ContextVar[str | None] = ContextVar("record", default=None)


@contextmanager
def recorded_specs(record: str, allow_fetch: bool) -> Iterator[None]:
    """Load specs of `record` inside; without `allow_fetch` nothing is downloaded.

    Args:
        record: the file that names the specs, for errors.
        allow_fetch: whether the user trusts it.
    """
    token = _RECORD.set(None if allow_fetch else record)
    try:
        yield
    finally:
        _RECORD.reset(token)


def may_fetch() -> bool:
    """Return whether specs may be downloaded here."""
    return _RECORD.get() is None


def require_fetching(what: str) -> None:
    """Raise GtaError if `what` must not be downloaded here."""
    record = _RECORD.get()
    if record is not None:
        raise GtaError(
            f"{what} is not downloaded: {record} names it; `allow_fetch` if you trust it"
        )
