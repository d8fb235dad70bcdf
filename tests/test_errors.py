"""Errors carry the option that they are about; only the command line writes flags."""

from __future__ import annotations

import pickle

import pytest

from gtacli.cli.spelling import describe, with_flags
from gtacli.errors import GtaError, RunError, UsageError, errors_about, reason_of_library


def test_an_error_names_its_option_as_the_config_does() -> None:
    error = UsageError("must be at least 1; `shots=5` keeps five", option="sampling_rate")
    assert str(error) == "sampling_rate: must be at least 1; `shots=5` keeps five"
    assert describe(error) == "--sampling-rate: must be at least 1; --shots 5 keeps five"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("`image_size`", "--image-size"),
        ("`guide=none` or `maps=CACHE`", "--guide none or --maps CACHE"),
        ("`drift=false`, `refit=true`", "--no-drift, --refit"),
        ("see `gta doctor` and `Tap.maps`", "see `gta doctor` and `Tap.maps`"),
    ],
)
def test_options_in_a_text_become_flags(text: str, written: str) -> None:
    assert with_flags(text) == written


def test_an_option_within_a_table_is_no_flag() -> None:
    assert describe(UsageError("unknown", option="discovery.tokencut")).startswith("discovery.")


def test_a_caller_renames_the_option_of_an_error() -> None:
    with pytest.raises(RunError) as caught, errors_about("teacher", image_size="teacher_size"):
        raise RunError("try `image_size=224`", option="image_size")
    assert str(caught.value) == "teacher_size: try `teacher_size=224`"
    with pytest.raises(GtaError, match=r"^teacher: no such file$"), errors_about("teacher"):
        raise GtaError("no such file")


def test_the_text_of_a_library_is_a_line_without_names_of_classes() -> None:
    named = ValueError("thrift: apache.TProtocolException: Invalid\n data")
    assert reason_of_library(named) == "thrift: Invalid data"
    assert reason_of_library(AssertionError()) == "it gives no reason"
    assert reason_of_library(KeyError("x")) == "it lacks 'x'"
    assert len(reason_of_library(ValueError("x" * 900))) == 300


def test_errors_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(UsageError("wrong", option="lam")))
    assert (str(error), error.option) == ("lam: wrong", "lam")


def test_an_error_names_the_source_of_the_value() -> None:
    error = UsageError("must be at least 1", option="epochs", source="recipe my.toml")
    assert str(error) == describe(error) == "recipe my.toml: epochs: must be at least 1"
    assert describe(UsageError("is no key", source="GTA_FINETUNE__")) == "GTA_FINETUNE__: is no key"


def test_a_message_is_one_line_whatever_names_it_has() -> None:
    error = UsageError("no column 'a\nb\rc'", option="columns")
    assert error.message == "no column 'a b c'"
    assert str(error) == f"columns: {error.message}"
