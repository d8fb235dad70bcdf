"""Tests of warnings about many images."""

from __future__ import annotations

import logging

import pytest

from gtacli.runtime.repeated import SHOWN, RepeatedWarning

log = logging.getLogger("gtacli.test")


def test_of_many_warnings_the_first_are_shown_and_the_rest_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warning = RepeatedWarning(log, "skipped: ")
    for i in range(100_000):
        warning.add(f"{i}.png")
    warning.summarize()
    warning.summarize()
    assert caplog.messages == [
        *(f"skipped: {i}.png" for i in range(SHOWN)),
        "skipped: 99,995 more like these, 100,000 in all",
    ]
    warning.add("more.png")
    warning.summarize()
    assert caplog.messages[-1] == "skipped: 1 more like these, 100,001 in all"


def test_few_warnings_need_no_summary(caplog: pytest.LogCaptureFixture) -> None:
    warning = RepeatedWarning(log)
    for i in range(SHOWN):
        warning.add(str(i))
    warning.summarize()
    assert caplog.messages == list("01234")
