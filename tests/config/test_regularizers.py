"""Folding of everything that asks for regularizers."""

from __future__ import annotations

from typing import Any

import pytest

from gtacli.config.regularizers import fold
from gtacli.config.values import Level, Rank, plain, tree_of
from gtacli.errors import UsageError

FLAT = ("layers", "guide")
RECIPE, ENV, SET, FLAGS = Rank.RECIPE, Rank.ENVIRONMENT, Rank.SET, Rank.FLAGS


def folded(*levels: tuple[Rank, dict[str, Any]]) -> dict[str, Any]:
    return plain(fold([Level(rank, tree_of(values, "here")) for rank, values in levels], FLAT))


def names(*levels: tuple[Rank, dict[str, Any]]) -> list[str]:
    return list(folded(*levels)["regularizer"])


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("gta", {"regularizer": {"gta": {}}}),
        ("none", {"regularizer": {}}),
        ([], {"regularizer": {}}),
        ({}, {"regularizer": {}}),
        (["bss", "gta"], {"regularizer": {"bss": {}, "gta": {}}}),
        ("bss:0.01", {"regularizer": {"bss": {}}, "lam": 0.01}),
        (["gta", "bss:0.01"], {"regularizer": {"gta": {}, "bss": {"lam": 0.01}}}),
        ({"gta": {"layers": "last"}}, {"regularizer": {"gta": {"layers": "last"}}}),
        ({"gta": {"lam": 3}}, {"regularizer": {"gta": {}}, "lam": 3}),
        ({"bss": {}, "gta": {"lam": 3}}, {"regularizer": {"bss": {}, "gta": {"lam": 3}}}),
        ({"l2_sp": {"beta": 1}}, {"regularizer": {"l2-sp": {"beta": 1}}}),
    ],
)
def test_forms(asked: Any, expected: dict[str, Any]) -> None:
    got = folded((RECIPE, {"regularizer": asked}))
    assert got == expected
    assert list(got["regularizer"]) == list(expected["regularizer"])


def test_without_a_setting_the_field_keeps_its_default() -> None:
    assert folded((FLAGS, {"epochs": 3})) == {"epochs": 3}
    assert folded() == {}


@pytest.mark.parametrize("rank", [RECIPE, ENV, SET, FLAGS])
def test_folding_the_result_again_changes_nothing(rank: Rank) -> None:
    once = folded(
        (RECIPE, {"regularizer": {"gta": {"layers": "last"}, "bss": {"lam": 2}}, "lam": 0.5}),
        (FLAGS, {"guide": "msa"}),
    )
    assert folded((rank, once)) == once


def test_a_name_replaces_the_names_and_keeps_the_options_of_active_ones() -> None:
    recipe = (RECIPE, {"regularizer": {"gta": {"layers": "last"}, "bss": {"k": 2}}})
    assert folded(recipe, (FLAGS, {"regularizer": "bss"})) == {"regularizer": {"bss": {"k": 2}}}
    both = folded(recipe, (FLAGS, {"regularizer": ["bss", "gta"]}))
    assert both == {"regularizer": {"bss": {"k": 2}, "gta": {"layers": "last"}}}
    assert list(both["regularizer"]) == ["bss", "gta"]


def test_a_table_adds_to_names_given_by_name() -> None:
    assert names((RECIPE, {"regularizer": "bss"}), (SET, {"regularizer": {"gta": {}}})) == [
        "bss",
        "gta",
    ]
    assert names((ENV, {"regularizer": "bss"}), (ENV, {"regularizer": {"bss": {"k": 3}}})) == [
        "bss"
    ]


def test_a_table_sets_the_names_when_none_were_given() -> None:
    assert names((SET, {"regularizer": {"bss": {"k": 3}}})) == ["bss"]
    tables = [(RECIPE, {"regularizer": {"l2-sp": {}}}), (ENV, {"regularizer": {"gta": {}}})]
    assert names(*tables) == ["l2-sp", "gta"]


def test_none_then_a_table() -> None:
    assert names((RECIPE, {"regularizer": "none"}), (SET, {"regularizer": {"bss": {}}})) == ["bss"]


def test_tables_of_several_sources_merge_key_by_key() -> None:
    got = folded(
        (RECIPE, {"regularizer": {"gta": {"layers": "last", "guide": "msa"}}}),
        (SET, {"regularizer": {"gta": {"layers": "all"}}}),
    )
    assert got == {"regularizer": {"gta": {"layers": "all", "guide": "msa"}}}


