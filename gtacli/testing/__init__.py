"""The conformance suite of parts, for authors of plug-ins; every built-in part passes it, too.

A test file of a plug-in needs no more than this:

    import pytest
    from gtacli.testing import checks
    from my_package import Shrink

    @pytest.mark.parametrize("check", checks(Shrink), ids=str)
    def test_conformance(check):
        check()

`check_part` runs all of them and raises one error with a line for each broken promise.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtacli.testing.promises import BrokenPromise, Check, NotApplicable
    from gtacli.testing.suite import check_part, checks

_WHERE = {
    "BrokenPromise": "promises",
    "Check": "promises",
    "NotApplicable": "promises",
    "check_part": "suite",
    "checks": "suite",
}
__all__ = ["BrokenPromise", "Check", "NotApplicable", "check_part", "checks"]


def __getattr__(name: str) -> Any:
    # On demand: a test run that collects nothing of this imports no torch.
    if name in _WHERE:
        return getattr(import_module(f"gtacli.testing.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
