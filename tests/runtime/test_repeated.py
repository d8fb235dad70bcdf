"""Tests of messages that would repeat."""

from __future__ import annotations

import logging

import pytest

from gtacli.runtime.repeated import SHOWN, RepeatedWarning, hide_repeated

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


@pytest.mark.parametrize("verbose", [False, True])
def test_what_would_repeat_is_hidden(caplog: pytest.LogCaptureFixture, verbose: bool) -> None:
    caplog.set_level(logging.DEBUG if verbose else logging.INFO, "gtacli")
    with hide_repeated("test"):
        log.info("loaded")
        log.warning("damaged")
    log.info("after")
    assert caplog.messages == [*(["loaded"] if verbose else []), "damaged", "after"]