def test_flat_options_keep_the_precedence_of_their_source() -> None:
    low_flat = [(RECIPE, {"layers": "last"}), (SET, {"regularizer": {"gta": {"layers": "all"}}})]
    assert folded(*low_flat)["regularizer"] == {"gta": {"layers": "all"}}
    high_flat = [(RECIPE, {"regularizer": {"gta": {"layers": "all"}}}), (FLAGS, {"layers": "last"})]
    assert folded(*high_flat)["regularizer"] == {"gta": {"layers": "last"}}
    same = {"regularizer": {"gta": {"layers": "all"}}, "layers": "last"}
    assert folded((RECIPE, same))["regularizer"] == {"gta": {"layers": "last"}}


def test_flat_options_are_ignored_without_gta() -> None:
    assert folded((FLAGS, {"regularizer": "bss", "layers": "last"})) == {"regularizer": {"bss": {}}}


def test_flat_options_alone_do_not_name_gta() -> None:
    recipe = (RECIPE, {"regularizer": "bss"})
    assert names(recipe, (FLAGS, {"layers": "last"})) == ["bss"]
    assert folded((FLAGS, {"layers": "last"})) == {"regularizer": {"gta": {"layers": "last"}}}


@pytest.mark.parametrize(
    ("levels", "lam"),
    [
        # flat against the first one's table: the higher source, or flat within one source
        ([(RECIPE, {"lam": 1}), (SET, {"regularizer": {"gta": {"lam": 2}}})], 2),
        ([(RECIPE, {"regularizer": {"gta": {"lam": 1}}}), (FLAGS, {"lam": 2})], 2),
        ([(RECIPE, {"regularizer": {"gta": {"lam": 1}}, "lam": 2})], 2),
        ([(FLAGS, {"regularizer": ["gta:1"], "lam": 2})], 2),
        ([(RECIPE, {"lam": 1}), (FLAGS, {"regularizer": ["gta:2"]})], 2),
        # a strength alone in its source is for whatever comes first in the end
        ([(ENV, {"lam": 1}), (FLAGS, {"regularizer": "bss"})], 1),
        ([(RECIPE, {"regularizer": "bss"}), (FLAGS, {"lam": 1})], 1),
        ([(ENV, {"lam": 1}), (ENV, {"epochs": 3})], 1),
    ],
)
def test_strength(levels: list[tuple[Rank, dict[str, Any]]], lam: float) -> None:
    got = folded(*levels)
    assert got["lam"] == lam
    assert all("lam" not in table for table in got.get("regularizer", {}).values())


def test_a_recipes_strength_is_not_given_to_another_regularizer() -> None:
    recipe = (RECIPE, {"regularizer": "gta", "lam": 0.5})
    assert folded(recipe, (FLAGS, {"regularizer": "bss"})) == {"regularizer": {"bss": {}}}
    second = folded(recipe, (FLAGS, {"regularizer": ["bss", "gta"]}))
    assert second == {"regularizer": {"bss": {}, "gta": {"lam": 0.5}}}


def test_within_one_source_the_order_of_entries_does_not_matter() -> None:
    entries = [(ENV, {"lam": 0.5}), (ENV, {"regularizer": "l2-sp"})]
    bss = (FLAGS, {"regularizer": "bss"})
    assert folded(*entries, bss) == folded(*reversed(entries), bss) == {"regularizer": {"bss": {}}}


def test_strength_without_a_regularizer_is_kept_for_validation() -> None:
    assert folded((FLAGS, {"regularizer": "none", "lam": -1})) == {"regularizer": {}, "lam": -1}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("gtaa", "here: unknown regularizer 'gtaa'; did you mean 'gta'?"),
        ({"gtaa": {}}, "here: unknown regularizer 'gtaa'; did you mean 'gta'?"),
        (["gta", "none"], "here: regularizer: 'none' stands for no regularizer; leave it out"),
        (["gta", "gta:2"], "here: regularizer: 'gta' is given twice"),
        ([3], "here: regularizer: must be a regularizer's name, got 3"),
        ("", "here: regularizer: must be a regularizer's name, got ''"),
        ({"gta": 0.1}, "here: regularizer.gta: must be a table of options, got 0.1"),
    ],
)
def test_errors_name_the_source(asked: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        folded((RECIPE, {"regularizer": asked}))
    assert str(caught.value).startswith(message)


@pytest.mark.usefixtures("delta")
def test_a_plugins_regularizer_is_accepted_with_its_table() -> None:
    got = folded((RECIPE, {"regularizer": {"delta": {"layers": "last", "lam": 0.3}}}))
    assert got == {"regularizer": {"delta": {"layers": "last"}}, "lam": 0.3}
